#!/usr/bin/env bash
# The tests with clients and systems of others: every *.py of this folder, each with a server that it starts.
#
#   tests/clients/run.sh [NAME...]     all of them, or delta for delta.py
#   tests/clients/run.sh install [NAME...]   only what they need
#
# What they need goes into the cache folder, by name from the registries that pip, npm, go and mvn are set up for. What cannot be
# installed is told with the reason, and its checks are reported as skipped. MILLSTREAM_BINARY names a server that is built
# already; without it the debug binary is built.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
# shellcheck source=../../dev/env.sh
. dev/env.sh

say() { echo "clients: $*" >&2; }

# The Python packages of a script.
packages_of() {
  case "$1" in
    delta | tpch) echo deltalake==1.6.6 pyarrow 'psycopg[binary]' duckdb==1.5.5 duckdb-extension-delta==1.5.5 duckdb-extensions pytz tpchgen-cli ;;
    # dbt-core from 1.12 on fetches a part of itself from a place that is no registry.
    dbt_postgres) echo 'psycopg[binary]' dbt-core==1.10.23 dbt-postgres==1.10.2 ;;
    analysts) echo 'psycopg[binary]' SQLAlchemy pandas pyarrow adbc-driver-postgresql pgcli ;;
    *) echo 'psycopg[binary]' psycopg-pool SQLAlchemy ;;
  esac
}

# Makes the environment of a script, unless it is there.
make_venv() {
  local packages venv package
  read -ra packages <<<"$(packages_of "$1")"
  venv="$MILLSTREAM_CACHE/clients-$(printf '%s\n' "${packages[@]}" | cksum | cut -d' ' -f1)"
  command -v python3 >/dev/null || { say "python3 is missing: run dev/setup.sh clients"; exit 1; }
  if [ ! -f "$venv/.complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" || { say "python3 cannot make a virtual environment: run dev/setup.sh clients"; exit 1; }
    say "installing ${packages[*]} into $venv"
    for package in "${packages[@]}"; do
      "$venv/bin/pip" install --quiet --disable-pip-version-check "$package" </dev/null >"$venv/pip.log" 2>&1 ||
        echo "$package could not be installed: $(grep -v '^$' "$venv/pip.log" | tail -n 1)" >>"$venv/missing"
    done
    # With something missing, the next run tries again.
    [ -f "$venv/missing" ] || touch "$venv/.complete"
  fi
  [ ! -f "$venv/missing" ] || sed 's/^/clients: /' "$venv/missing" >&2
  python="$venv/bin/python"
}

# fetch TOOL FOLDER COMMAND...: runs the command in a new folder of the cache, which is named after what it is made of; says why not.
fetch() {
  local tool="$1" folder="$2" log="$MILLSTREAM_CACHE/clients-$1.log"
  shift 2
  [ ! -f "$folder/.complete" ] || return 0
  command -v "$tool" >/dev/null || { skip="$tool is missing: run dev/setup.sh clients"; return 0; }
  rm -rf "$folder"
  mkdir -p "$folder"
  say "$* (into $folder)"
  if (cd "$folder" && "$@") >"$log" 2>&1 </dev/null; then
    touch "$folder/.complete"
  else
    skip="$tool could not install it: $(grep -im 1 error "$log" || grep -v '^$' "$log" | tail -n 1)"
  fi
}

sum_of() { cat "$@" | cksum | cut -d' ' -f1; }

# What a script needs beside Python.
make_rest() {
  skip=
  case "$1" in
    node_postgres)
      MILLSTREAM_NODE="$MILLSTREAM_CACHE/clients-node-$(sum_of "$here/node/package.json" "$here/node/checks.js")"
      export MILLSTREAM_NODE
      fetch npm "$MILLSTREAM_NODE" bash -c "cp '$here/node/package.json' '$here/node/checks.js' . && npm install --no-audit --no-fund --no-package-lock --loglevel=error"
      command -v node >/dev/null || skip="node is missing: run dev/setup.sh clients"
      ;;
    pgx)
      local built
      built="$MILLSTREAM_CACHE/clients-pgx-$(sum_of "$here/go/go.mod" "$here/go/main.go")"
      export MILLSTREAM_PGX="$built/pgx"
      fetch go "$built" env GOTOOLCHAIN=auto CGO_ENABLED=0 go build -C "$here/go" -o "$built/pgx" .
      ;;
    pgjdbc)
      MILLSTREAM_PGJDBC="$MILLSTREAM_CACHE/clients-pgjdbc-$(sum_of "$here/java/pom.xml")"
      export MILLSTREAM_PGJDBC
      fetch mvn "$MILLSTREAM_PGJDBC" mvn -B -q -f "$here/java/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$MILLSTREAM_PGJDBC"
      java --list-modules 2>/dev/null | grep -q '^jdk.compiler' || skip="java has no compiler: run dev/setup.sh clients"
      ;;
  esac
  export MILLSTREAM_SKIP="$skip"
}

# prepare NAME: all that a script needs; sets python and MILLSTREAM_SKIP.
prepare() {
  mkdir -p "$MILLSTREAM_CACHE"
  # Two runs may come here at once; the second waits and then finds the work done.
  exec 9>"$MILLSTREAM_CACHE/clients.lock"
  flock 9
  make_venv "$1"
  make_rest "$1"
  flock -u 9
  exec 9>&-
}

only_install=
if [ "${1:-}" = install ]; then
  only_install=1
  shift
elif [ -z "${MILLSTREAM_BINARY:-}" ]; then
  # As the tests build it: another command has other features of the dependencies, and would build them once more.
  cargo test --locked --test it --no-run
  MILLSTREAM_BINARY="$CARGO_TARGET_DIR/debug/millstream"
fi
export MILLSTREAM_BINARY PYTHONDONTWRITEBYTECODE=1

status=0
for script in "$here"/*.py; do
  name="$(basename "$script" .py)"
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  prepare "$name"
  [ -z "$only_install" ] || continue
  say "$name"
  "$python" "$script" </dev/null || status=1
done
exit $status
