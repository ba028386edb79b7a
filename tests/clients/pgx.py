"""Go's pgx: the checks of go/main.go."""

import os
import pathlib

from common.program import main

if __name__ == "__main__":
    main("pgx", [os.environ.get("MILLSTREAM_PGX", "")], pathlib.Path(__file__).parent / "go")
