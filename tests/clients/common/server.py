"""A server on free ports and a folder of its own, which goes with the test."""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import psycopg

READY_LIMIT_SECONDS = 120


def free_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ends_with_the_test():
    # PR_SET_PDEATHSIG: the kernel ends the server however the test ends.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """`millstream serve`, the binary of MILLSTREAM_BINARY. A context: left, the process and its folder are gone."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="millstream-clients-"))
        self.port, self.http = free_port(), free_port()
        command = [os.environ["MILLSTREAM_BINARY"], "serve", "--data-dir", self.folder / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--http", f"127.0.0.1:{self.http}"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_ends_with_the_test
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self):
        """Where its output goes."""
        return self.folder / "log"

    def _wait(self):
        end = time.monotonic() + READY_LIMIT_SECONDS
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended while starting:\n{self.log.read_text()}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"the server is not ready: {error}\n{self.log.read_text()}") from error
                time.sleep(0.05)

    def connect(self):
        """A session that commits each statement."""
        return Session(
            psycopg.connect(
                host="127.0.0.1", port=self.port, user="millstream", dbname="millstream", autocommit=True
            )
        )


class Session:
    """A connection of psycopg's."""

    def __init__(self, connection):
        self.connection = connection

    def run(self, sql):
        """Runs a statement; its rows, or how many it changed."""
        cursor = self.connection.execute(sql)
        return cursor.fetchall() if cursor.description else cursor.rowcount

    def value(self, sql):
        """The one value of a query."""
        [[value]] = self.run(sql)
        return value

    def error(self, sql):
        """The error of a statement that must fail, with SQLSTATE and hint."""
        try:
            answer = self.run(sql)
        except psycopg.Error as error:
            diagnosis = error.diag
            hint = f" HINT: {diagnosis.message_hint}" if diagnosis.message_hint else ""
            return f"{diagnosis.sqlstate}: {diagnosis.message_primary}{hint}"
        raise AssertionError(f"no error, but {answer!r}, of: {sql}")

    def eventually(self, sql, expected, limit_seconds=60):
        """Repeats a query of one value until it is as expected."""
        end = time.monotonic() + limit_seconds
        while (found := self.value(sql)) != expected:
            assert time.monotonic() < end, f"{found!r} instead of {expected!r} from: {sql}"
            time.sleep(0.1)
