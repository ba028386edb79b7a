"""Checks of pandas over SQLAlchemy, of the ADBC driver, and of what pgcli asks the catalog."""

import datetime
import decimal
from importlib import metadata

import adbc_driver_postgresql.dbapi as adbc
import pandas
import pyarrow
import sqlalchemy
from pgcli.pgexecute import PGExecute
from pgspecial.main import PGSpecial

VERSION = ", ".join(f"{name} {metadata.version(name)}" for name in ("pandas", "adbc-driver-postgresql", "pgcli", "pgspecial"))
UTC = datetime.timezone.utc


def engine_of(server):
    """SQLAlchemy's engine."""
    return sqlalchemy.create_engine(f"postgresql+psycopg://millstream@127.0.0.1:{server.port}/millstream")


def pandas_frames(server):
    """read_sql and read_sql_table give frames with their types; to_sql makes a table and fills it."""
    engine = engine_of(server)
    times = pandas.date_range("2024-01-01", periods=1000, freq="h", tz="UTC")
    frame = pandas.DataFrame({"id": range(1000), "name": [f"n{n}" for n in range(1000)], "x": [n / 8 for n in range(1000)], "at": times})
    frame.loc[7, "name"] = None
    assert frame.to_sql("frames", engine, index=False) is not None
    back = pandas.read_sql("SELECT * FROM frames ORDER BY id", engine)
    assert [str(t) for t in back.dtypes][:1] == ["int64"] and back["x"].dtype == "float64", back.dtypes
    assert back["x"].sum() == frame["x"].sum() and back["name"].isna().sum() == 1
    assert (back["at"].dt.tz_convert("UTC") == frame["at"]).all()
    table = pandas.read_sql_table("frames", engine, columns=["id", "x"])
    assert len(table) == 1000
    some = pandas.read_sql(sqlalchemy.text("SELECT * FROM frames WHERE id < :n"), engine, params={"n": 10}, index_col="id")
    assert len(some) == 10
    parts = list(pandas.read_sql("SELECT id FROM frames ORDER BY id", engine, chunksize=300))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    more = frame.tail(5).assign(id=range(2000, 2005))
    more.to_sql("frames", engine, index=False, if_exists="append", method="multi")
    assert pandas.read_sql("SELECT count(*) AS n FROM frames", engine)["n"][0] == 1005
    frame.head(3).to_sql("frames", engine, index=False, if_exists="replace")
    assert pandas.read_sql("SELECT count(*) AS n FROM frames", engine)["n"][0] == 3
    return "to_sql of 1000 rows, append, replace; read_sql, read_sql_table, chunks"


def adbc_reads(server):
    """ADBC reads through COPY in binary form and gives Arrow tables."""
    with adbc.connect(f"postgresql://millstream@127.0.0.1:{server.port}/millstream", autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT g AS id, g * 1.5::float8 AS x, 'n' || g AS name, g % 2 = 0 AS even, NULL::int AS nothing,"
                " '2024-01-01 00:00:00+00'::timestamptz + g * interval '1 hour' AS at, DATE '2024-02-29' AS d,"
                " (g::numeric(12,2) / 4)::numeric(12,2) AS n, ARRAY[g, g + 1] AS gs, '\\x00ff'::bytea AS b"
                " FROM generate_series(1, 3000) AS s(g) ORDER BY g"
            )
            table = cursor.fetch_arrow_table()
        assert table.num_rows == 3000, table.num_rows
        first = table.slice(0, 1).to_pylist()[0]
        assert (first["id"], first["x"], first["name"], first["even"], first["nothing"]) == (1, 1.5, "n1", False, None), first
        assert first["at"] == datetime.datetime(2024, 1, 1, 1, tzinfo=UTC) and first["d"] == datetime.date(2024, 2, 29), first
        assert decimal.Decimal(str(first["n"])) == decimal.Decimal("0.25") and first["gs"] == [1, 2], first
        assert first["b"] == b"\x00\xff", first
        with connection.cursor() as cursor:
            cursor.execute("SELECT $1::int + 1, $2::text", parameters=(41, "x"))
            assert cursor.fetchone() == (42, "x")
    return "3000 rows of 10 types; parameters"


def adbc_writes(server):
    """ADBC makes a table of an Arrow table and fills it through COPY; transactions."""
    table = pyarrow.table({
        "id": pyarrow.array(range(2000), pyarrow.int64()),
        "name": pyarrow.array([None if n == 3 else f"n{n}" for n in range(2000)]),
        "x": pyarrow.array([n / 4 for n in range(2000)]),
        "at": pyarrow.array([datetime.datetime(2024, 1, 1)] * 2000, pyarrow.timestamp("us")),
    })  # fmt: skip
    with adbc.connect(f"postgresql://millstream@127.0.0.1:{server.port}/millstream") as connection:
        with connection.cursor() as cursor:
            assert cursor.adbc_ingest("ingested", table, mode="create") == 2000
        connection.commit()
        with connection.cursor() as cursor:
            cursor.adbc_ingest("ingested", table.slice(0, 10), mode="append")
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*), count(name), sum(x) FROM ingested")
            assert cursor.fetchone() == (2000, 1999, 499750.0)
    return "2000 rows made into a table; a rolled back append"


