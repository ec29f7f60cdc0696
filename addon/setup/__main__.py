"""`python -m addon.setup`: install the backend, in a process of its own. No bpy here.

Each line of the output is a JSON object: {"title", "text", "factor"} while it runs, {"problem"} at the end if it failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from .builds import BUILDS
from .installation import Installation
from .remedies import SetupError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="addon.setup")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--backend", type=Path, required=True, help="folder of the bundled package")
    parser.add_argument("--build", choices=[build.name for build in BUILDS], required=True)
    parser.add_argument("--wheels", type=Path, help="install from this folder of wheels, without network")
    options = parser.parse_args(arguments)
    build = next(build for build in BUILDS if build.name == options.build)
    try:
        wheels = options.wheels and options.wheels.absolute()
        Installation(options.data.absolute(), build, options.backend.absolute(), _say, wheels).run()
    except SetupError as error:
        _write({"problem": str(error)})
        return 1
    return 0


def _say(title: str, text: str, factor: float) -> None:
    _write({"title": title, "text": text, "factor": factor})


def _write(message: dict[str, object]) -> None:
    with suppress(OSError):  # A full disk, which the installation itself tells of.
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
