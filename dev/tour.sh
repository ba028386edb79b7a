#!/usr/bin/env bash
# The five-minute tour of README.md, run: prints the section with the real output of every block.
#
#   dev/tour.sh            run it and print the section
#   dev/tour.sh --write    put it into README.md
#
# The commands are README.md's own: its sh and sql blocks between the two "tour" comments are run in order, and the text
# block after each is what came out. Needs an empty server on MILLSTREAM_PORT (6565) and a broker on KAFKA_BOOTSTRAP
# (127.0.0.1:9092) without a topic "tour"; files go to TOUR_DIR (/tmp/tour). The section always says the defaults.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export KAFKA_BOOTSTRAP="${KAFKA_BOOTSTRAP:-127.0.0.1:9092}"
port="${MILLSTREAM_PORT:-6565}"
dir="${TOUR_DIR:-/tmp/tour}"

client() { psql -X -q -v ON_ERROR_STOP=1 -P pager=off -h 127.0.0.1 -p "$port" -U millstream millstream "$@" 2>&1; }

# What the text says -> what is there, and back.
here() { sed -e "s#127.0.0.1:9092#$KAFKA_BOOTSTRAP#g" -e "s#/tmp/tour#$dir#g"; }
there() { sed -e "s#$KAFKA_BOOTSTRAP#127.0.0.1:9092#g" -e "s#$dir#/tmp/tour#g" -e 's/[[:space:]]*$//'; }

# Waits until the views have what is in the topic.
settle() {
  local query waited=0
  query="SELECT (SELECT count(*) FROM millstream.sources WHERE status <> 'not read' AND coalesce(lag, 1) > 0)
    + (SELECT count(*) FROM millstream.views WHERE status <> 'running')"
  sleep 1
  until [ "$(client -A -t -c "$query")" = 0 ]; do
    [ "$waited" -lt 300 ] || { echo "tour: the views do not come to rest" >&2; exit 1; }
    sleep 0.1
    waited=$((waited + 1))
  done
}

run_block() {
  local kind="$1" body="$2" out
  settle
  if [ "$kind" = sh ]; then
    bash -euo pipefail -c "$(here <<<"$body")" >&2
  else
    out="$(here <<<"$body" | client -f - | there | sed -e '/./,$!d')" || { echo "tour: failed: $body" >&2; exit 1; }
    [ -z "$out" ] || printf '\n```text\n%s\n```\n' "$out"
  fi
}

section() {
  local line kind="" body="" skip="" blank=""
  while IFS= read -r line; do
    if [ -n "$kind" ]; then
      printf '%s\n' "$line"
      if [ "$line" = '```' ]; then run_block "$kind" "$body"; kind=""; else body+="$line"$'\n'; fi
    elif [ -n "$skip" ]; then
      [ "$line" != '```' ] || skip=""
    elif [ "$line" = '```text' ]; then
      # Old output; the blank line before it goes with it.
      skip=1 blank=""
    elif [ -z "$line" ]; then
      [ -z "$blank" ] || echo
      blank=1
    else
      [ -z "$blank" ] || echo
      blank=""
      case "$line" in '```sh' | '```sql') kind="${line#'```'}" body="" ;; esac
      printf '%s\n' "$line"
    fi
  done < <(awk '/^<!-- end of the tour/ { inside = 0 } inside; /^<!-- tour:/ { inside = 1 }' README.md)
  [ -z "$blank" ] || echo
}

mkdir -p "$dir"
text="$(section; echo .)"
text="${text%.}"
if [ "${1:-}" = --write ]; then
  {
    sed '/^<!-- tour:/q' README.md
    printf '%s' "$text"
    sed -n '/^<!-- end of the tour/,$p' README.md
  } >README.md.new
  mv README.md.new README.md
else
  printf '%s' "$text"
fi
