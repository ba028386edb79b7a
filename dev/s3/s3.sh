#!/usr/bin/env bash
# An S3 server on loopback for the tests: versitygw over a folder, whose subfolders are the buckets.
#
#   s3.sh resolve           build it from the Go module proxy into the cache folder (once)
#   s3.sh run DIR PORT      become the server (foreground); keys from S3_KEY_ID and S3_SECRET (test, testtest)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../env.sh
. "$here/../env.sh"

version=v1.8.0
bin="$MILLSTREAM_CACHE/s3/$version"

die() { echo "s3: $*" >&2; exit 1; }

resolve() {
  [ -x "$bin/versitygw" ] && return 0
  mkdir -p "$bin"
  # Two test runs may come here at once; the second waits and then finds the work done.
  exec 9>"$bin/.lock"
  flock 9
  if [ ! -x "$bin/versitygw" ]; then
    command -v go >/dev/null || die "go is missing: run dev/setup.sh, or install Go 1.25 or later (https://go.dev/dl)"
    echo "s3: building versitygw $version" >&2
    # A Go that is too old for it fetches the right one. Linked aside, then moved: never seen half written.
    GOTOOLCHAIN=auto GOBIN="$bin/new" CGO_ENABLED=0 go install "github.com/versity/versitygw/cmd/versitygw@$version" >"$bin/go.log" 2>&1 </dev/null ||
      { tail -n 20 "$bin/go.log" >&2; die "go could not build versitygw (log: $bin/go.log)"; }
    mv "$bin/new/versitygw" "$bin/versitygw"
  fi
  flock -u 9
  exec 9>&-
}

case "${1:-}" in
  resolve) resolve ;;
  run)
    resolve
    [ $# -eq 3 ] || die "usage: s3.sh run DIR PORT"
    mkdir -p "$2/buckets" "$2/meta"
    # What belongs to an object beside its bytes is kept in files: not every file system has extended attributes.
    exec "$bin/versitygw" --quiet --port "127.0.0.1:$3" --access "${S3_KEY_ID:-test}" --secret "${S3_SECRET:-testtest}" \
      --health /health posix --sidecar "$2/meta" "$2/buckets"
    ;;
  *) die "usage: s3.sh resolve | run DIR PORT" ;;
esac
