"""What sinks of the server write, read by the others."""

import datetime
import json

import pyarrow as pa
import pyarrow.dataset
from deltalake import DeltaTable, write_deltalake

COLUMNS = "id, card, amount, d, at"


def _payments(readers, table):
    readers.session.run(
        f"CREATE TABLE {table} (id INT, card TEXT, amount NUMERIC(10,2), d DATE, at TIMESTAMPTZ) APPEND ONLY"
    )


def _insert(readers, table, first, count):
    readers.session.run(
        f"INSERT INTO {table} SELECT g, CASE WHEN g % 7 = 0 THEN NULL ELSE 'c ä' || g % 5 END, g / 8.0, "
        f"CASE WHEN g % 9 = 0 THEN NULL ELSE DATE '2026-01-01' + g % 3 END, TIMESTAMPTZ '2026-01-01 10:00:00+02' + g * INTERVAL '1 second' "
        f"FROM generate_series({first}, {first + count - 1}) AS g"
    )


def delta_sink(readers):
    """A delta sink partitioned by day, while deltalake writes to its table and compacts it."""
    place, session = readers.place("sunk"), readers.session
    _payments(readers, "sink_payments")
    session.run(
        f"CREATE SINK sunk FROM sink_payments WITH (connector = 'delta', location = '{place}', partition_by = 'd', commit_interval = '50 ms')"
    )
    total = 0
    for n in range(10):
        _insert(readers, "sink_payments", n * 100, 100)
        total += 100
        session.eventually(f"SELECT count(*) FROM read_delta('{place}')", total)
        if n == 3:
            DeltaTable(str(place)).optimize.compact()
        if n == 5:
            stranger = pa.table(
                {
                    "id": pa.array([-1], pa.int32()),
                    "card": ["theirs"],
                    "amount": pa.array([1], pa.decimal128(10, 2)),
                    "d": [datetime.date(2026, 5, 5)],
                    "at": pa.array([None], pa.timestamp("us", "UTC")),
                }
            )
            write_deltalake(place, stranger, mode="append", partition_by=["d"])
            total += 1
    expected = session.run(f"SELECT {COLUMNS} FROM sink_payments") + [
        (-1, "theirs", 1, datetime.date(2026, 5, 5), None)
    ]
    rows = readers.all_read(place, expected)
    sequence = session.value("SELECT acknowledged_sequence FROM millstream.sinks WHERE name = 'sunk'")
    transactions = [action["txn"]["version"] for action in _log(place) if "txn" in action]
    assert transactions == sorted(transactions) and transactions[-1] == sequence, (transactions, sequence)
    assert session.value("SELECT count(*) FROM millstream.sinks WHERE name = 'sunk' AND error IS NULL") == 1
    session.run("DROP SINK sunk")
    return f"{rows} rows, with one by deltalake and a compaction of its in between; {len(transactions)} application transactions up to {sequence}: {readers.names}"


def _log(place):
    for entry in sorted((place / "_delta_log").glob("*.json")):
        yield from map(json.loads, entry.read_text().splitlines())


def parquet_sink(readers):
    """A Parquet sink partitioned by day, read as files."""
    place, session = readers.place("files"), readers.session
    _payments(readers, "file_payments")
    session.run(
        f"CREATE SINK files FROM file_payments WITH (connector = 'parquet', location = '{place}/', partition_by = 'd', commit_interval = '50 ms')"
    )
    for n in range(5):
        _insert(readers, "file_payments", n * 100, 100)
    session.eventually("SELECT outbox_rows FROM millstream.sinks WHERE name = 'files'", 0)
    session.eventually("SELECT acknowledged_sequence FROM millstream.sinks WHERE name = 'files'", 500)
    expected = session.run(f"SELECT {COLUMNS} FROM file_payments")
    day = pa.dataset.partitioning(pa.schema([("d", pa.date32())]), flavor="hive")
    table = pa.dataset.dataset(place, format="parquet", partitioning=day).to_table().select(COLUMNS.split(", "))
    readers.same("files by pyarrow", [tuple(row.values()) for row in table.to_pylist()], expected)
    by = "pyarrow"
    if readers.duckdb:
        sql = f'SELECT id, card, amount, d, "at" FROM read_parquet("{place}/**/*.parquet", hive_partitioning = true, hive_types = {{d: DATE}})'
        readers.same("files by DuckDB", readers.duckdb.run(sql), expected)
        by += " and DuckDB"
    session.run("DROP SINK files")
    return f"{len(expected)} rows in {len(list(place.rglob('*.parquet')))} files: our table, {by}"


CHECKS = [delta_sink, parquet_sink]
