#!/usr/bin/env bash
# A real single-node Apache Kafka (KRaft) on loopback, from its Maven artifacts.
#
#   kafka.sh resolve                            copy the jars into the cache folder (needs Maven and its registry once)
#   kafka.sh run DIR PORT CONTROLLER_PORT       format DIR if it is new, then become the broker (foreground); of a cluster
#                                               every member is given the same CONTROLLER_PORT and a node.id of its own
#   kafka.sh start [DIR]                        start in the background on KAFKA_BOOTSTRAP (127.0.0.1:9092), wait until ready
#   kafka.sh stop                               stop what `start` started
#   kafka.sh topic NAME [PARTITIONS]            make a topic (of 1 partition)
#   kafka.sh produce TOPIC                      send the lines of standard input
#
# KAFKA_BOOTSTRAP=HOST:PORT: `start` uses a broker that already answers there and starts none; `topic` and `produce` talk
# to it.
# KAFKA_HEAP (512m) is the Java heap; KAFKA_PROPERTIES are more lines of the broker's configuration.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../env.sh
. "$here/../env.sh"

home="$MILLSTREAM_CACHE/kafka"
lib="$home/lib-$(cksum <"$here/pom.xml" | cut -d' ' -f1)"

say() { echo "kafka: $*" >&2; }
die() { say "$*"; exit 1; }

resolve() {
  [ -f "$lib/.complete" ] && return 0
  mkdir -p "$home"
  command -v mvn >/dev/null || die "maven is missing: run dev/setup.sh"
  # Two test runs may come here at once; the second waits and then finds the work done.
  exec 9>"$home/.lock"
  flock 9
  if [ ! -f "$lib/.complete" ]; then
    say "copying Apache Kafka from its Maven artifacts to $lib"
    rm -rf "$lib"
    mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$lib" >"$home/maven.log" 2>&1 </dev/null ||
      { tail -n 20 "$home/maven.log" >&2; die "maven could not fetch Apache Kafka (log: $home/maven.log)"; }
    touch "$lib/.complete"
  fi
  flock -u 9
  exec 9>&-
}

java_of() {
  local java="${JAVA_HOME:+$JAVA_HOME/bin/}java" major
  command -v "$java" >/dev/null || java=java
  command -v "$java" >/dev/null || die "java is missing: run dev/setup.sh"
  major="$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)"
  [ "${major:-0}" -ge 17 ] || die "Kafka 4 needs Java 17 or later, found ${major:-none}: run dev/setup.sh"
  echo "$java"
}

# One partition and one replica for every internal topic: a test broker must be ready in seconds, not be available.
properties() {
  local dir="$1" port="$2" controller_port="$3"
  cat <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:$controller_port
log.dirs=$dir/data
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
delete.topic.enable=true
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
background.threads=2
log.segment.bytes=134217728
log.cleaner.dedupe.buffer.size=16777216
log.retention.hours=24
controlled.shutdown.enable=false
${KAFKA_PROPERTIES:-}
PROPERTIES
}

logging() {
  cat <<XML
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <File name="file" fileName="$1/broker.log"><PatternLayout pattern="%d %p %c: %m%n"/></File>
  </Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
XML
}

