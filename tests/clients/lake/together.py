"""deltalake and the server write to one table at the same time."""

import threading

import psycopg
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

APPENDS = 25
CHANGES = 8


def _rows(first, count, writer):
    return pa.table({"id": pa.array(range(first, first + count), pa.int64()), "w": [writer] * count, "n": pa.array([0] * count, pa.int64())})


def at_the_same_time(readers):
    """Appends of two deltalake writers and two of our sessions, changes and compactions of both: each commit is there once."""
    place, session = readers.place("together"), readers.session
    write_deltalake(place, _rows(0, 1, "first"), partition_by=["w"])
    session.run(f"CREATE EXTERNAL TABLE together STORED AS DELTA LOCATION '{place}'")
    done, errors, lock = {"ours": 0, "theirs": 0, "our changes": 0, "their changes": 0, "their appends that gave way": 0}, [], threading.Lock()

    def worker(name, times, action, conflict):
        for n in range(times):
            try:
                action(n)
            except conflict:
                continue
            except Exception as error:  # told at the end
                with lock:
                    errors.append(f"{name}: {error!r}")
                return
            with lock:
                done[name] += 1

    def our_appends(at):
        of = Sessions(readers)
        return lambda n: of.run(f"INSERT INTO together SELECT g, 'o{at}', 0 FROM generate_series({at * 1000 + n * 2}, {at * 1000 + n * 2 + 1}) AS g")

    def their_appends(at):
        def append(n):
            # deltalake's appends give way to changes of rows, with an error: its caller tries again.
            for _ in range(1000):
                try:
                    return write_deltalake(place, _rows(at * 1000 + n * 2, 2, f"t{at}"), mode="append")
                except CommitFailedError:
                    with lock:
                        done["their appends that gave way"] += 1
            raise AssertionError("deltalake's append does not come through")

        return append

    of = Sessions(readers)
    our_change = lambda n: of.run("UPDATE together SET n = n + 1 WHERE w = 'first'")
    their_change = lambda n: DeltaTable(str(place)).update({"n": "n + 1000"}, predicate="w = 'first'")
    compactor = Sessions(readers)

    def compact(n):
        try:
            compactor.run("OPTIMIZE together")
        except psycopg.errors.SerializationFailure:
            pass

    threads = [
        threading.Thread(target=worker, args=("ours", APPENDS, our_appends(at), psycopg.errors.SerializationFailure))
        for at in (1, 2)
    ] + [
        threading.Thread(target=worker, args=("theirs", APPENDS, their_appends(at), ())) for at in (3, 4)
    ] + [
        threading.Thread(target=worker, args=("our changes", CHANGES, our_change, psycopg.errors.SerializationFailure)),
        threading.Thread(target=worker, args=("their changes", CHANGES, their_change, CommitFailedError)),
    ]  # fmt: skip
    done["compactions"] = 0
    threads.append(threading.Thread(target=worker, args=("compactions", 3, compact, ())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    # Our appends never give way.
    assert done["ours"] == done["theirs"] == 2 * APPENDS, done
    rows = readers.agree(place)
    expected = [(at * 1000 + n, f"{'o' if at < 3 else 't'}{at}") for at in (1, 2, 3, 4) for n in range(2 * APPENDS)]
    readers.same("the appended rows", session.run("SELECT id, w FROM together WHERE w <> 'first'"), expected)
    total = session.value("SELECT n FROM together WHERE w = 'first'")
    assert total == done["our changes"] + 1000 * done["their changes"], (total, done)
    versions = DeltaTable(str(place)).version() + 1
    return f"{rows} rows of {versions} versions, none lost or doubled: {done}; changes that gave way are not counted"


class Sessions:
    """A connection of its own for a thread, made at its first use."""

    def __init__(self, readers):
        self.readers, self.session = readers, None

    def run(self, sql):
        """Runs a statement."""
        self.session = self.session or self.readers.server.connect()
        return self.session.run(sql)


CHECKS = [at_the_same_time]
