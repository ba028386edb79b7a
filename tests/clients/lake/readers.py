"""The three readers of a Delta table, each as a function from a place and a version to plain rows."""

import pathlib

from deltalake import DeltaTable

from common.checks import same


def deltalake_rows(place, version=None, columns=None):
    """The rows as the deltalake package reads them."""
    table = DeltaTable(str(place), version=version).to_pyarrow_table(columns=columns)
    return [tuple(row.values()) for row in table.to_pylist()]


class DuckDb:
    """DuckDB with its extension for Delta tables, which comes as a package of its own."""

    def __init__(self):
        import duckdb
        import duckdb_extension_delta

        [extension] = pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("delta.duckdb_extension")
        self.connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        self.connection.execute(f"LOAD '{extension}'")
        self.connection.execute("SET TimeZone = 'UTC'")
        self.version = duckdb.__version__

    def run(self, sql):
        """The rows of a statement."""
        return self.connection.execute(sql).fetchall()

    def rows(self, place, version=None):
        """The rows of a table."""
        of = "" if version is None else f", version => {version}"
        return self.run(f"SELECT * FROM delta_scan('{place}'{of})")


class Readers:
    """A session of the server, and the other readers that are there."""

    def __init__(self, server, duckdb):
        self.server = server
        self.folder = server.folder
        self.session = server.connect()
        self.duckdb = duckdb

    same = staticmethod(same)

    def place(self, name):
        """Where a table of a check is."""
        return self.folder / "lake" / name

    def all_read(self, place, expected, version=None):
        """All three read these rows; how many rows it is."""
        of = "" if version is None else f", version => {version}"
        what = f"version {version} of {place.name}" if version is not None else place.name
        rows = same(f"{what} read by us", self.session.run(f"SELECT * FROM read_delta('{place}'{of})"), expected)
        same(f"{what} read by deltalake", deltalake_rows(place, version), expected)
        if self.duckdb:
            same(f"{what} read by DuckDB", self.duckdb.rows(place, version), expected)
        return rows

    def agree(self, place, version=None):
        """The others read what we read; the number of rows."""
        of = "" if version is None else f", version => {version}"
        return self.all_read(place, self.session.run(f"SELECT * FROM read_delta('{place}'{of})"), version)

    def versions_agree(self, place):
        """The same of every version that is there; the number of versions."""
        versions = range(DeltaTable(str(place)).version() + 1)
        for version in versions:
            self.agree(place, version)
        return len(versions)

    @property
    def names(self):
        """Who reads."""
        return "our SELECT, deltalake and DuckDB" if self.duckdb else "our SELECT and deltalake"
