"""Delta tables with other systems: written here and read there, written there and changed here, and both at once.

Names of checks as arguments run these alone.
"""

import sys

import deltalake

from common.checks import Checks
from common.server import Server
from lake import ours, refused, sinks, theirs, together
from lake.readers import DuckDb, Readers

if __name__ == "__main__":
    checks = Checks()
    try:
        duckdb = DuckDb()
    except Exception as error:  # whatever keeps it from being used is told
        duckdb = None
        checks.skip("duckdb", f"nothing is compared with DuckDB: {error}")
    print(f"     deltalake {deltalake.__version__}, DuckDB {duckdb.version if duckdb else 'not there'}")
    with Server() as server:
        for check in ours.CHECKS + theirs.CHECKS + refused.CHECKS + together.CHECKS + sinks.CHECKS:
            if sys.argv[1:] and check.__name__ not in sys.argv[1:]:
                continue
            if duckdb is None and getattr(check, "needs_duckdb", False):
                checks.skip(check.__name__, "it needs DuckDB")
            else:
                checks.run(check, Readers(server, duckdb))
    checks.end()
