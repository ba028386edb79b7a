#!/usr/bin/env bash
# The batch benchmarks: benches/batch/batch.py over the release server, beside DuckDB, DataFusion and PostgreSQL.
#
#   benches/batch/run.sh [tpch] [daily] [points] [wide]     all of them without a name
#
# Python packages go into a virtual environment in the cache folder, by name from the registry that pip is set up for.
# MILLSTREAM_BINARY names a server that is built already; without it the release binary is built.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
# shellcheck source=../../dev/env.sh
. dev/env.sh

packages=(duckdb datafusion 'psycopg[binary]' tpchgen-cli)
venv="$MILLSTREAM_CACHE/bench-$(printf '%s\n' "${packages[@]}" | cksum | cut -d' ' -f1)"
if [ ! -f "$venv/.complete" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" </dev/null
  touch "$venv/.complete"
fi
if [ -z "${MILLSTREAM_BINARY:-}" ]; then
  cargo build --release --locked --bin millstream
  MILLSTREAM_BINARY="$CARGO_TARGET_DIR/release/millstream"
fi
export MILLSTREAM_BINARY PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$PWD/tests/clients"
exec "$venv/bin/python" "$here/batch.py" "$@"
