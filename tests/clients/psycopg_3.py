"""psycopg 3: text and binary, prepared statements, cursors on the server, pipeline, COPY, async, pool, notifications."""

from common.suite import main

if __name__ == "__main__":
    main("psycopg", "python.with_psycopg")