run() {
  [ $# -eq 3 ] || die "usage: kafka.sh run DIR PORT CONTROLLER_PORT"
  local dir="$1" port="$2" controller_port="$3" java
  resolve
  java="$(java_of)"
  mkdir -p "$dir/data"
  dir="$(cd "$dir" && pwd)"
  properties "$dir" "$port" "$controller_port" >"$dir/server.properties"
  logging "$dir" >"$dir/log4j2.xml"
  # The tests want a small process, the benchmarks what Kafka's own start script sets: short pauses.
  local collector=(-XX:+UseSerialGC)
  [ "${KAFKA_SHORT_PAUSES:-}" = 1 ] &&
    collector=(-XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35)
  local options=("${collector[@]}" -XX:TieredStopAtLevel="${KAFKA_JIT_LEVEL:-4}" -Xshare:auto -Dlog4j2.configurationFile="$dir/log4j2.xml" -cp "$lib/*")
  if [ ! -f "$dir/data/meta.properties" ]; then
    # The controller is the quorum; a broker beside it has no part in that. Of two lines for one setting the last counts.
    local quorum=(--standalone)
    [ "$(sed -n 's/^process.roles=//p' "$dir/server.properties" | tail -n 1)" != broker ] || quorum=()
    "$java" -Xmx128m -XX:TieredStopAtLevel=1 "${options[@]}" kafka.tools.StorageTool format "${quorum[@]}" \
      -t MillstreamTestBroker00 -c "$dir/server.properties" >"$dir/format.log" 2>&1 </dev/null ||
      { cat "$dir/format.log" >&2; die "could not format $dir/data"; }
  fi
  exec "$java" "-Xmx${KAFKA_HEAP:-512m}" "${options[@]}" kafka.Kafka "$dir/server.properties" </dev/null
}

answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# The controller's port: the one that DIR was formatted with (it is part of the quorum's record), else a free one above $2.
controller_port() {
  local port
  if [ -f "$1/server.properties" ]; then
    port="$(sed -n 's/^controller.quorum.bootstrap.servers=.*://p' "$1/server.properties")"
  else
    port=$(($2 + 1))
    while answers 127.0.0.1 "$port"; do port=$((port + 1)); done
  fi
  echo "$port"
}

running() { [ -f "$home/broker.pid" ] && kill -0 "$(cat "$home/broker.pid")" 2>/dev/null; }

start() {
  local bootstrap="${KAFKA_BOOTSTRAP:-127.0.0.1:9092}" dir="${1:-$home/broker}" host port waited=0
  host="${bootstrap%%:*}"
  port="${bootstrap##*:}"
  if running; then say "already running on $(cat "$home/broker.address")"; return 0; fi
  if answers "$host" "$port"; then say "a broker answers on $bootstrap already; using it"; return 0; fi
  case "$host" in 127.0.0.1|localhost) ;; *) die "nothing answers on $bootstrap";; esac
  resolve
  mkdir -p "$dir"
  setsid nohup "$0" run "$dir" "$port" "$(controller_port "$dir" "$port")" >"$dir/out.log" 2>&1 </dev/null &
  echo $! >"$home/broker.pid"
  echo "$bootstrap" >"$home/broker.address"
  until answers 127.0.0.1 "$port"; do
    running || { tail -n 20 "$dir/out.log" "$dir/broker.log" >&2 || true; rm -f "$home/broker.pid"; die "the broker ended while starting"; }
    [ "$waited" -lt 600 ] || { stop; die "no answer on $bootstrap after 60 s (log: $dir/broker.log)"; }
    sleep 0.1
    waited=$((waited + 1))
  done
  say "Apache Kafka is ready on $bootstrap (data: $dir; stop it with: make kafka-stop)"
}

stop() {
  if ! running; then say "not running"; rm -f "$home/broker.pid"; return 0; fi
  local pid waited=0
  pid="$(cat "$home/broker.pid")"
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do
    [ "$waited" -lt 150 ] || { kill -9 "$pid" 2>/dev/null || true; break; }
    sleep 0.1
    waited=$((waited + 1))
  done
  rm -f "$home/broker.pid"
  say "stopped"
}

# One of Kafka's own command-line tools.
tool() {
  local class="$1" java
  shift
  resolve
  java="$(java_of)"
  "$java" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Dlog4j2.level=ERROR -cp "$lib/*" \
    "org.apache.kafka.tools.$class" --bootstrap-server "${KAFKA_BOOTSTRAP:-127.0.0.1:9092}" "$@"
}

topic() {
  [ $# -ge 1 ] || die "usage: kafka.sh topic NAME [PARTITIONS]"
  tool TopicCommand --create --topic "$1" --partitions "${2:-1}" </dev/null >/dev/null
}

produce() {
  [ $# -eq 1 ] || die "usage: kafka.sh produce TOPIC"
  tool ConsoleProducer --topic "$1"
}

case "${1:-}" in
  resolve) resolve ;;
  run) shift; run "$@" ;;
  start) shift; start "$@" ;;
  stop) stop ;;
  topic) shift; topic "$@" ;;
  produce) shift; produce "$@" ;;
  *) die "usage: kafka.sh resolve | run DIR PORT CONTROLLER_PORT | start [DIR] | stop | topic NAME [PARTITIONS] | produce TOPIC" ;;
esac
