"""Tables that the server writes, read by the others."""

import datetime
import decimal
import math
import time

import pyarrow as pa
from deltalake import DeltaTable

from lake.readers import deltalake_rows

UTC = datetime.timezone.utc
ODD_TEXTS = [
    "plain", "a b", " both ", "a/b", "a\\b", "a=b", "100%", "%41", "ä ö ß", "☃ 雪 🐘", "it's", 'say "so"', "a:b;c,d", "q?x#y&z",
    "tab\there", "line\nend", "..", "{x}", "[x]", "*", "~", "$HOME", "a+b", "NULL", "null",
]  # fmt: skip


def quoted(text):
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def every_type(readers):
    """A row of extremes, a row of usual values, a row of NULLs in every type that Delta tables have."""
    place, session = readers.place("types"), readers.session
    session.run(
        "CREATE EXTERNAL TABLE types (id INT NOT NULL, b BOOL, i2 SMALLINT, i4 INT, i8 BIGINT, f4 REAL, f8 DOUBLE PRECISION, "
        "n NUMERIC(38,10), m NUMERIC(5,0), t TEXT, v VARCHAR(10), c CHAR(4), x BYTEA, d DATE, ts TIMESTAMP, tz TIMESTAMPTZ, "
        f"a INT[], ta TEXT[]) STORED AS DELTA LOCATION '{place}'"
    )
    session.run(
        "INSERT INTO types VALUES "
        "(1, true, -32768, -2147483648, -9223372036854775808, 1.5, 'NaN', -1234567890123456789012345678.0123456789, 99999, "
        "E'q''u\"\\n\\tö☃', 'vvvvvvvvvv', 'cc', '\\x00ff7f', '0001-01-01', '1582-10-15 00:00:00.000001', "
        "'9999-12-31 23:59:59.999999+00', ARRAY[1, NULL, -1], ARRAY['a', '', NULL]), "
        "(2, false, 32767, 2147483647, 9223372036854775807, '-Infinity', 1e300, 0.0000000001, -99999, '', '', '', '\\x', "
        "'9999-12-31', '2026-03-29 01:30:00', '2026-03-29 01:30:00+02', '{}', '{}')"
    )
    session.run("INSERT INTO types (id) VALUES (3)")
    number = decimal.Decimal
    expected = [
        (
            1, True, -32768, -(2**31), -(2**63), 1.5, math.nan, number("-1234567890123456789012345678.0123456789"),
            number(99999), "q'u\"\n\tö☃", "vvvvvvvvvv", "cc  ", b"\x00\xff\x7f", datetime.date(1, 1, 1),
            datetime.datetime(1582, 10, 15, 0, 0, 0, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
            [1, None, -1], ["a", "", None],
        ),
        (
            2, False, 32767, 2**31 - 1, 2**63 - 1, -math.inf, 1e300, number("0.0000000001"), number(-99999), "", "", "    ",
            b"", datetime.date(9999, 12, 31), datetime.datetime(2026, 3, 29, 1, 30),
            datetime.datetime(2026, 3, 28, 23, 30, tzinfo=UTC), [], [],
        ),
        (3,) + (None,) * 17,
    ]  # fmt: skip
    rows = readers.all_read(place, expected)
    columns = len(DeltaTable(str(place)).schema().fields)
    return f"{rows} rows of {columns} types, extremes and NULLs, as they were written: {readers.names}"


def nested_records(readers):
    """Records in columns, made from JSON lines."""
    place, session = readers.place("nested"), readers.session
    lines = readers.folder / "nested.json"
    lines.write_text('{"id": 1, "r": {"x": 1, "y": "a"}}\n{"id": 2, "r": null}\n{"id": 3, "r": {"x": null, "y": "ö"}}\n')
    session.run(
        f"CREATE EXTERNAL TABLE nested_lines (id INT, r STRUCT<x INT, y TEXT>) STORED AS JSON LOCATION '{lines}'"
    )
    session.run(f"CREATE EXTERNAL TABLE nested STORED AS DELTA LOCATION '{place}' AS SELECT * FROM nested_lines")
    sql = "SELECT id, (r).x, (r).y, r IS NULL FROM "
    ours = session.run(sql + "nested")
    theirs = [
        (row["id"], (row["r"] or {}).get("x"), (row["r"] or {}).get("y"), row["r"] is None)
        for row in DeltaTable(str(place)).to_pyarrow_table().to_pylist()
    ]
    readers.same("records read by deltalake", theirs, ours)
    if readers.duckdb:
        found = readers.duckdb.run(f"SELECT id, r.x, r.y, r IS NULL FROM delta_scan('{place}')")
        readers.same("records read by DuckDB", found, ours)
    return f"{len(ours)} rows, one NULL record, one with a NULL in it: {readers.names}"


def partitions_of_every_type(readers):
    """Partitions by columns of every type, with NULLs and texts that paths cannot have as they are."""
    session, total = readers.session, 0
    values = {
        "BOOL": ["true", "false"],
        "SMALLINT": ["-1", "32767"],
        "INT": ["0", "-2147483648"],
        "BIGINT": ["9223372036854775807", "-1"],
        "REAL": ["1.5", "-0.25"],
        "DOUBLE PRECISION": ["1e100", "-0.1", "'NaN'"],
        "NUMERIC(10,2)": ["0.05", "1.50", "12345678.90"],
        "DATE": ["'2026-01-31'", "'1969-12-31'", "'0001-01-01'", "'9999-12-31'"],
        "TIMESTAMP": ["'2026-01-31 10:00:00'", "'1969-12-31 23:59:59.999999'"],
        "TIMESTAMPTZ": ["'2026-01-31 10:00:00+02'", "'1969-12-31 23:59:59.000001+00'"],
        "TEXT": [quoted(text) for text in ODD_TEXTS],
    }
    for number, (sql_type, of_type) in enumerate(values.items()):
        place = readers.place(f"by{number}")
        table = f"by{number}"
        session.run(
            f"CREATE EXTERNAL TABLE {table} (id INT, k {sql_type}, n INT) STORED AS DELTA LOCATION '{place}' PARTITIONED BY (k)"
        )
        rows = [f"({id}, {value}, 1)" for id, value in enumerate(of_type + ["NULL"])]
        session.run(f"INSERT INTO {table} VALUES {', '.join(rows)}")
        expected = session.run(f"SELECT i, k::{sql_type}, 1 FROM (VALUES {', '.join(rows)}) AS v (i, k, n)")
        readers.all_read(place, expected)
        # Each partition is found by its value, and can be changed.
        for id, value in enumerate(of_type):
            if value != "'NaN'":
                found = session.run(f"SELECT id FROM {table} WHERE k = CAST({value} AS {sql_type})")
                assert found == [(id,)], f"{found} for {sql_type} {value}"
        session.run(f"UPDATE {table} SET n = n + id")
        changed = [(id, k, n + id) for id, k, n in expected]
        total += readers.all_read(place, changed)
    return f"{total} partitions of {len(values)} types, NULL among each, before and after an UPDATE: {readers.names}"


def partitions_of_negative_numerics(readers):
    """Negative numerics as partitions. deltalake 1.6.6 cannot read them, nor those of its own: it makes 0.-5 of -0.05."""
    place, session = readers.place("negative"), readers.session
    session.run(
        f"CREATE EXTERNAL TABLE negative (id INT, k NUMERIC(10,2)) STORED AS DELTA LOCATION '{place}' PARTITIONED BY (k)"
    )
    session.run("INSERT INTO negative VALUES (1, -0.05), (2, -1.50), (3, -123.45)")
    expected = [(1, decimal.Decimal("-0.05")), (2, decimal.Decimal("-1.50")), (3, decimal.Decimal("-123.45"))]
    readers.same("our SELECT", session.run("SELECT * FROM negative"), expected)
    readers.same("DuckDB", readers.duckdb.rows(place), expected)
    try:
        readers.same("deltalake", deltalake_rows(place), expected)
    except pa.ArrowInvalid as error:
        assert ".-" in str(error), error
        return f"{len(expected)} partitions: our SELECT and DuckDB; not deltalake, whose own error it is: {error}"
    return f"{len(expected)} partitions: {readers.names}"


partitions_of_negative_numerics.needs_duckdb = True


def every_change(readers):
    """INSERT, INSERT OVERWRITE, UPDATE, DELETE, MERGE, OPTIMIZE, ZORDER, TRUNCATE: each of its versions."""
    place, session = readers.place("changed"), readers.session
    session.run(
        f"CREATE EXTERNAL TABLE changed (id INT, name TEXT, n NUMERIC(12,2), d DATE) STORED AS DELTA LOCATION '{place}' PARTITIONED BY (d)"
    )
    changes = [
        "INSERT INTO changed SELECT g, 'n' || g, g / 4.0, DATE '2026-01-01' + g % 5 FROM generate_series(1, 500) AS g",
        "INSERT INTO changed VALUES (1001, NULL, NULL, NULL)",
        "UPDATE changed SET name = name || '!', n = -n WHERE id % 7 = 0",
        "UPDATE changed SET d = '2026-02-01' WHERE id % 50 = 0",
        "DELETE FROM changed WHERE id % 3 = 0",
        "DELETE FROM changed WHERE d = '2026-01-02'",
        "INSERT OVERWRITE changed PARTITION (d = DATE '2026-01-03') (id, name) SELECT g, 'new' FROM generate_series(1, 9) AS g",
        "INSERT OVERWRITE changed PARTITION (d = DATE '2026-01-04') (id) SELECT 1 WHERE false",
        "MERGE INTO changed t USING (SELECT g AS id, 'merged' AS name FROM generate_series(1, 600, 20) AS g) s ON t.id = s.id "
        "AND t.d = '2026-01-01' WHEN MATCHED THEN UPDATE SET name = s.name WHEN NOT MATCHED THEN INSERT (id, name, d) "
        "VALUES (s.id, s.name, '2026-03-01')",
        "MERGE INTO changed t USING (VALUES (1001)) AS s (id) ON t.id = s.id WHEN MATCHED THEN DELETE",
        "INSERT INTO changed VALUES (2001, 'x', 1, '2026-01-01')",
        "INSERT INTO changed VALUES (2002, 'y', 2, '2026-01-01')",
        "OPTIMIZE changed",
        "OPTIMIZE changed ZORDER BY (id, n)",
        "INSERT OVERWRITE changed PARTITION (d) VALUES (3001, 'z', 3, '2026-01-01'::date)",
        "TRUNCATE changed",
        "INSERT OVERWRITE changed SELECT 1, 'last', 0, NULL",
    ]
    kept = [[]]
    for sql in changes:
        session.run(sql)
        readers.agree(place)
        at = DeltaTable(str(place)).version()
        # OPTIMIZE may find nothing to do; nothing else is without a version.
        assert at >= len(kept) - 1
        kept[len(kept) :] = [session.run("SELECT * FROM changed")] * (at + 1 - len(kept))
    assert len(kept) >= len(changes), f"{len(kept)} versions of {len(changes)} statements"
    rows = sum(readers.all_read(place, expected, version) for version, expected in enumerate(kept))
    history = [entry["operation"] for entry in DeltaTable(str(place)).history()]
    for operation in ["CREATE TABLE", "WRITE", "UPDATE", "DELETE", "MERGE", "OPTIMIZE"]:
        assert operation in history, f"no {operation} in the history: {history}"
    return f"{len(kept)} versions of {len(changes)} statements, {rows} rows in all, as each was right after it: {readers.names}"


def past_moments(readers):
    """TIMESTAMP AS OF moments between versions."""
    place, session = readers.place("moments"), readers.session
    session.run(f"CREATE EXTERNAL TABLE moments (id INT) STORED AS DELTA LOCATION '{place}'")
    seen = []
    for n in range(4):
        session.run(f"INSERT INTO moments VALUES ({n})")
        time.sleep(0.1)
        seen.append((datetime.datetime.now(UTC), n + 1))
        time.sleep(0.1)
    for moment, rows in seen:
        found = session.run(f"SELECT id FROM moments TIMESTAMP AS OF '{moment.isoformat()}'")
        assert len(found) == rows, f"{len(found)} rows instead of {rows} at {moment}"
        table = DeltaTable(str(place))
        table.load_as_version(moment)
        readers.same(f"the table at {moment}", table.to_pyarrow_table()["id"].to_pylist(), [id for [id] in found])
    return f"{len(seen)} moments: our SELECT and deltalake's load_as_version"


def appends_with_checkpoints(readers):
    """120 appends, so that checkpoints are written and read."""
    place, session = readers.place("appended"), readers.session
    session.run(
        f"CREATE EXTERNAL TABLE appended (id INT, d DATE, x BYTEA, at TIMESTAMPTZ) STORED AS DELTA LOCATION '{place}' PARTITIONED BY (d)"
    )
    for n in range(120):
        session.run(
            f"INSERT INTO appended VALUES ({n}, {'NULL' if n % 10 == 0 else quoted(f'2026-01-{n % 10:02}')}, '\\x{n:02x}', now())"
        )
    checkpoints = sorted((place / "_delta_log").glob("*.checkpoint.parquet"))
    assert checkpoints, "no checkpoint was written"
    # What is in the checkpoint alone must do, also for a reader that has never seen the table.
    last = int(checkpoints[-1].name.split(".")[0])
    for entry in (place / "_delta_log").glob("*.json"):
        if entry.name[0].isdigit() and int(entry.stem) < last:
            entry.unlink()
    rows = readers.agree(place)
    assert rows == 120, rows
    assert session.value("SELECT sum(id) FROM appended WHERE d IS NOT NULL") == sum(n for n in range(120) if n % 10)
    readers.agree(place, 120)
    return f"{rows} rows of 120 appends, {len(checkpoints)} checkpoints, the log before the last of them removed: {readers.names}"


def vacuumed(readers):
    """What VACUUM leaves is enough for the newest version."""
    place, session = readers.place("vacuumed"), readers.session
    session.run(
        f"CREATE EXTERNAL TABLE vacuumed (id INT, k TEXT) STORED AS DELTA LOCATION '{place}' PARTITIONED BY (k) "
        "OPTIONS ('delta.deletedFileRetentionDuration' 'interval 0 seconds')"
    )
    session.run("INSERT INTO vacuumed VALUES (1, 'a b'), (2, 'ö/%')")
    session.run("UPDATE vacuumed SET id = id + 10")
    before = len(list(place.rglob("*.parquet")))
    session.run("VACUUM vacuumed RETAIN 0 HOURS")
    after = len(list(place.rglob("*.parquet")))
    rows = readers.agree(place)
    assert (rows, before, after) == (2, 4, 2), (rows, before, after)
    return f"{rows} rows after {before - after} of {before} files were removed: {readers.names}"


CHECKS = [
    every_type, nested_records, partitions_of_every_type, partitions_of_negative_numerics, every_change, past_moments, appends_with_checkpoints, vacuumed,
]  # fmt: skip
