"""psql at a terminal: what the tab key completes."""

from common.suite import main

if __name__ == "__main__":
    main("psql", "python.with_psql")
