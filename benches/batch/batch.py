"""Batch SQL over the wire against others on the same files, in turns within one run: what is printed was measured.

* tpch: the 22 queries of TPC-H at scale factor 1 (TPCH_SCALE), every row fetched, against DuckDB and DataFusion in this process.
* daily: 50 million payments (ROWS) by day, sum of the amounts, written as Parquet, in one file and in a folder a day.
* points: `pgbench -S -M prepared` against PostgreSQL's, both with one client and with eight.
* wide: rows a second of a large SELECT, in text and in binary.
"""

import datetime
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from common.server import Server

RUNS = int(os.environ.get("RUNS", "3"))
THREADS = os.cpu_count()
CACHE = pathlib.Path(os.environ["MILLSTREAM_CACHE"])
TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]
QUERIES = pathlib.Path(__file__).parent.parent.parent / "tests/clients/tpch"
DAILY = "SELECT date, sum(amount) AS total, count(*) AS n FROM payments GROUP BY date"


class Millstream:
    name = "millstream"

    def __init__(self, client):
        self.client = client

    def table(self, name, path):
        self.client.run(f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{path}'")

    def query(self, sql):
        return self.client.run(sql)

    def write(self, sql, path, by):
        options = f", PARTITION_BY ({by})" if by else ""
        target = f"{path}/" if by else f"{path}/all.parquet"
        self.client.run(f"COPY ({sql}) TO '{target}' WITH (FORMAT parquet{options})")


class DuckDB:
    def __init__(self):
        import duckdb

        self.name = f"duckdb {duckdb.__version__}"
        self.connection = duckdb.connect(config={"threads": THREADS})

    def table(self, name, path):
        files = f"{path}*.parquet" if path.endswith("/") else path
        self.connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}')")

    def query(self, sql):
        return self.connection.execute(sql).fetchall()

    def write(self, sql, path, by):
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        options = f", PARTITION_BY ({by})" if by else ""
        target = path if by else f"{path}/all.parquet"
        self.connection.execute(f"COPY ({sql}) TO '{target}' (FORMAT parquet{options})")


class DataFusion:
    def __init__(self):
        import datafusion

        self.name = f"datafusion {datafusion.__version__}"
        self.context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(THREADS))

    def table(self, name, path):
        self.context.register_parquet(name, path)

    def query(self, sql):
        # All columns as Arrow, not as Python's objects: less work than the others have.
        return self.context.sql(sql).collect()

    def write(self, sql, path, by):
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        target, options = (path + "/", f" PARTITIONED BY ({by})") if by else (f"{path}/all.parquet", "")
        self.context.sql(f"COPY ({sql}) TO '{target}' STORED AS PARQUET{options}").collect()


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(engines, work):
    """The median seconds of each engine, which take turns; the first round warms up. None for one that fails."""
    times = {engine.name: [] for engine in engines}
    for turn in range(RUNS + 1):
        for engine in engines:
            if times[engine.name] is None:
                continue
            try:
                seconds = timed(lambda: work(engine))
            except Exception as error:  # noqa: BLE001, an engine that refuses one query goes on with the others
                print(f"  {engine.name} failed: {str(error).splitlines()[0]}")
                times[engine.name] = None
                continue
            if turn:
                times[engine.name].append(seconds)
    return {name: statistics.median(all) if all else None for name, all in times.items()}


def shown(seconds):
    return "-" if seconds is None else f"{seconds:.3f}"


def table_of(title, rows, engines):
    """Prints medians and their geometric means."""
    print(f"\n| {title} | " + " | ".join(e.name for e in engines) + " |")
    print("|---|" + "---|" * len(engines))
    for label, medians in rows:
        print(f"| {label} | " + " | ".join(shown(medians[e.name]) for e in engines) + " |")
    complete = [m for _, m in rows if all(m.values())]
    means = {e.name: math.exp(statistics.mean(math.log(m[e.name]) for m in complete)) for e in engines}
    print(f"| geometric mean of {len(complete)} | " + " | ".join(shown(means[e.name]) for e in engines) + " |")
    own = means["millstream"]
    print("| millstream is faster by | " + " | ".join(f"{means[e.name] / own:.2f}" for e in engines) + " |")


def tpch(client):
    scale = os.environ.get("TPCH_SCALE", "1")
    folder = CACHE / f"tpch-{scale}"
    if not (folder / "complete").exists():
        command = pathlib.Path(sys.executable).parent / "tpchgen-cli"
        subprocess.run([command, "parquet", "-s", scale, "--output-dir", folder], check=True, stdin=subprocess.DEVNULL)
        (folder / "complete").touch()
    engines = [Millstream(client), DuckDB(), DataFusion()]
    for engine in engines:
        for name in TABLES:
            engine.table(name, f"{folder}/{name}.parquet")
    rows = []
    for path in sorted(QUERIES.glob("q*.sql")):
        sql = path.read_text()
        rows.append((path.stem, in_turns(engines, lambda engine: engine.query(sql))))
    table_of(f"TPC-H SF{scale}, seconds", rows, engines)


