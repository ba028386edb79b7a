"""Checks that say what they compared, and the rows of different clients in one form."""

import datetime
import decimal
import math
import sys
import traceback


class Checks:
    """Runs checks, each a function with a docstring; the name of one is its function's."""

    def __init__(self):
        self.passed, self.failed, self.skipped = [], [], []

    def run(self, check, *arguments):
        """Runs one. What it returns is said with it: what was compared."""
        name = check.__name__
        try:
            said = check(*arguments)
        except Exception:  # a failed check is told, and the others go on
            self.failed.append(name)
            print(f"FAIL {name}: {check.__doc__}\n{traceback.format_exc()}", flush=True)
            return
        self.passed.append(name)
        print(f"ok   {name}: {said}", flush=True)

    def skip(self, name, reason):
        """Notes what could not be checked."""
        self.skipped.append(name)
        print(f"skip {name}: {reason}", flush=True)

    def end(self):
        """Says how it went, and ends with 1 if a check failed."""
        failed = f" ({', '.join(self.failed)})" if self.failed else ""
        print(f"{len(self.passed)} passed, {len(self.failed)} failed{failed}, {len(self.skipped)} skipped", flush=True)
        sys.exit(1 if self.failed else 0)


def plain(value):
    """A value in a form that is the same for all clients, NaN and time zones included."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value
    if isinstance(value, decimal.Decimal):
        return value
    if isinstance(value, (memoryview, bytearray)):
        return bytes(value)
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return [plain(item) for item in value.values()]
    return value


def sorted_rows(rows):
    """Rows, or values of one column, as a sorted list of plain values."""
    return sorted((plain(list(row) if isinstance(row, (list, tuple)) else row) for row in rows), key=repr)


def same(what, found, expected):
    """Compares rows of two clients; their number."""
    found, expected = sorted_rows(found), sorted_rows(expected)
    if found != expected:
        extra = [row for row in found if row not in expected][:5]
        missing = [row for row in expected if row not in found][:5]
        raise AssertionError(
            f"{what}: {len(found)} rows, expected {len(expected)}; for example not expected {extra}, missing {missing}"
        )
    return len(expected)
