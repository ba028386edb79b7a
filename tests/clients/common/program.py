"""A client in another language: a program that prints a line for each of its checks."""

import os
import subprocess
import sys

from .checks import Checks

LIMIT_SECONDS = 240


def main(name, command, folder):
    """Runs `command` in `folder` with a server's port in PGPORT, and takes over what it says of its checks.

    A line is `ok   NAME: what was compared` or `FAIL NAME: why`; other lines are shown.
    """
    checks = Checks()
    reason = os.environ.get("MILLSTREAM_SKIP")
    if reason:
        checks.skip(name, f"nothing is compared: {reason}")
        checks.end()
    try:
        from .server import Server
    except ImportError as error:
        checks.skip(name, f"nothing is compared: {error}")
        checks.end()
    with Server() as server:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PGPORT": str(server.port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        log = server.log.read_text() if done.returncode else ""
    for line in done.stdout.splitlines():
        print(line, flush=True)
        said, _, rest = line.partition(" ")
        if said == "ok":
            checks.passed.append(rest.split(":")[0].strip())
        elif said == "FAIL":
            checks.failed.append(rest.split(":")[0].strip())
    if not checks.passed or (done.returncode and not checks.failed):
        print(f"FAIL {name}: ended with {done.returncode}\n{log}", file=sys.stderr)
        checks.failed.append(name)
    checks.end()
