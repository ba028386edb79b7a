"""node-postgres: the checks of node/checks.js."""

import os
import pathlib

from common.program import main

if __name__ == "__main__":
    main("node-postgres", ["node", "checks.js"], os.environ.get("MILLSTREAM_NODE", pathlib.Path(__file__).parent / "node"))
