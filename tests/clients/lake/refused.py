"""What the server cannot do with tables of others is an error that names it, and never a wrong answer."""

import json

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lake import log

CHANGES = [
    "INSERT INTO {t} (id) VALUES (5)",
    "UPDATE {t} SET id = id + 1",
    "DELETE FROM {t} WHERE id = 1",
    "MERGE INTO {t} USING (VALUES (1), (70)) AS s (i) ON {t}.id = s.i WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (s.i)",
    "INSERT OVERWRITE {t} (id) VALUES (6)",
    "TRUNCATE {t}",
]


def _table(readers, name, rows=3, **options):
    place = readers.place(name)
    write_deltalake(place, pa.table({"id": list(range(1, rows + 1)), "n": [2 * id for id in range(1, rows + 1)]}), **options)
    return place


def _no_change(readers, name, word, sqlstate, allowed=()):
    """Every change but those allowed is refused with a word of the reason, and the table stays as it is; one of the errors."""
    place, session = readers.place(name), readers.session
    session.run(f"CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{place}'")
    before, version = session.run(f"SELECT * FROM {name}"), DeltaTable(str(place)).version()
    for change in CHANGES:
        if change.split()[0:2] in [a.split()[0:2] for a in allowed]:
            continue
        error = session.error(change.format(t=name))
        assert error.startswith(sqlstate) and word in error, f"{error}\nof: {change}"
    readers.same(name, session.run(f"SELECT * FROM {name}"), before)
    assert DeltaTable(str(place)).version() == version
    for change in allowed:
        session.run(change.format(t=name))
    return error


def deletion_vectors(readers):
    """A table with a deletion vector is not read as if it had none; the version before it is."""
    place = readers.place("marked")
    log.with_deletion_vector(place, [2, 5])
    by = ""
    if readers.duckdb:
        found = readers.duckdb.rows(place)
        readers.same("the table by DuckDB", found, [(n,) for n in range(10) if n not in (2, 5)])
        by = f" (DuckDB reads {len(found)} of 10 rows)"
    error = readers.session.error(f"SELECT count(*) FROM read_delta('{place}')")
    assert error.startswith("0A000") and "deletion vectors" in error, error
    before = readers.session.value(f"SELECT count(*) FROM read_delta('{place}', version => 1)")
    assert before == 10, before
    error = readers.session.error(f"CREATE EXTERNAL TABLE marked STORED AS DELTA LOCATION '{place}'")
    assert "deletion vectors" in error, error
    return f"{error}{by}"


def column_mapping(readers):
    """A table whose columns have other names in its files is refused, by name and by id."""
    errors = []
    for mode in ("name", "id"):
        place = readers.place(f"mapped_{mode}")
        write_deltalake(place, pa.table({"col-x": [1, 2]}))
        column = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-x"}
        configuration = {"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": "1"}
        renamed = {"col-x": {"name": "id", "metadata": column}}
        log.commit(place, log.old_protocol(2, 5), log.metadata(place, configuration, renamed))
        error = readers.session.error(f"SELECT * FROM read_delta('{place}')")
        assert error.startswith("0A000") and "maps its columns" in error, error
        errors.append(error)
    return f"both modes: {errors[0]}"


def check_constraints(readers):
    """Rows of a table with CHECK constraints are not changed past them."""
    place = _table(readers, "checked")
    DeltaTable(str(place)).alter.add_constraint({"small": "id < 10"})
    readers.agree(place)
    return "read; every change: " + _no_change(readers, "checked", "CHECK constraints", "0A000")


def invariants(readers):
    """The same of invariants of columns."""
    place = _table(readers, "invariant")
    rule = json.dumps({"expression": {"expression": "id < 10"}})
    changed = log.metadata(place, columns={"id": {"metadata": {"delta.invariants": rule}}})
    log.commit(place, log.old_protocol(1, 2), changed)
    readers.agree(place)
    return "read; every change: " + _no_change(readers, "invariant", "invariants", "0A000")


def generated_columns(readers):
    """The same of generated columns."""
    place = _table(readers, "generated")
    changed = log.metadata(place, columns={"n": {"metadata": {"delta.generationExpression": "id * 2"}}})
    log.commit(place, log.old_protocol(1, 4), changed)
    readers.agree(place)
    return "read; every change: " + _no_change(readers, "generated", "generated columns", "0A000")


def append_only(readers):
    """A table that only grows takes inserts and compaction, and nothing else."""
    place = _table(readers, "growing", configuration={"delta.appendOnly": "true"})
    error = _no_change(readers, "growing", "append-only", "42809", allowed=[CHANGES[0], "OPTIMIZE {t}"])
    rows = readers.agree(place)
    assert rows == 4, rows
    return f"an INSERT and OPTIMIZE are taken; every other change: {error}"


def change_data_feed(readers):
    """The feed of changes is never left incomplete: inserts are in it, other changes are refused."""
    place = _table(readers, "fed", configuration={"delta.enableChangeDataFeed": "true"})
    error = _no_change(readers, "fed", "change data feed", "0A000", allowed=[CHANGES[0]])
    feed = pa.table(DeltaTable(str(place)).load_cdf(starting_version=0).read_all()).to_pylist()
    found = [(row["id"], row["_change_type"], row["_commit_version"]) for row in feed]
    readers.same("the feed", found, [(1, "insert", 0), (2, "insert", 0), (3, "insert", 0), (5, "insert", 1)])
    return f"deltalake's feed has the rows of our INSERT; every other change: {error}"


def features_of_tables(readers):
    """Features that a table asks for: unknown ones of readers stop a SELECT, unknown ones of writers every change."""
    session, errors = readers.session, []
    for feature in ["typeWidening", "catalogManaged", "vacuumProtocolCheck", "inventedByATest"]:
        place = _table(readers, f"r_{feature}".lower())
        log.commit(place, log.protocol([feature], []))
        error = session.error(f"SELECT * FROM read_delta('{place}')")
        assert feature in error or "catalog-managed" in error, error
        errors.append(error)
    for feature in [
        "allowColumnDefaults", "identityColumns", "rowTracking", "domainMetadata", "icebergCompatV1", "icebergCompatV2",
        "clustering", "inCommitTimestamp", "inventedByATest",
    ]:  # fmt: skip
        name = f"w_{feature}".lower()
        place = _table(readers, name)
        log.commit(place, log.protocol([], [feature]))
        errors.append(_no_change(readers, name, feature, "0A000"))
        assert session.value(f"SELECT sum(n) FROM {name}") == 12
    return f"{len(errors)} features, each named, such as: {errors[-1]}"


def damaged_log(readers):
    """An entry of the log that is no JSON, or is missing in between, is an error."""
    errors = []
    for name in ("torn", "gap"):
        place = _table(readers, name)
        for n in range(3):
            write_deltalake(place, pa.table({"id": [n], "n": [n]}), mode="append")
        entry = place / "_delta_log" / f"{2:020}.json"
        if name == "torn":
            entry.write_bytes(entry.read_bytes()[:-40])
        else:
            entry.unlink()
        errors.append(readers.session.error(f"SELECT count(*) FROM read_delta('{place}')"))
        # Of a kind that says where, and without a backtrace.
        assert errors[-1].startswith("58030") and str(place) in errors[-1] and "\n" not in errors[-1], errors[-1]
    return "; ".join(errors)


CHECKS = [
    deletion_vectors, column_mapping, check_constraints, invariants, generated_columns, append_only, change_data_feed,
    features_of_tables, damaged_log,
]  # fmt: skip
