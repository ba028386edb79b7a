"""A suite: checks of one client, each with the server that the suite has started."""

import importlib
import sys

from .checks import Checks


def main(name, module):
    """Runs the checks of a module, or those that the command line names. A package that is not there skips all of them."""
    checks = Checks()
    only = sys.argv[1:]
    try:
        from .server import Server

        suite = importlib.import_module(module)
    except ImportError as error:
        checks.skip(name, f"nothing is compared: {error}")
        checks.end()
    print(f"     {suite.VERSION}")
    with Server() as server:
        for check in suite.CHECKS:
            if not only or check.__name__ in only:
                checks.run(check, server)
    checks.end()
