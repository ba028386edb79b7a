"""What analysts work with: pandas, ADBC, pgcli."""

from common.suite import main

if __name__ == "__main__":
    main("analysts", "python.with_analysts")
