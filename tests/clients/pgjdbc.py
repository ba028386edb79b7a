"""pgjdbc: the checks of java/Checks.java."""

import os
import pathlib

from common.program import main

if __name__ == "__main__":
    jars = os.environ.get("MILLSTREAM_PGJDBC", "")
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", f"{jars}/*", "Checks.java"]
    main("pgjdbc", command, pathlib.Path(__file__).parent / "java")
