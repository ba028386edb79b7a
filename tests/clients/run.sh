#!/usr/bin/env bash
# The tests with clients and systems of others: every *.py of this folder, each with a server that it starts.
#
#   tests/clients/run.sh [NAME...]     all of them, or delta for delta.py
#
# Python packages go into a virtual environment in the cache folder, by name from the registry that pip is set up for. What
# cannot be installed is told with pip's reason, and its checks are reported as skipped. MILLSTREAM_BINARY names a server that is built
# already; without it the debug binary is built.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
# shellcheck source=../../dev/env.sh
. dev/env.sh

packages=(deltalake==1.6.6 pyarrow 'psycopg[binary]' duckdb==1.5.5 duckdb-extension-delta==1.5.5 duckdb-extensions pytz tpchgen-cli)
venv="$MILLSTREAM_CACHE/clients-$(printf '%s\n' "${packages[@]}" | cksum | cut -d' ' -f1)"

say() { echo "clients: $*" >&2; }

make_venv() {
  command -v python3 >/dev/null || { say "python3 is missing: run dev/setup.sh clients"; exit 1; }
  mkdir -p "$MILLSTREAM_CACHE"
  # Two runs may come here at once; the second waits and then finds the work done.
  exec 9>"$MILLSTREAM_CACHE/clients.lock"
  flock 9
  if [ ! -f "$venv/.complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" || { say "python3 cannot make a virtual environment: run dev/setup.sh clients"; exit 1; }
    say "installing ${packages[*]} into $venv"
    local package
    for package in "${packages[@]}"; do
      "$venv/bin/pip" install --quiet --disable-pip-version-check "$package" </dev/null >"$venv/pip.log" 2>&1 ||
        echo "$package could not be installed: $(grep -v '^$' "$venv/pip.log" | tail -n 1)" >>"$venv/missing"
    done
    # With something missing, the next run tries again.
    [ -f "$venv/missing" ] || touch "$venv/.complete"
  fi
  flock -u 9
  exec 9>&-
}

make_venv
if [ -z "${MILLSTREAM_BINARY:-}" ]; then
  # As the tests build it: another command has other features of the dependencies, and would build them once more.
  cargo test --locked --test it --no-run
  MILLSTREAM_BINARY="$CARGO_TARGET_DIR/debug/millstream"
fi
export MILLSTREAM_BINARY PYTHONDONTWRITEBYTECODE=1
[ ! -f "$venv/missing" ] || sed 's/^/clients: /' "$venv/missing" >&2

status=0
for script in "$here"/*.py; do
  name="$(basename "$script" .py)"
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  say "$name"
  "$venv/bin/python" "$script" </dev/null || status=1
done
exit $status