def adbc_metadata(server):
    """ADBC's catalog functions."""
    with adbc.connect(f"postgresql://millstream@127.0.0.1:{server.port}/millstream", autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE of_adbc (id BIGINT PRIMARY KEY, name VARCHAR(20) NOT NULL)")
        info = connection.adbc_get_info()
        assert info["vendor_name"], info
        assert "table" in connection.adbc_get_table_types()
        schema = connection.adbc_get_table_schema("of_adbc")
        assert schema.names == ["id", "name"] and str(schema.field("id").type) == "int64", schema
        for depth in ("catalogs", "db_schemas", "tables", "all"):
            objects = connection.adbc_get_objects(depth=depth, table_name_filter="of_adbc").read_all().to_pylist()
        schemas = [s for c in objects if c["catalog_name"] == "millstream" for s in c["catalog_db_schemas"]]
        [table] = [t for s in schemas if s["db_schema_name"] == "public" for t in s["db_schema_tables"]]
        assert [c["column_name"] for c in table["table_columns"]] == ["id", "name"], table
        kinds = {c["constraint_type"]: c["constraint_column_names"] for c in table["table_constraints"]}
        assert kinds.get("PRIMARY KEY") == ["id"], table
    return "info, table types, schema of a table, objects of every depth"


def pgcli_completion(server):
    """All that pgcli asks the catalog to complete what is typed."""
    session = server.connect()
    session.run("CREATE TABLE completed (id INT PRIMARY KEY, v TEXT DEFAULT 'x')")
    session.run("CREATE VIEW completed_view AS SELECT id FROM completed")
    session.run("CREATE MATERIALIZED VIEW completed_kept AS SELECT v, count(*) AS n FROM completed GROUP BY v")
    session.run("CREATE FUNCTION completing(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT $1 + 1'")
    execute = PGExecute("millstream", "millstream", "", "127.0.0.1", server.port, "")
    assert execute.search_path() == ["pg_catalog", "public"], execute.search_path()
    assert "public" in execute.schemata()
    assert ("public", "completed") in list(execute.tables())
    views = list(execute.views())
    assert ("public", "completed_view") in views and ("public", "completed_kept") in views, views
    columns = [c for c in execute.table_columns() if c[1] == "completed"]
    assert [(c[2], c[3]) for c in columns] == [("id", "integer"), ("v", "text")], columns
    assert {c[2] for c in execute.view_columns() if c[1] == "completed_kept"} == {"v", "n"}
    assert "millstream" in execute.databases() and execute.full_databases()
    assert list(execute.foreignkeys()) == []
    [function] = [f for f in execute.functions() if f.func_name == "completing"]
    assert (list(function.arg_names), list(function.arg_types), function.return_type) == (["x"], ["integer"], "integer"), function
    list(execute.datatypes())
    list(execute.casing())
    assert "FROM completed" in execute.view_definition("completed_view")
    assert "completing" in execute.function_definition("completing")
    assert execute.get_socket_directory() is None or True
    return "schemas, tables, views, columns, types, functions, keys, databases, definitions"


def pgcli_commands(server):
    """pgcli's own backslash commands."""
    session = server.connect()
    session.run("CREATE TABLE commanded (id INT PRIMARY KEY, v VARCHAR(9) NOT NULL DEFAULT 'x', CHECK (id > 0))")
    execute = PGExecute("millstream", "millstream", "", "127.0.0.1", server.port, "")
    special = PGSpecial()
    commands = [
        "\\l", "\\l+", "\\d", "\\d commanded", "\\d+ commanded", "\\dt", "\\dt+", "\\dv", "\\dv+", "\\dm", "\\dm+", "\\di", "\\di+",
        "\\ds", "\\ds+", "\\dn", "\\dn+", "\\du", "\\du+", "\\df", "\\df+", "\\dT", "\\dT+", "\\dx", "\\db", "\\db+", "\\dD", "\\dD+",
        "\\dE", "\\ddp", "\\dF", "\\dF+", "\\dp", "\\z", "\\sf completing", "\\x", "\\?", "\\timing",
    ]  # fmt: skip
    failed = []
    for command in commands:
        for _, _, _, message, _, succeeded, _ in execute.run(command, pgspecial=special):
            if not succeeded:
                failed.append(f"{command}: {message}")
    assert not failed, "\n".join(failed)
    return f"{len(commands)} commands"


CHECKS = [pandas_frames, adbc_reads, adbc_writes, adbc_metadata, pgcli_completion, pgcli_commands]
