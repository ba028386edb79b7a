"""Tables that the deltalake package or DuckDB writes, read and changed by the server, then read by the others again."""

import datetime
import decimal

import pyarrow as pa
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from lake.ours import ODD_TEXTS

UTC = datetime.timezone.utc
DAY = datetime.date(2026, 1, 1)


def payments(ids, note="x"):
    """Rows of a table of payments as Arrow."""
    ids = list(ids)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "note": pa.array([None if id % 11 == 0 else f"{note}{id}" for id in ids], pa.string()),
            "amount": pa.array([decimal.Decimal(id) / 4 for id in ids], pa.decimal128(12, 2)),
            "d": pa.array([None if id % 13 == 0 else DAY + datetime.timedelta(id % 4) for id in ids], pa.date32()),
        }
    )


def types_of_arrow(readers):
    """Every type that deltalake writes and we have."""
    place, session = readers.place("arrow"), readers.session
    moment = datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)
    table = pa.table(
        {
            "b": pa.array([True, None]),
            "i1": pa.array([-128, None], pa.int8()),
            "i2": pa.array([-32768, None], pa.int16()),
            "i4": pa.array([2**31 - 1, None], pa.int32()),
            "i8": pa.array([-(2**63), None], pa.int64()),
            "f4": pa.array([float("nan"), None], pa.float32()),
            "f8": pa.array([-float("inf"), None], pa.float64()),
            "n": pa.array([decimal.Decimal("-1.23"), None], pa.decimal128(38, 2)),
            "t": pa.array(["ö\n'\"", None], pa.large_string()),
            "w": pa.array(["view", None], pa.string_view()),
            "x": pa.array([b"\x00\xff", None], pa.binary()),
            "d": pa.array([datetime.date(1, 1, 1), None], pa.date32()),
            "ts": pa.array([moment, None], pa.timestamp("us")),
            "tz": pa.array([moment.replace(tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "a": pa.array([[1, None], None], pa.list_(pa.int32())),
            "e": pa.array(["dictionary", None]).dictionary_encode(),
        }
    )
    write_deltalake(place, table)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    readers.all_read(place, rows)
    session.run(f"CREATE EXTERNAL TABLE arrow STORED AS DELTA LOCATION '{place}'")
    session.run("INSERT INTO arrow SELECT * FROM arrow WHERE b")
    session.run("INSERT INTO arrow (i1) VALUES (127)")
    readers.all_read(place, rows + rows[:1] + [(None, 127) + (None,) * 14])
    # Our type for a byte is wider than Delta's.
    error = session.error("INSERT INTO arrow (i1) VALUES (128)")
    assert error.startswith("22003"), error
    count = readers.all_read(place, rows + rows[:1] + [(None, 127) + (None,) * 14])
    return f"{count} rows of {len(table.schema)} types of Arrow, half of them inserted by us, a byte of 128 refused: {readers.names}"


def maps_are_refused(readers):
    """A column of a type that we do not have is named, and nothing is read."""
    place = readers.place("maps")
    kind = pa.map_(pa.string(), pa.int32())
    write_deltalake(place, pa.table({"id": [1], "m": pa.array([[("a", 1)]], kind)}))
    error = readers.session.error(f"SELECT * FROM read_delta('{place}')")
    assert error.startswith("0A000") and '"m"' in error, error
    return f"a table with a map: {error}"


def written_in_turns(readers):
    """deltalake and we write in turns: appends, overwrites, updates, deletes, merges, compaction, checkpoints."""
    place, session = readers.place("turns"), readers.session
    write_deltalake(place, payments(range(200)), partition_by=["d"])
    session.run(f"CREATE EXTERNAL TABLE turns STORED AS DELTA LOCATION '{place}'")
    table = lambda: DeltaTable(str(place))
    merge_source = payments(range(150, 230), "merged")
    turns = [
        lambda: session.run("UPDATE turns SET note = note || '!' WHERE id % 5 = 0"),
        lambda: write_deltalake(place, payments(range(200, 220)), mode="append"),
        lambda: table().update({"note": "'theirs'"}, predicate="id < 10"),
        lambda: session.run("DELETE FROM turns WHERE id BETWEEN 5 AND 14"),
        lambda: table().delete("d = '2026-01-02' and id > 100"),
        lambda: session.run(
            "MERGE INTO turns t USING (SELECT g AS id FROM generate_series(0, 300, 50) AS g) s ON t.id = s.id "
            "WHEN MATCHED THEN UPDATE SET note = 'ours' WHEN NOT MATCHED THEN INSERT (id, note, d) VALUES (s.id, 'new', NULL)"
        ),
        lambda: table()
        .merge(merge_source, "t.id = s.id", source_alias="s", target_alias="t")
        .when_matched_update({"note": "s.note"})
        .when_not_matched_insert_all()
        .execute(),
        lambda: session.run("INSERT OVERWRITE turns PARTITION (d = DATE '2026-01-03') (id, note) SELECT 9000, 'over'"),
        lambda: write_deltalake(
            place, payments([7, 3]).slice(1), mode="overwrite", predicate="d = '2026-01-04'", partition_by=["d"]
        ),
        lambda: table().optimize.compact(),
        lambda: session.run("INSERT INTO turns SELECT id + 10000, note, amount, d FROM turns"),
        lambda: session.run("OPTIMIZE turns"),
        lambda: table().optimize.z_order(["id"]),
        lambda: table().create_checkpoint(),
        lambda: session.run("UPDATE turns SET amount = coalesce(amount, 0) + 1, d = d + 1 WHERE id % 2 = 0"),
        lambda: table().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False),
        lambda: session.run("DELETE FROM turns WHERE d IS NULL"),
        lambda: write_deltalake(place, payments(range(3)), mode="overwrite"),
        lambda: session.run("UPDATE turns SET note = 'end'"),
    ]
    rows = readers.agree(place)
    for turn in turns:
        turn()
        rows += readers.agree(place)
    assert session.run("SELECT id, note FROM turns ORDER BY id") == [(0, "end"), (1, "end"), (2, "end")]
    return f"{len(turns)} changes in turns, {rows} rows in all, after each of them: {readers.names}"


def odd_partitions(readers):
    """Partitions of texts that paths cannot have as they are, as deltalake writes them."""
    place, session = readers.place("odd"), readers.session
    keys = ODD_TEXTS + [None]
    rows = list(enumerate(keys))
    write_deltalake(place, pa.table({"id": range(len(keys)), "k": pa.array(keys, pa.string())}), partition_by=["k"])
    readers.all_read(place, rows)
    session.run(f"CREATE EXTERNAL TABLE odd STORED AS DELTA LOCATION '{place}'")
    session.run("UPDATE odd SET id = id + 100 WHERE k IS NOT NULL")
    session.run("INSERT INTO odd SELECT id + 1000, k FROM odd")
    changed = [(id + (100 if k is not None else 0), k) for id, k in rows]
    count = readers.all_read(place, changed + [(id + 1000, k) for id, k in changed])
    table = DeltaTable(str(place))
    table.delete("id > 1000")
    readers.all_read(place, changed)
    return f"{count} rows in {len(keys)} partitions, changed by us and then by deltalake: {readers.names}"


def columns_come(readers):
    """Columns that are added: what was declared is read on, what is new after the table is declared anew."""
    place, session = readers.place("evolved"), readers.session
    write_deltalake(place, payments(range(10)), partition_by=["d"])
    session.run(f"CREATE EXTERNAL TABLE evolved STORED AS DELTA LOCATION '{place}'")
    DeltaTable(str(place)).alter.add_columns([Field("region", PrimitiveType("string")), Field("fee", PrimitiveType("double"))])
    readers.agree(place)
    before = session.run("SELECT id, note, amount, d FROM evolved")
    readers.same("the declared columns", before, [row[:4] for row in session.run(f"SELECT id, note, amount, d FROM read_delta('{place}')")])
    error = session.error("INSERT INTO evolved VALUES (100, 'x', 1, NULL)")
    assert error.startswith("0A000") and "region" in error, error
    wider = payments(range(10, 20)).append_column("region", pa.array(["eu"] * 10)).append_column("much", pa.array([1] * 10))
    write_deltalake(place, wider, mode="append", schema_mode="merge")
    session.run("DROP EXTERNAL TABLE evolved")
    session.run(f"CREATE EXTERNAL TABLE evolved STORED AS DELTA LOCATION '{place}'")
    session.run("INSERT INTO evolved (id, region, much, d) VALUES (100, 'us', 2, '2026-01-01')")
    session.run("UPDATE evolved SET fee = 0.5 WHERE region IS NULL")
    rows = readers.agree(place)
    found = session.run("SELECT count(*), count(region), count(fee), sum(much) FROM evolved")
    assert [tuple(map(int, row)) for row in found] == [(21, 11, 10, 12)], found
    versions = readers.versions_agree(place)
    return f"{rows} rows with three columns that came later, {versions} versions: {readers.names}; before that: {error}"


def read_by_name(readers):
    """Files whose columns stand in another order than the table's."""
    place, session = readers.place("order"), readers.session
    write_deltalake(place, payments(range(5)))
    write_deltalake(place, payments(range(5, 10)).select(["d", "amount", "note", "id"]), mode="append")
    session.run(f"CREATE EXTERNAL TABLE backwards (d DATE, note TEXT, id BIGINT, amount NUMERIC(12,2)) STORED AS DELTA LOCATION '{place}'")
    session.run("INSERT INTO backwards VALUES ('2026-05-05', 'n', 99, 9.99)")
    rows = readers.agree(place)
    [found] = session.run("SELECT id, note, amount, d FROM backwards WHERE id = 99")
    assert found == (99, "n", decimal.Decimal("9.99"), datetime.date(2026, 5, 5)), found
    return f"{rows} rows of files with the columns in three orders: {readers.names}"


def filters_and_statistics(readers):
    """Filters and aggregates that may be answered by what the log says of the files."""
    place, session = readers.place("filtered"), readers.session
    for start in range(0, 400, 100):
        write_deltalake(place, payments(range(start, start + 100)), mode="append", partition_by=["d"])
    table = DeltaTable(str(place)).to_pyarrow_table().to_pylist()
    session.run(f"CREATE EXTERNAL TABLE filtered STORED AS DELTA LOCATION '{place}'")
    tests = {
        "d = '2026-01-02'": lambda r: r["d"] == datetime.date(2026, 1, 2),
        "d IS NULL": lambda r: r["d"] is None,
        "d <> '2026-01-02'": lambda r: r["d"] is not None and r["d"] != datetime.date(2026, 1, 2),
        "d > '2026-01-02' OR id = 5": lambda r: (r["d"] is not None and r["d"] > datetime.date(2026, 1, 2)) or r["id"] == 5,
        "id BETWEEN 95 AND 105": lambda r: 95 <= r["id"] <= 105,
        "note IS NULL AND id >= 300": lambda r: r["note"] is None and r["id"] >= 300,
        "note > 'x39'": lambda r: r["note"] is not None and r["note"] > "x39",
        "amount = 99.75": lambda r: r["amount"] == decimal.Decimal("99.75"),
    }
    for condition, test in tests.items():
        found = session.run(f"SELECT id FROM filtered WHERE {condition}")
        readers.same(condition, found, [(r["id"],) for r in table if test(r)])
    ids = [r["id"] for r in table]
    found = session.run("SELECT count(*), min(id), max(id), count(note), min(d), max(amount), max(note) FROM filtered")
    notes = [r["note"] for r in table if r["note"] is not None]
    days = [r["d"] for r in table if r["d"] is not None]
    expected = (len(ids), min(ids), max(ids), len(notes), min(days), max(r["amount"] for r in table), max(notes))
    assert found == [expected], f"{found} instead of {expected}"
    return f"{len(tests)} conditions and 7 aggregates over {len(table)} rows in {len(list(place.rglob('*.parquet')))} files: our SELECT and Python over deltalake's rows"


def duckdb_appends(readers):
    """Rows that DuckDB inserts."""
    place, session = readers.place("ducks"), readers.session
    session.run(f"CREATE EXTERNAL TABLE ducks (id BIGINT, t TEXT, d DATE) STORED AS DELTA LOCATION '{place}'")
    session.run("INSERT INTO ducks VALUES (1, 'ours', '2026-01-01')")
    readers.duckdb.run(f"ATTACH '{place}' AS ducks (TYPE delta)")
    readers.duckdb.run("INSERT INTO ducks.ducks SELECT 2, 'theirs', DATE '2026-01-02'")
    readers.duckdb.run("DETACH ducks")
    session.run("UPDATE ducks SET t = t || '!'")
    rows = readers.all_read(place, [(1, "ours!", DAY), (2, "theirs!", DAY + datetime.timedelta(1))])
    return f"{rows} rows, one by us and one by DuckDB, then both changed by us: {readers.names}"


duckdb_appends.needs_duckdb = True

CHECKS = [
    types_of_arrow, maps_are_refused, written_in_turns, odd_partitions, columns_come, read_by_name, filters_and_statistics,
    duckdb_appends,
]  # fmt: skip
