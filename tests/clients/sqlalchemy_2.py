"""SQLAlchemy 2: what its inspector reflects, Core and ORM statements, transactions; pandas on top where it is there."""

from common.suite import main

if __name__ == "__main__":
    main("sqlalchemy", "python.with_sqlalchemy")
