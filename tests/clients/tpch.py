"""The 22 queries of TPC-H over Parquet files at scale factor 1 (TPCH_SCALE): the same answers as DuckDB's.

The queries are those of the TPC-H specification with its validation parameters (tpch/); the data comes from tpchgen-cli and is
kept in the cache folder.
"""

import decimal
import os
import pathlib
import subprocess
import sys
import time

from common.checks import Checks
from common.server import Server

TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]
QUERIES = pathlib.Path(__file__).parent / "tpch"
# Averages and quotients are double precision in DuckDB.
TOLERANCE = 1e-9


def data(scale):
    """The folder of the tables' files."""
    folder = pathlib.Path(os.environ["MILLSTREAM_CACHE"]) / f"tpch-{scale}"
    if not (folder / "complete").exists():
        command = pathlib.Path(sys.executable).parent / "tpchgen-cli"
        subprocess.run([command, "parquet", "-s", scale, "--output-dir", folder], check=True, stdin=subprocess.DEVNULL)
        (folder / "complete").touch()
    return folder


def alike(found, expected):
    """Whether two values are one; char(n) is padded here."""
    if isinstance(found, decimal.Decimal | float) and isinstance(expected, decimal.Decimal | float):
        found, expected = float(found), float(expected)
        return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))
    if isinstance(found, str) and isinstance(expected, str):
        return found.rstrip() == expected.rstrip()
    return found == expected


def same_answer(query, client, duck):
    """The rows of a query in their order, ours and DuckDB's."""
    sql = query.read_text()
    began = time.monotonic()
    found = client.run(sql)
    took = time.monotonic() - began
    expected = duck.execute(sql).fetchall()
    assert len(found) == len(expected), f"{len(found)} rows, expected {len(expected)}"
    for row, (ours, theirs) in enumerate(zip(found, expected)):
        assert len(ours) == len(theirs) and all(map(alike, ours, theirs)), f"row {row}: {ours}, expected {theirs}"
    return f"{query.stem}: {len(found)} rows, {took:.2f} s"


def main():
    checks = Checks()
    scale = os.environ.get("TPCH_SCALE", "1")
    try:
        import duckdb

        folder = data(scale)
    except (ImportError, FileNotFoundError, subprocess.CalledProcessError) as error:
        checks.skip("tpch", f"{error}")
        checks.end()
    with Server() as server:
        client = server.connect()
        duck = duckdb.connect()
        for table in TABLES:
            file = folder / f"{table}.parquet"
            client.run(f"CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{file}'")
            duck.execute(f"CREATE VIEW {table} AS SELECT * FROM '{file}'")
        for query in sorted(QUERIES.glob("q*.sql")):
            checks.run(same_answer, query, client, duck)
    checks.end()


if __name__ == "__main__":
    main()
