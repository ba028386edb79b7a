"""dbt-postgres: models of each kind are built, tested, and built again; changes of the source are taken; docs and snapshots."""

from common.suite import main

if __name__ == "__main__":
    main("dbt", "python.with_dbt")