def daily(client):
    count = int(os.environ.get("ROWS", "50000000"))
    folder = CACHE / f"payments-{count}"
    engines = [Millstream(client), DuckDB(), DataFusion()]
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in range(16):
            engines[1].connection.execute(
                f"""COPY (SELECT i AS id, (hash(i) % 1000000)::BIGINT AS account,
                          ((hash(i + 1) % 1000000) / 100.0)::DECIMAL(12, 2) AS amount,
                          ['EUR', 'USD', 'GBP', 'JPY'][1 + hash(i + 2) % 4] AS currency,
                          DATE '2026-01-01' + (i % 90)::INT AS date
                   FROM range({count * file // 16}, {count * (file + 1) // 16}) AS r(i))
                   TO '{folder}/{file:02}.parquet' (FORMAT parquet, COMPRESSION zstd)"""
            )
        (folder / "complete").touch()
    for engine in engines:
        engine.table("payments", f"{folder}/")
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as scratch:

        def write(engine, by):
            path = f"{scratch}/{engine.name.replace(' ', '-')}"
            shutil.rmtree(path, ignore_errors=True)
            engine.write(DAILY, path, by)

        rows = [(label, in_turns(engines, lambda engine: write(engine, by))) for label, by in [("one file", None), ("a folder a day", "date")]]
    table_of(f"daily job, {count / 1e6:.0f} M payments, seconds", rows, engines)


def pgbench(port, user, database, clients, script):
    command = ["pgbench", "-n", "-M", "prepared", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-c", str(clients)]
    command += ["-j", "1", "-T", "8", "-f", script, database]
    output = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r"tps = ([0-9.]+)", output.stdout)
    if not found:
        raise RuntimeError(output.stderr.strip())
    return float(found[1])


def points(client, server):
    binaries = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries or not shutil.which("pgbench"):
        print("\npoints: skipped, for there is no PostgreSQL with pgbench (apt install postgresql postgresql-contrib)")
        return
    count = 1_000_000
    schema = "CREATE TABLE pgbench_accounts (aid INT PRIMARY KEY, bid INT, abalance INT, filler CHAR(84))"
    fill = f"INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM generate_series(1, {count}) AS g(i)"
    script = "\\set aid random(1, 1000000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
    client.run(schema)
    client.run(fill)
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        file = pathlib.Path(folder) / "select.sql"
        file.write_text(script)
        os.chmod(folder, 0o755)
        cluster = f"{folder}/pg"
        os.mkdir(cluster)
        as_user = []
        if os.geteuid() == 0:
            shutil.chown(cluster, "nobody")
            as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": True}
        subprocess.run([*as_user, binaries[-1] / "initdb", "-A", "trust", "-U", "postgres", "-D", cluster], **quiet)
        from common.server import free_port

        port = free_port()
        options = f"-p {port} -k '' -c listen_addresses=127.0.0.1"
        control = [*as_user, binaries[-1] / "pg_ctl", "-D", cluster, "-w", "-l", f"{cluster}/log"]
        subprocess.run([*control, "-o", options, "start"], **quiet)
        try:
            psql = ["psql", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", schema, "-c", fill]
            subprocess.run([*psql, "-c", "VACUUM ANALYZE pgbench_accounts"], **quiet)
            version = subprocess.run([binaries[-1] / "postgres", "--version"], capture_output=True, text=True).stdout.strip()
            print(f"\n| point reads a second, 1 M rows | millstream | {version} | ratio |\n|---|---|---|---|")
            for clients in [1, 8]:
                ours, theirs = [], []
                for _ in range(RUNS):
                    ours.append(pgbench(server.port, "millstream", "millstream", clients, file))
                    theirs.append(pgbench(port, "postgres", "postgres", clients, file))
                a, b = statistics.median(ours), statistics.median(theirs)
                print(f"| {clients} client{'s' if clients > 1 else ''} | {a:.0f} | {b:.0f} | {a / b:.2f} |")
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)


def wide(client):
    count = 2_000_000
    sql = (
        f"SELECT i AS id, i * 3 AS b, (i % 1000) * 1.25 AS amount, 'account ' || i AS name, "
        f"TIMESTAMP '2026-01-01 00:00:00' + i * INTERVAL '1 second' AS at FROM generate_series(1, {count}) AS g(i)"
    )
    print(f"\n| a SELECT of {count / 1e6:.0f} M rows of 5 columns | rows a second |\n|---|---|")
    for label, how in [("text, COPY TO STDOUT", f"COPY ({sql}) TO STDOUT"), ("binary, the extended protocol", None)]:
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            if how:
                with client.connection.cursor() as cursor, cursor.copy(how) as copy:
                    for _ in copy:
                        pass
            else:
                # The whole answer, as libpq keeps it: no values of Python's are made.
                with client.connection.cursor(binary=True) as cursor:
                    cursor.execute(sql)
            times.append(time.perf_counter() - start)
        print(f"| {label} | {count / statistics.median(times):,.0f} |")


def main():
    wanted = set(sys.argv[1:]) or {"tpch", "daily", "points", "wide"}
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{datetime.date.today()}, {platform.node()}: {THREADS} x {cpu}; medians of {RUNS} runs in turns, the first round not counted")
    with Server() as server:
        client = server.connect()
        for name, run in [("tpch", tpch), ("daily", daily), ("wide", wide)]:
            if name in wanted:
                run(client)
        if "points" in wanted:
            points(client, server)


if __name__ == "__main__":
    main()
