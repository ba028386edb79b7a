"""What DBeaver, DataGrip, Metabase, Grafana and Power BI ask the catalog: the statements of catalog/*.sql, each of which must run."""

from common.suite import main

if __name__ == "__main__":
    main("catalog queries", "python.with_tools")
