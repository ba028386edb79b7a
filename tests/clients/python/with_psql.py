"""Checks of psql with keys typed at a terminal: its completion asks the catalog."""

import os
import pty
import select
import shutil
import subprocess
import time

if shutil.which("psql") is None:
    raise ImportError("psql is missing: run dev/setup.sh test")
VERSION = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=True).stdout.strip()
LIMIT_SECONDS = 30


class Terminal:
    """psql on a terminal of its own."""

    def __init__(self, server):
        command = ["psql", "-X", "-h", "127.0.0.1", "-p", str(server.port), "-U", "millstream", "-d", "millstream"]
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", PAGER="cat", PSQL_HISTORY="/dev/null", COLUMNS="200")
            os.execvp(command[0], command)
        self.until("=# ")

    def until(self, wanted):
        """What is printed up to a text."""
        seen, end = "", time.monotonic() + LIMIT_SECONDS
        while wanted not in seen:
            assert time.monotonic() < end, f"psql did not print {wanted!r}, but {seen!r}"
            if select.select([self.terminal], [], [], 0.2)[0]:
                seen += os.read(self.terminal, 65536).decode(errors="replace")
        return seen

    def type(self, keys, wanted):
        """Types keys and waits for a text."""
        os.write(self.terminal, keys.encode())
        return self.until(wanted)

    def end(self):
        """Leaves psql."""
        os.write(self.terminal, b"\x15\\q\n")
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def completed(server, cases):
    """Types the beginning of each, then the tab key, and waits for the whole."""
    terminal = Terminal(server)
    for number, (typed, whole) in enumerate(cases):
        terminal.type(f"{typed}\t", whole)
        # The line is thrown away.
        terminal.type(f"\x15\\echo done {number}\n", f"\ndone {number}")
    terminal.end()
    return f"{len(cases)} words"


def objects(server):
    """Names of tables, views, columns, schemas, functions, roles and databases."""
    session = server.connect()
    session.run("CREATE SCHEMA terminal_schema")
    session.run("CREATE TABLE terminal_table (terminal_key INT PRIMARY KEY, terminal_value TEXT)")
    session.run("CREATE VIEW terminal_view AS SELECT terminal_key FROM terminal_table")
    session.run("CREATE MATERIALIZED VIEW kept_at_terminal AS SELECT terminal_key FROM terminal_table")
    session.run("CREATE TABLE terminal_schema.inside_it (a INT)")
    session.run("CREATE FUNCTION terminal_function(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT $1'")
    return completed(server, [
        ("SELECT * FROM terminal_t", "terminal_table "),
        ("SELECT * FROM terminal_v", "terminal_view "),
        ("SELECT * FROM kept_", "kept_at_terminal "),
        ("SELECT * FROM terminal_schema.ins", "terminal_schema.inside_it "),
        ("UPDATE terminal_table SET terminal_v", "terminal_value "),
        ("DELETE FROM terminal_ta", "terminal_table "),
        ("INSERT INTO terminal_ta", "terminal_table "),
        ("DROP VIEW terminal_v", "terminal_view "),
        ("DROP MATERIALIZED VIEW kept", "kept_at_terminal "),
        ("DROP FUNCTION terminal_f", "terminal_function "),
        ("ALTER TABLE terminal_ta", "terminal_table "),
        ("SET search_p", "search_path "),
        ("SHOW statement_t", "statement_timeout "),
        # Its key has a name that begins likewise.
        ("\\d terminal_t", "able"),
        ("\\dn terminal_s", "terminal_schema "),
        ("\\df terminal_f", "terminal_function "),
        ("\\du mill", "millstream "),
        ("\\c mill", "millstream "),
        ("\\sf terminal_f", "terminal_function "),
        ("\\sv terminal_v", "terminal_view "),
    ])  # fmt: skip


CHECKS = [objects]
