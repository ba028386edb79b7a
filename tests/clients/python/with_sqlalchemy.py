"""Checks of SQLAlchemy 2 with psycopg 3."""

import datetime
import decimal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg

VERSION = f"SQLAlchemy {sa.__version__}"


def engine_of(server, **options):
    """An engine with SQLAlchemy's own defaults."""
    return sa.create_engine(f"postgresql+psycopg://millstream@127.0.0.1:{server.port}/millstream", **options)


def tables_of(metadata):
    """Two tables with what can be reflected: keys, a foreign key, defaults, comments, types."""
    customers = sa.Table(
        "customers",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(40), nullable=False, comment="as on the contract"),
        sa.Column("rating", sa.SmallInteger, server_default="3"),
        sa.Column("balance", sa.Numeric(12, 2)),
        sa.Column("score", sa.Double),
        sa.Column("seen", sa.DateTime(timezone=True)),
        sa.Column("born", sa.Date),
        sa.Column("tags", pg.ARRAY(sa.Text)),
        sa.Column("extra", pg.JSONB),
        sa.Column("active", sa.Boolean),
        sa.CheckConstraint("rating > 0", name="rated"),
        comment="who buys",
    )
    return customers


def create_and_reflect(server):
    """create_all with its look whether the table is there; reflection gives the table back."""
    metadata = sa.MetaData()
    tables_of(metadata)
    engine = engine_of(server)
    metadata.create_all(engine)
    metadata.create_all(engine)
    reflected = sa.MetaData()
    reflected.reflect(engine)
    table = reflected.tables["customers"]
    columns = {c.name: (c.type.compile(engine.dialect), c.nullable) for c in table.columns}
    assert columns == {
        "id": ("BIGINT", False),
        "name": ("VARCHAR(40)", False),
        "rating": ("SMALLINT", True),
        "balance": ("NUMERIC(12, 2)", True),
        "score": ("DOUBLE PRECISION", True),
        "seen": ("TIMESTAMP WITH TIME ZONE", True),
        "born": ("DATE", True),
        "tags": ("TEXT[]", True),
        "extra": ("JSONB", True),
        "active": ("BOOLEAN", True),
    }, columns
    assert [c.name for c in table.primary_key.columns] == ["id"]
    assert table.comment == "who buys" and table.c.name.comment == "as on the contract"
    return f"{len(columns)} columns with types, key and comments"


def inspector(server):
    """Each method of the inspector answers: of one table, and of all at once."""
    engine = engine_of(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE parents (a INT, b INT, note TEXT, PRIMARY KEY (b, a))")
        connection.exec_driver_sql("CREATE VIEW parents_view AS SELECT a, b FROM parents")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE MATERIALIZED VIEW parents_kept AS SELECT b, count(*) AS n FROM parents GROUP BY b")
        connection.commit()
    inspect = sa.inspect(engine)
    assert inspect.default_schema_name == "public"
    assert {"public", "information_schema"} <= set(inspect.get_schema_names()), inspect.get_schema_names()
    assert {"customers", "parents"} <= set(inspect.get_table_names()), inspect.get_table_names()
    assert inspect.get_view_names() == ["parents_view"], inspect.get_view_names()
    assert inspect.get_materialized_view_names() == ["parents_kept"], inspect.get_materialized_view_names()
    assert inspect.has_table("parents") and inspect.has_table("parents_view") and not inspect.has_table("nobody")
    assert inspect.get_pk_constraint("parents")["constrained_columns"] == ["b", "a"]
    assert inspect.get_pk_constraint("parents")["name"] == "parents_pkey"
    assert inspect.get_foreign_keys("parents") == [] and inspect.get_unique_constraints("parents") == []
    assert inspect.get_indexes("parents") == [], inspect.get_indexes("parents")
    assert [c["name"] for c in inspect.get_check_constraints("customers")] == ["rated"]
    assert inspect.get_table_comment("customers") == {"text": "who buys"}
    assert "FROM parents" in inspect.get_view_definition("parents_view")
    assert [c["name"] for c in inspect.get_columns("parents_kept")] == ["b", "n"]
    assert inspect.get_sequence_names() == [] and inspect.get_temp_table_names() == []
    assert inspect.get_enums() == [] and inspect.get_domains() == []
    assert inspect.get_table_options("parents") == {}
    for method in ("columns", "pk_constraint", "foreign_keys", "indexes", "unique_constraints", "table_comment"):
        answer = getattr(inspect, f"get_multi_{method}")()
        assert (None, "parents") in answer, (method, answer)
    default = next(c for c in inspect.get_columns("customers") if c["name"] == "rating")["default"]
    assert default and "3" in default, default
    inspect.get_multi_check_constraints(kind=sa.engine.reflection.ObjectKind.ANY)
    inspect.get_multi_columns(schema="information_schema", kind=sa.engine.reflection.ObjectKind.ANY)
    return "schemas, tables, views, keys, checks, comments, definitions"


def core_statements(server):
    """insert, select, update, delete and what they return."""
    metadata = sa.MetaData()
    customers = tables_of(metadata)
    engine = engine_of(server)
    seen = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
    rows = [
        {"id": n, "name": f"c{n}", "balance": decimal.Decimal(n) / 4, "tags": ["a", str(n)], "extra": {"n": n}, "seen": seen}
        for n in range(1, 301)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(customers), rows)
        more = sa.insert(customers).values(id=1000, name="last").returning(customers.c.id, customers.c.rating)
        assert connection.execute(more).all() == [(1000, 3)]
    with engine.connect() as connection:
        query = sa.select(sa.func.count(), sa.func.sum(customers.c.balance)).where(customers.c.id.between(1, 300))
        assert connection.execute(query).one() == (300, decimal.Decimal("11287.50"))
        row = connection.execute(sa.select(customers).where(customers.c.id == 7)).one()
        assert (row.tags, row.extra, row.seen) == (["a", "7"], {"n": 7}, seen), row
        some = sa.select(customers.c.id).where(customers.c.id.in_([3, 1, 2])).order_by(customers.c.id.desc()).limit(2).offset(1)
        assert connection.scalars(some).all() == [2, 1]
        like = sa.select(sa.func.count()).where(customers.c.name.ilike("C1%"), customers.c.name.regexp_match("^c1[0-9]$"))
        assert connection.scalar(like) == 10
        inside = sa.select(customers.c.id).where(customers.c.extra["n"].as_integer() == 12)
        assert connection.scalars(inside).all() == [12]
    with engine.begin() as connection:
        changed = connection.execute(sa.update(customers).where(customers.c.id <= 10).values(name=customers.c.name + "!"))
        assert changed.rowcount == 10, changed.rowcount
        gone = connection.execute(sa.delete(customers).where(customers.c.id > 290).returning(customers.c.id))
        assert len(gone.all()) == 11
        upsert = pg.insert(customers).values(id=1, name="again")
        upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"name": upsert.excluded.name})
        connection.execute(upsert)
        assert connection.scalar(sa.select(customers.c.name).where(customers.c.id == 1)) == "again"
        ranked = sa.func.row_number().over(order_by=customers.c.balance.desc())
        cte = sa.select(customers.c.id, ranked.label("r")).cte("ranked")
        assert connection.scalars(sa.select(cte.c.id).where(cte.c.r <= 2).order_by(cte.c.r)).all() == [290, 289]
    return "insert of 300 rows, RETURNING, ON CONFLICT, LIKE, regular expressions, JSON, CTE, windows"


