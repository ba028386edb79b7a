"""Checks of psycopg 3."""

import asyncio
import datetime
import decimal
import threading
import uuid

import psycopg
from psycopg.types.json import Json, Jsonb
from psycopg_pool import ConnectionPool

VERSION = f"psycopg {psycopg.__version__}, libpq {psycopg.pq.version()}, {psycopg.pq.__impl__}"

UTC = datetime.timezone.utc

# A value of each type, as Python has it.
VALUES = [
    ("bool", True),
    ("int2", -32768),
    ("int4", 2**31 - 1),
    ("int8", -(2**63)),
    ("float4", 1.5),
    ("float8", 0.1),
    ("numeric(20,4)", decimal.Decimal("1234567890.1250")),
    ("numeric", decimal.Decimal("-0.000012345")),
    ("text", "snow ☃ and 'quotes' \\ \n\t"),
    ("varchar(20)", "short"),
    ("bytea", b"\x00\xff\\x00 end"),
    ("date", datetime.date(1999, 12, 31)),
    ("time", datetime.time(23, 59, 59, 999999)),
    ("timestamp", datetime.datetime(2024, 2, 29, 12, 30, 0, 123456)),
    ("timestamptz", datetime.datetime(2024, 2, 29, 12, 30, 0, 123456, UTC)),
    ("interval", datetime.timedelta(days=3, seconds=4, microseconds=5)),
    ("uuid", uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("int4[]", [1, None, 3]),
    ("text[]", ["a", "b,c", '"d"', None, "NULL", ""]),
    ("timestamptz[]", [datetime.datetime(2024, 1, 1, tzinfo=UTC)]),
]


def connect(server, **options):
    """A connection in psycopg's own defaults: a transaction begins with the first statement."""
    return psycopg.connect(host="127.0.0.1", port=server.port, user="millstream", dbname="millstream", **options)


def values_in_both_formats(server):
    """A value of each type goes out and comes back, as text and binary, as a parameter and from a table."""
    count = 0
    with connect(server, autocommit=True) as connection:
        for number, (sql_type, value) in enumerate(VALUES):
            connection.execute(f"CREATE TABLE v{number} (id INT PRIMARY KEY, v {sql_type})")
            for binary in (False, True):
                cursor = connection.cursor(binary=binary)
                placeholder = "%b" if binary else "%t"
                [[back]] = cursor.execute(f"SELECT {placeholder}::{sql_type}", [value]).fetchall()
                assert back == value, f"{sql_type} binary={binary}: {back!r} instead of {value!r}"
                cursor.execute(f"INSERT INTO v{number} VALUES (%s, {placeholder})", [int(binary), value])
                [[back]] = cursor.execute(f"SELECT v FROM v{number} WHERE id = %s", [int(binary)]).fetchall()
                assert back == value, f"{sql_type} from a table, binary={binary}: {back!r} instead of {value!r}"
                [[back]] = cursor.execute(f"SELECT {placeholder}::{sql_type}", [None]).fetchall()
                assert back is None, f"{sql_type}: {back!r} instead of NULL"
                count += 3
    return f"{count} values of {len(VALUES)} types"


def json_in_both_formats(server):
    """json and jsonb are dumped and loaded by psycopg."""
    value = {"a": [1, 2.5, None, True], "ü": "☃"}
    with connect(server) as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            [[one, other]] = cursor.execute("SELECT %s::json, %s::jsonb", [Json(value), Jsonb(value)]).fetchall()
            assert one == value and other == value, (one, other)
            [[kind]] = cursor.execute("SELECT %s::jsonb ->> 'ü'", [Jsonb(value)]).fetchall()
            assert kind == "☃", kind
    return "json, jsonb and ->>"


def types_of_result_columns(server):
    """cursor.description names the types and their modifiers."""
    with connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE described (a NUMERIC(12,2), b VARCHAR(7), c TEXT, d TIMESTAMPTZ, e INT[])")
        columns = connection.execute("SELECT a, b, c, d, e, 1 AS f, 'x' AS g FROM described").description
        found = [(c.name, c.type_display) for c in columns]
    expected = [
        ("a", "numeric(12,2)"), ("b", "varchar(7)"), ("c", "text"), ("d", "timestamptz"), ("e", "int4[]"),
        ("f", "int4"), ("g", "text"),
    ]  # fmt: skip
    assert found == expected, found
    return f"{len(found)} columns"


def transactions(server):
    """Blocks commit, roll back and nest; an error leaves the transaction failed until it is rolled back."""
    with connect(server) as connection:
        connection.execute("CREATE TABLE moves (id INT PRIMARY KEY, n INT)")
        connection.commit()
        connection.execute("INSERT INTO moves VALUES (1, 1)")
        connection.rollback()
        with connection.transaction():
            connection.execute("INSERT INTO moves VALUES (2, 2)")
        try:
            connection.execute("SELECT 1 / 0")
            raise AssertionError("no error")
        except psycopg.errors.DivisionByZero:
            pass
        try:
            connection.execute("SELECT 1")
            raise AssertionError("no error")
        except psycopg.errors.InFailedSqlTransaction:
            pass
        connection.rollback()
        rows = connection.execute("SELECT id FROM moves ORDER BY id").fetchall()
        connection.commit()
        assert rows == [(2,)], rows
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    return "COMMIT, ROLLBACK, 22012, 25P02"


def savepoints(server):
    """A nested transaction() is a savepoint: what is in it goes, the rest stays."""
    with connect(server) as connection:
        connection.execute("CREATE TABLE nested (id INT PRIMARY KEY)")
        connection.commit()
        with connection.transaction():
            connection.execute("INSERT INTO nested VALUES (1)")
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO nested VALUES (2)")
                    raise KeyError("taken back")
            except KeyError:
                pass
            with connection.transaction():
                connection.execute("INSERT INTO nested VALUES (3)")
        rows = connection.execute("SELECT id FROM nested ORDER BY id").fetchall()
        assert rows == [(1,), (3,)], rows
    return "SAVEPOINT, RELEASE, ROLLBACK TO"


def errors_are_classes(server):
    """SQLSTATEs become psycopg's exceptions, with their fields."""
    from psycopg import errors

    statements = [
        ("SELECT * FROM nowhere", errors.UndefinedTable),
        ("SELECT nothing FROM pg_catalog.pg_class", errors.UndefinedColumn),
        ("SELEC 1", errors.SyntaxError),
        ("SELECT nofunction()", errors.UndefinedFunction),
        ("SELECT 'x'::int", errors.InvalidTextRepresentation),
        ("SELECT 1/0", errors.DivisionByZero),
        ("INSERT INTO unique_rows VALUES (1)", errors.UniqueViolation),
        ("INSERT INTO unique_rows VALUES (NULL)", errors.NotNullViolation),
        ("CREATE TABLE unique_rows (id INT)", errors.DuplicateTable),
    ]
    with connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE unique_rows (id INT PRIMARY KEY)")
        connection.execute("INSERT INTO unique_rows VALUES (1)")
        for sql, expected in statements:
            try:
                connection.execute(sql)
            except expected:
                continue
            except psycopg.Error as error:
                raise AssertionError(f"{sql}: {error.diag.sqlstate} {error} instead of {expected}") from error
            raise AssertionError(f"{sql}: no error")
    return f"{len(statements)} errors"


def prepared_statements(server):
    """psycopg prepares a statement by itself when it is repeated, and on request."""
    with connect(server, autocommit=True, prepare_threshold=2) as connection:
        for number in range(10):
            [[back]] = connection.execute("SELECT %s::int * 2", [number]).fetchall()
            assert back == number * 2
        [[back]] = connection.execute("SELECT %s::text", ["now"], prepare=True).fetchall()
        names = connection.execute("SELECT name, statement, from_sql FROM pg_prepared_statements").fetchall()
        assert back == "now" and len(names) == 2 and not any(from_sql for _, _, from_sql in names), names
        for number in range(250):
            connection.execute(f"SELECT {number} + %s", [1], prepare=True)
        [[left]] = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        assert left <= 101, left
    return "prepared by count and by request; 250 of them, of which psycopg keeps 100"


def many_parameters(server):
    """executemany sends in a pipeline, with and without the rows that come back."""
    with connect(server) as connection:
        connection.execute("CREATE TABLE many (id INT PRIMARY KEY, name TEXT)")
        connection.commit()
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO many VALUES (%s, %s)", [(n, f"name {n}") for n in range(200)])
        assert cursor.rowcount == 200, cursor.rowcount
        cursor.executemany("UPDATE many SET name = %s WHERE id = %s RETURNING id", [("x", 1), ("y", 2)], returning=True)
        back = []
        while True:
            back += cursor.fetchall()
            if not cursor.nextset():
                break
        assert back == [(1,), (2,)], back
        connection.commit()
    return "200 rows, and RETURNING of two"


def cursors_on_the_server(server):
    """A named cursor fetches in parts, in a transaction, and WITH HOLD after it; it scrolls where it was asked to."""
    with connect(server) as connection:
        with connection.cursor(name="parts") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT g FROM generate_series(1, 1000) AS s(g) ORDER BY g")
            assert cursor.fetchone() == (1,)
            assert cursor.fetchmany(3) == [(2,), (3,), (4,)]
            assert sum(row[0] for row in cursor) == 500500 - 10
        with connection.cursor(name="kept", withhold=True) as cursor:
            cursor.execute("SELECT g FROM generate_series(1, 5) AS s(g) ORDER BY g")
            connection.commit()
            assert [row[0] for row in cursor.fetchall()] == [1, 2, 3, 4, 5]
        with connection.cursor(name="binary", binary=True) as cursor:
            cursor.execute("SELECT g, g::text FROM generate_series(1, 3) AS s(g) ORDER BY g")
            assert cursor.fetchall() == [(1, "1"), (2, "2"), (3, "3")]
        connection.commit()
    return "1000 rows in parts of 100, WITH HOLD, binary"


def scrolling_cursors(server):
    """A SCROLL cursor goes back and to places."""
    with connect(server) as connection:
        with connection.cursor(name="scroll", scrollable=True) as cursor:
            cursor.execute("SELECT g FROM generate_series(1, 100) AS s(g) ORDER BY g")
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(-2)
            assert cursor.fetchone() == (2,)
            cursor.scroll(49, mode="absolute")
            assert cursor.fetchone() == (50,)
            cursor.scroll(0, mode="absolute")
            assert cursor.fetchone() == (1,)
            connection.execute("MOVE LAST IN scroll")
            assert connection.execute("FETCH PRIOR FROM scroll").fetchall() == [(99,)]
            assert connection.execute("FETCH BACKWARD 2 FROM scroll").fetchall() == [(98,), (97,)]
            assert connection.execute("FETCH FIRST FROM scroll").fetchall() == [(1,)]
            assert connection.execute("FETCH RELATIVE 4 FROM scroll").fetchall() == [(5,)]
            assert connection.execute("FETCH ABSOLUTE -1 FROM scroll").fetchall() == [(100,)]
    return "MOVE, PRIOR, BACKWARD, FIRST, LAST, ABSOLUTE, RELATIVE"


def pipeline(server):
    """Statements sent without waiting for the answers; an error aborts what follows it up to the sync."""
    with connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE piped (id INT PRIMARY KEY)")
        with connection.pipeline() as block:
            for number in range(50):
                connection.execute("INSERT INTO piped VALUES (%s)", [number])
            counted = connection.execute("SELECT count(*) FROM piped")
            block.sync()
            assert counted.fetchall() == [(50,)]
        try:
            with connection.pipeline() as block:
                connection.execute("INSERT INTO piped VALUES (1000)")
                connection.execute("INSERT INTO piped VALUES (1)")
                connection.execute("INSERT INTO piped VALUES (1001)")
                block.sync()
            raise AssertionError("no error")
        except psycopg.errors.UniqueViolation:
            pass
        except psycopg.errors.PipelineAborted:
            pass
        [[count]] = connection.execute("SELECT count(*) FROM piped WHERE id >= 1000").fetchall()
        assert count == 0, f"{count} rows of a pipeline whose implicit transaction failed"
    return "50 inserts and a count at once; the implicit transaction of a failed pipeline leaves nothing"


def copy_text(server):
    """COPY in and out, as text and CSV, by rows and by blocks."""
    rows = [(1, "one", None), (2, "tab\there", datetime.date(2024, 1, 1)), (3, "back\\slash\nline", None)]
    with connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE copied (id INT PRIMARY KEY, t TEXT, d DATE)")
        with connection.cursor().copy("COPY copied (id, t, d) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with connection.cursor().copy("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT") as copy:
            copy.set_types(["int4", "text", "date"])
            assert list(copy.rows()) == rows
        with connection.cursor().copy("COPY copied TO STDOUT WITH (FORMAT csv, HEADER)") as copy:
            text = b"".join(copy).decode()
        assert text.startswith("id,t,d\n1,one,\n"), text
        connection.execute("TRUNCATE copied")
        with connection.cursor().copy("COPY copied FROM STDIN (FORMAT csv, HEADER true)") as copy:
            copy.write(text)
        back = connection.execute("SELECT * FROM copied ORDER BY id").fetchall()
        assert back == rows, back
        try:
            with connection.cursor().copy("COPY copied FROM STDIN") as copy:
                copy.write(b"4\tfour\t\\N\nfive\tfive\t\\N\n")
            raise AssertionError("no error")
        except psycopg.errors.InvalidTextRepresentation as error:
            assert error.diag.context.startswith("COPY copied, line 2, column id"), error.diag.context
        [[count]] = connection.execute("SELECT count(*) FROM copied").fetchall()
        assert count == 3, count
    return "3 rows by text and CSV, both ways; a broken line names itself"


def copy_binary(server):
    """COPY in binary form, in and out, of every type."""
    names = ", ".join(f"c{number}" for number in range(len(VALUES)))
    columns = ", ".join(f"c{number} {sql_type}" for number, (sql_type, _) in enumerate(VALUES))
    types = [sql_type.split("(")[0] for sql_type, _ in VALUES]
    rows = [tuple([1] + [value for _, value in VALUES]), tuple([2] + [None] * len(VALUES))]
    with connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE copied_binary (id INT PRIMARY KEY, {columns})")
        with connection.cursor().copy(f"COPY copied_binary (id, {names}) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4"] + types)
            for row in rows:
                copy.write_row(row)
        back = connection.execute("SELECT * FROM copied_binary ORDER BY id").fetchall()
        assert back == rows, back
        query = "COPY (SELECT * FROM copied_binary ORDER BY id) TO STDOUT (FORMAT binary)"
        with connection.cursor().copy(query) as copy:
            copy.set_types(["int4"] + types)
            back = list(copy.rows())
        assert back == rows, back
        with connection.cursor().copy("COPY copied_binary TO STDOUT (FORMAT binary)") as copy:
            data = b"".join(copy)
        connection.execute("TRUNCATE copied_binary")
        with connection.cursor().copy("COPY copied_binary FROM STDIN (FORMAT binary)") as copy:
            for start in range(0, len(data), 7):
                copy.write(data[start : start + 7])
        [[count]] = connection.execute("SELECT count(*) FROM copied_binary").fetchall()
        assert count == 2, count
        for broken in (b"", b"not a signature at all", data[:-10], data[:40], data[:21] + b"\0\3" + data[23:]):
            try:
                with connection.cursor().copy("COPY copied_binary FROM STDIN (FORMAT binary)") as copy:
                    copy.write(broken)
                raise AssertionError(f"no error from {broken!r}")
            except psycopg.errors.BadCopyFileFormat:
                pass
        [[count]] = connection.execute("SELECT count(*) FROM copied_binary").fetchall()
        assert count == 2, count
    return f"{len(VALUES)} types, both ways; broken data is 22P04 and leaves nothing"


def asynchronous(server):
    """AsyncConnection: two statements at once, a cursor, COPY."""

    async def run():
        options = {"host": "127.0.0.1", "port": server.port, "user": "millstream", "dbname": "millstream"}
        one = await psycopg.AsyncConnection.connect(**options, autocommit=True)
        other = await psycopg.AsyncConnection.connect(**options, autocommit=True)
        async with one, other:
            answers = await asyncio.gather(one.execute("SELECT pg_sleep(0.2), 1"), other.execute("SELECT 2"))
            assert (await answers[0].fetchone())[1] == 1 and await answers[1].fetchone() == (2,)
            async with one.transaction(), one.cursor(name="async") as cursor:
                await cursor.execute("SELECT g FROM generate_series(1, 250) AS s(g)")
                assert len([row async for row in cursor]) == 250
            async with one.cursor().copy("COPY (SELECT 1, 'a') TO STDOUT") as copy:
                assert [bytes(block) async for block in copy] == [b"1\ta\n"]

    asyncio.run(run())
    return "two connections, a cursor, COPY"


def pooled(server):
    """A pool hands out connections, checks and resets them."""
    conninfo = f"host=127.0.0.1 port={server.port} user=millstream dbname=millstream"
    found = []

    def work(number):
        with pool.connection() as connection:
            found.append(connection.execute("SELECT %s::int", [number]).fetchone()[0])

    check = ConnectionPool.check_connection
    with ConnectionPool(conninfo, min_size=2, max_size=4, open=True, check=check) as pool:
        threads = [threading.Thread(target=work, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(20)), found
    return "20 statements of 20 threads over 4 connections"


def cancelled(server):
    """A statement is cancelled from another thread; the connection goes on."""
    with connect(server, autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel_safe)
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(30)")
            raise AssertionError("no error")
        except psycopg.errors.QueryCanceled:
            pass
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    return "57014, and the connection goes on"


def notifications(server):
    """LISTEN and NOTIFY between two connections; the channels that are listened to."""
    with connect(server, autocommit=True) as one, connect(server, autocommit=True) as other:
        one.execute("LISTEN bell")
        assert one.execute("SELECT pg_listening_channels()").fetchall() == [("bell",)]
        assert one.execute("SELECT * FROM pg_listening_channels()").fetchall() == [("bell",)]
        other.execute("SELECT pg_notify('bell', 'rung')")
        [notice] = list(one.notifies(timeout=10, stop_after=1))
        assert (notice.channel, notice.payload) == ("bell", "rung"), notice
        one.execute("UNLISTEN *")
        assert one.execute("SELECT * FROM pg_listening_channels()").fetchall() == []
    return "LISTEN, pg_notify, pg_listening_channels, UNLISTEN"


def activity(server):
    """pg_stat_activity shows who is connected and what runs."""
    with connect(server, autocommit=True, application_name="asker") as one, connect(server, application_name="worker") as other:
        other.execute("SELECT 'in a transaction'")
        rows = one.execute(
            "SELECT pid, usename, datname, application_name, client_addr, state, query, backend_type,"
            " backend_start <= now() FROM pg_stat_activity WHERE application_name IN ('asker', 'worker')"
            " ORDER BY application_name"
        ).fetchall()
        [asker, worker] = rows
        assert asker[0] == one.info.backend_pid and worker[0] == other.info.backend_pid, rows
        assert asker[1:6] == ("millstream", "millstream", "asker", "127.0.0.1", "active"), asker
        assert worker[5:] == ("idle in transaction", "SELECT 'in a transaction'", "client backend", True), worker
        other.rollback()
    return "two sessions: pid, user, database, application, address, state, statement"


def other_sessions(server):
    """pg_cancel_backend and pg_terminate_backend reach another session; set_config sets."""
    with connect(server, autocommit=True) as one, connect(server, autocommit=True) as other:
        pid, failed = other.info.backend_pid, []

        def sleep():
            try:
                other.execute("SELECT pg_sleep(30)")
            except psycopg.Error as error:
                failed.append(error.sqlstate)

        for function in ("pg_cancel_backend", "pg_terminate_backend"):
            thread = threading.Thread(target=sleep)
            thread.start()
            state = "SELECT state FROM pg_stat_activity WHERE pid = %s"
            while one.execute(state, [pid]).fetchone() != ("active",):
                pass
            assert one.execute(f"SELECT {function}(%s)", [pid]).fetchone() == (True,)
            thread.join()
            assert (found := failed.pop()) == "57014", (function, found)
        # The statement is cancelled, then the connection ends.
        try:
            other.execute("SELECT 1")
            raise AssertionError("the session goes on")
        except psycopg.errors.AdminShutdown:
            pass
        except psycopg.OperationalError:
            pass
        assert other.closed and one.execute(state, [pid]).fetchone() is None
        one.execute("SELECT set_config('TimeZone', 'Asia/Tokyo', false)")
        assert one.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert one.execute("SELECT timestamptz '2024-01-01 00:00:00+00'::text").fetchone() == ("2024-01-01 09:00:00+09",)
    return "another session's statement and connection end; TimeZone"


CHECKS = [
    values_in_both_formats,
    json_in_both_formats,
    types_of_result_columns,
    transactions,
    savepoints,
    errors_are_classes,
    prepared_statements,
    many_parameters,
    cursors_on_the_server,
    scrolling_cursors,
    pipeline,
    copy_text,
    copy_binary,
    asynchronous,
    pooled,
    cancelled,
    notifications,
    activity,
    other_sessions,
]
