"""Delta tables with other systems: written here and read there, written there and changed here, and both at once.

Names of checks as arguments run these alone.
"""

import sys

from common.checks import Checks


def main(checks, only):
    """Runs all checks, or those that are named."""
    try:
        import deltalake

        from common.server import Server
        from lake import ours, refused, sinks, theirs, together
        from lake.readers import DuckDb, Readers
    except ImportError as error:
        checks.skip("delta", f"nothing is compared: {error}")
        return
    try:
        duckdb = DuckDb()
    except Exception as error:  # whatever keeps it from being used is told
        duckdb = None
        checks.skip("duckdb", f"nothing is compared with DuckDB: {error}")
    print(f"     deltalake {deltalake.__version__}, DuckDB {duckdb.version if duckdb else 'not there'}")
    with Server() as server:
        for module in (ours, theirs, refused, together, sinks):
            for check in module.CHECKS:
                if only and check.__name__ not in only:
                    continue
                if duckdb is None and getattr(check, "needs_duckdb", False):
                    checks.skip(check.__name__, "it needs DuckDB")
                else:
                    checks.run(check, Readers(server, duckdb))


if __name__ == "__main__":
    all_checks = Checks()
    main(all_checks, sys.argv[1:])
    all_checks.end()