def transactions(server):
    """Rolled back is gone, nested is a savepoint, the levels of isolation can be asked for."""
    engine = engine_of(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE steps (id INT PRIMARY KEY)")
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO steps VALUES (1)")
        connection.rollback()
        connection.exec_driver_sql("INSERT INTO steps VALUES (2)")
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("INSERT INTO steps VALUES (2)")
        except sa.exc.IntegrityError:
            pass
        connection.commit()
        assert connection.exec_driver_sql("SELECT id FROM steps").all() == [(2,)]
    for level in ("AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        try:
            with engine.connect().execution_options(isolation_level=level) as connection:
                connection.exec_driver_sql("SELECT 1")
        except sa.exc.DBAPIError as error:
            assert error.orig.sqlstate == "0A000", (level, error)
    return "rollback, savepoint, four levels of isolation"


def object_relational(server):
    """The ORM: mapped classes, a relationship, unit of work, streaming."""

    class Base(orm.DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "orm_parents"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        name: orm.Mapped[str]
        children: orm.Mapped[list["Child"]] = orm.relationship(
            primaryjoin="Parent.id == foreign(Child.parent_id)", back_populates="parent"
        )

    class Child(Base):
        __tablename__ = "orm_children"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
        parent_id: orm.Mapped[int]
        parent: orm.Mapped[Parent] = orm.relationship(
            primaryjoin="Parent.id == foreign(Child.parent_id)", back_populates="children"
        )

    engine = engine_of(server)
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all([Parent(id=n, name=f"p{n}", children=[Child(id=2 * n), Child(id=2 * n + 1)]) for n in range(5)])
        session.commit()
    with orm.Session(engine) as session:
        parents = session.scalars(sa.select(Parent).options(orm.selectinload(Parent.children)).order_by(Parent.id)).all()
        assert [p.name for p in parents] == [f"p{n}" for n in range(5)]
        assert all(len(p.children) == 2 for p in parents)
        joined = session.scalars(sa.select(Child).options(orm.joinedload(Child.parent)).order_by(Child.id)).all()
        assert joined[0].parent.name == "p0", joined[0].parent.name
        parents[0].name = "changed"
        session.delete(parents[1].children[0])
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Child)) == 9
        streamed = session.execute(sa.select(Child.id).order_by(Child.id).execution_options(yield_per=2)).scalars()
        assert len(list(streamed)) == 9
    Base.metadata.drop_all(engine)
    return "5 parents, 10 children: flushed, loaded, changed, streamed"


CHECKS = [create_and_reflect, inspector, core_statements, transactions, object_relational]
