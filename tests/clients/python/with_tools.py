"""Replays statements of tools, by the simple and by the extended protocol."""

import pathlib

import psycopg

VERSION = f"psycopg {psycopg.__version__}"
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "catalog"

OBJECTS = """
CREATE TABLE accounts (id BIGINT PRIMARY KEY, holder VARCHAR(40) NOT NULL, risk INT DEFAULT 0 CHECK (risk >= 0), balance NUMERIC(12,2), opened TIMESTAMPTZ, tags TEXT[], note JSONB);
COMMENT ON TABLE accounts IS 'who holds what';
COMMENT ON COLUMN accounts.risk IS 'higher is worse';
CREATE VIEW risky AS SELECT id, holder FROM accounts WHERE risk > 5;
CREATE MATERIALIZED VIEW by_risk AS SELECT risk, count(*) AS n FROM accounts GROUP BY risk;
CREATE FUNCTION twice(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT $1 * 2';
INSERT INTO accounts VALUES (1, 'Ada', 7, 10.50, '2024-01-01 00:00:00+00', ARRAY['a', 'b'], '{"k": 1}'), (2, 'Bob', 0, NULL, NULL, NULL, NULL);
"""


def statements(name):
    """The statements of a file: each ends with a semicolon at the end of a line."""
    lines = [line for line in (FOLDER / f"{name}.sql").read_text().splitlines() if not line.startswith("--")]
    return [s.strip() for s in "\n".join(lines).split(";\n") if s.strip(" ;\n")]


def replayed(server, name):
    """Runs a file's statements both ways."""
    options = {"host": "127.0.0.1", "port": server.port, "user": "millstream", "dbname": "millstream", "autocommit": True}
    failed, all_statements = [], statements(name)
    with psycopg.connect(**options) as connection:
        if not connection.execute("SELECT to_regclass('accounts')").fetchone()[0]:
            for sql in OBJECTS.split(";\n"):
                if sql.strip():
                    connection.execute(sql)
        for sql in all_statements:
            sql = sql.rstrip(";")
            for way, cursor in (("simple", psycopg.ClientCursor(connection)), ("extended", connection.cursor(binary=True))):
                try:
                    # Without parameters a cursor of the extended protocol would take the simple one.
                    cursor.execute(sql, prepare=True) if way == "extended" else cursor.execute(sql)
                    if cursor.description:
                        cursor.fetchall()
                except psycopg.Error as error:
                    failed.append(f"{way}: {error.diag.sqlstate} {error}\n    {sql[:300]}")
                    break
    assert not failed, f"{len(failed)} of {len(all_statements)} statements\n" + "\n".join(failed)
    return f"{len(all_statements)} statements"


def dbeaver(server):
    """DBeaver."""
    return replayed(server, "dbeaver")


def datagrip(server):
    """DataGrip."""
    return replayed(server, "datagrip")


def metabase(server):
    """Metabase."""
    return replayed(server, "metabase")


def grafana(server):
    """Grafana."""
    return replayed(server, "grafana")


def power_bi(server):
    """Power BI, through Npgsql."""
    return replayed(server, "power_bi")


CHECKS = [dbeaver, datagrip, metabase, grafana, power_bi]
