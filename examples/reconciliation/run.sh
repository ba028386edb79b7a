#!/usr/bin/env bash
# The reconciliation of README.md with made-up payments and planted breaks: makes them, runs the task for each day, and fails
# unless exactly the planted breaks are found.
#
#   examples/reconciliation/run.sh      50 million payments of 10 days, the release binary of `make build`
#   PAYMENTS=200000 DAYS=4 MILLSTREAM_BINARY=target/debug/millstream examples/reconciliation/run.sh
#
#   PAYMENTS (50000000), DAYS (10)   how many, in all and days; PAYMENTS must be a multiple of 20 * DAYS
#   ACCOUNTS (10007)                 3 * ACCOUNTS + 8 at most PAYMENTS / DAYS
#   LOAD_ROWS (500000)               payments of an INSERT
#   WORK_DIR                         where server and files are (a new folder in TMPDIR): 50 million payments take about 4 GB
#   KEEP=1                           leaves the folder there
#   MILLSTREAM_BINARY (bin/millstream)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
payments="${PAYMENTS:-50000000}" days="${DAYS:-10}" accounts="${ACCOUNTS:-10007}" load_rows="${LOAD_ROWS:-500000}"
binary="${MILLSTREAM_BINARY:-$here/../../bin/millstream}"

die() { echo "reconciliation: $*" >&2; exit 1; }
since() { awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN { print to - from }'; }
say() { printf '%7.1f s  %s\n' "$(since "$began")" "$*"; }

[ -x "$binary" ] || die "there is no $binary: run make build, or set MILLSTREAM_BINARY"
command -v psql >/dev/null || die "psql is missing: run dev/setup.sh build"
slot=$((payments / days / 20))
[ $((payments % (20 * days))) = 0 ] || die "PAYMENTS must be a multiple of 20 * DAYS"
[ "$slot" -ge 10 ] || die "PAYMENTS must be 200 * DAYS at least"
[ $((3 * accounts + 8)) -le $((payments / days)) ] || die "ACCOUNTS is too large for so few payments a day"
[ $((3 * accounts % slot)) != 0 ] || die "3 * ACCOUNTS must be no multiple of PAYMENTS / DAYS / 20"

dir="${WORK_DIR:-}"
if [ -n "$dir" ]; then
  mkdir -p "$dir"
  [ -z "$(ls -A "$dir")" ] || die "WORK_DIR $dir is not empty"
else
  dir="$(mktemp -d -t millstream-reconciliation.XXXXXX)"
fi
server=""
end() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
  if [ -n "${KEEP:-}" ]; then echo "reconciliation: left in $dir"; else rm -rf "$dir"; fi
}
trap end EXIT

# A loopback port that nobody listens on.
free_port() {
  local port
  while :; do
    port=$((12000 + RANDOM % 20000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
port="$(free_port)" http="$(free_port)"
client() { psql -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U millstream -d millstream "$@"; }
filled() {
  sed -e "s#\$DIR#$dir#g" -e "s#\$PAYMENTS#$payments#g" -e "s#\$DAYS#$days#g" -e "s#\$ACCOUNTS#$accounts#g" \
    -e "s#\$LOAD_ROWS#$load_rows#g" "$here/$1"
}

began="$(date +%s.%N)"
echo "reconciliation: $(date -u +%Y-%m-%d), $(nproc) processors, $(awk '/MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)," \
  "$(uname -sm), $("$binary" --version)"
"$binary" serve --data-dir "$dir/data" --listen "127.0.0.1:$port" --http "127.0.0.1:$http" >"$dir/log" 2>&1 &
server=$!
waited=0
until client -c 'SELECT 1' >/dev/null 2>&1; do
  kill -0 "$server" 2>/dev/null || die "the server ended: $(cat "$dir/log")"
  [ "$waited" -lt 600 ] || die "the server does not answer: $(cat "$dir/log")"
  sleep 0.1
  waited=$((waited + 1))
done

# A million at a time: generate_series holds its numbers in memory.
for ((from = 0; from < payments; from += 1000000)); do
  to=$((from + 1000000 < payments ? from + 999999 : payments - 1))
  echo "COPY (SELECT g FROM generate_series($from, $to) AS s (g)) TO '$dir/numbers/$(printf %012d "$from").parquet';"
done | client -f -
filled data.sql | client -f -
say "made $payments payments of $days days as files, the ledger, and $(client -c 'SELECT count(*) FROM planted') planted breaks"

filled setup.sql | client -f -
loading="$(date +%s.%N)"
for file in "$dir"/stream/*.parquet; do
  echo "INSERT INTO payments SELECT * FROM read_parquet('$file');"
done | client -f -
paid="$(client -c 'SELECT sum(payments) FROM totals')"
rate="$(awk -v n="$paid" -v s="$(since "$loading")" 'BEGIN { printf "%d", n / s }')"
say "loaded $paid payments, $rate/s; totals has $(client -c 'SELECT count(*) FROM totals') rows"

waited=0
until [ "$(client -c 'SELECT count(*) FROM events')" = "$paid" ]; do
  [ "$waited" -lt 3600 ] || die "the sink does not come to its end: $(client -c 'SELECT * FROM millstream.sinks')"
  sleep 1
  waited=$((waited + 1))
done
say "events has all of them"

for ((day = 1; day <= days; day++)); do
  client -c "EXECUTE TASK reconcile FOR TIMESTAMP '$(date -u -d "2026-01-01 + $day days" +%Y-%m-%d) 02:15+00'"
done
say "ran the task for $days days: $(client -c "SELECT 'each ' || round(min(extract(epoch FROM ended_at - started_at))::NUMERIC, 1) || ' to '
  || round(max(extract(epoch FROM ended_at - started_at))::NUMERIC, 1) || ' s' FROM millstream.task_runs WHERE task = 'reconcile'")"

wrong="$(client -f "$here/check.sql")"
[ -z "$wrong" ] || die "the breaks are not those that were planted:"$'\n'"$wrong"
# The day that is run again is replaced, not doubled.
client -c "EXECUTE TASK reconcile FOR TIMESTAMP '2026-01-02 02:15+00'"
wrong="$(client -f "$here/check.sql")"
[ -z "$wrong" ] || die "the breaks are not those that were planted once a day was run again:"$'\n'"$wrong"
say "exactly the $(client -c 'SELECT count(*) FROM breaks') planted breaks are found, also after a day was run again:"
client -F ' ' -c 'SELECT rpad(kind, 8), count(*) FROM breaks GROUP BY kind ORDER BY kind' | sed 's/^/             /'
say "the server's memory: $(awk '/VmHWM/ { printf "%.0f MiB at most", $2 / 1024 }' "/proc/$server/status"), files: $(du -sh "$dir" | cut -f1)"
