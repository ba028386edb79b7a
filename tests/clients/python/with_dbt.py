"""Checks of dbt with its adapter for PostgreSQL."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata

import dbt.adapters.postgres  # noqa: F401 (what is not there skips the checks)

VERSION = f"dbt {metadata.version('dbt-core')}, dbt-postgres {metadata.version('dbt-postgres')}"
PROJECT = pathlib.Path(__file__).resolve().parent.parent / "dbt"


def dbt(server, *arguments):
    """Runs a command of dbt's on a copy of the project; the status of each node."""
    with tempfile.TemporaryDirectory(prefix="millstream-dbt-") as folder:
        project = pathlib.Path(folder) / "project"
        shutil.copytree(PROJECT, project)
        environment = {**os.environ, "PGPORT": str(server.port), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "NO_COLOR": "1"}
        command = [pathlib.Path(sys.executable).with_name("dbt"), *arguments, "--project-dir", project, "--profiles-dir", project]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    return {r["unique_id"].split(".")[2]: r["status"] for r in results}


def seed_run_test(server):
    """dbt seed, run and test of models of each kind."""
    seeded = dbt(server, "seed")
    ran = dbt(server, "run")
    tested = dbt(server, "test")
    assert set(seeded.values()) == set(ran.values()) == {"success"} and set(tested.values()) == {"pass"}, (seeded, ran, tested)
    session = server.connect()
    kinds = dict(session.run(
        "SELECT c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'shop'"
        " AND c.relkind <> 'i'"
    ))  # fmt: skip
    expected = {"orders": "r", "as_table": "r", "as_view": "v", "as_materialized_view": "m", "as_incremental": "r",
                "as_appended": "r", "as_merged": "r", "over_ephemeral": "v"}  # fmt: skip
    assert kinds == expected, kinds
    comment = session.value("SELECT obj_description('shop.as_materialized_view'::regclass)")
    assert comment == "what each customer has spent", comment
    total = session.value("SELECT total FROM shop.as_materialized_view WHERE customer = 'ada'")
    assert float(total) == 15.75, total
    return f"{len(ran)} models, {len(tested)} tests"


def run_again(server):
    """A second dbt run, after the source has changed: tables are built anew and renamed, incremental ones take what is new."""
    session = server.connect()
    session.run("INSERT INTO shop.orders VALUES (4, 'eve', 7, '2024-01-03 00:00:00')")
    session.run("UPDATE shop.orders SET amount = 6 WHERE id = 3")
    # Kept without dbt.
    assert session.value("SELECT count(*) FROM shop.as_materialized_view") == 3
    oid = session.value("SELECT 'shop.as_materialized_view'::regclass::oid::bigint")
    ran, tested = dbt(server, "run"), dbt(server, "test")
    assert set(ran.values()) == {"success"} and set(tested.values()) == {"pass"}, (ran, tested)
    assert session.value("SELECT 'shop.as_materialized_view'::regclass::oid::bigint") == oid, "the view was made anew"
    counts = {name: session.value(f"SELECT count(*) FROM shop.{name}") for name in ("as_table", "as_view", "as_incremental", "as_appended")}
    assert counts == {"as_table": 4, "as_view": 3, "as_incremental": 4, "as_appended": 4}, counts
    assert float(session.value("SELECT amount FROM shop.as_merged WHERE id = 3")) == 6
    left = session.run("SELECT relname FROM pg_class WHERE relname LIKE '%dbt_tmp%' OR relname LIKE '%dbt_backup%'")
    assert left == [], left
    return "a new order and a changed one are in the models; nothing is left over"


def full_refresh(server):
    """dbt run --full-refresh builds everything anew."""
    ran = dbt(server, "run", "--full-refresh")
    assert set(ran.values()) == {"success"}, ran
    return f"{len(ran)} models"


def snapshot(server):
    """dbt snapshot keeps the versions of rows that change."""
    session = server.connect()
    dbt(server, "snapshot")
    session.run("UPDATE shop.orders SET amount = 8 WHERE id = 1")
    dbt(server, "snapshot")
    rows = session.run("SELECT amount::float8, dbt_valid_to IS NULL FROM shop.orders_history WHERE id = 1 ORDER BY dbt_valid_from")
    assert rows == [(10.5, False), (8.0, True)], rows
    return "two versions of a changed row"


def docs(server):
    """dbt docs generate reads the catalog."""
    with tempfile.TemporaryDirectory(prefix="millstream-dbt-") as folder:
        project = pathlib.Path(folder) / "project"
        shutil.copytree(PROJECT, project)
        environment = {**os.environ, "PGPORT": str(server.port), "NO_COLOR": "1"}
        command = [pathlib.Path(sys.executable).with_name("dbt"), "docs", "generate", "--project-dir", project, "--profiles-dir", project]
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        nodes = json.loads((project / "target" / "catalog.json").read_text())["nodes"]
    columns = nodes["model.shop.as_table"]["columns"]
    assert [c for c in columns] == ["id", "customer", "amount", "placed_at"], columns
    assert nodes["model.shop.as_table"]["metadata"]["comment"] == "every order", nodes["model.shop.as_table"]["metadata"]
    return f"{len(nodes)} relations with their columns and comments"


CHECKS = [seed_run_test, run_again, full_refresh, snapshot, docs]
