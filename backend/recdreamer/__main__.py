"""`python -m recdreamer ...` is the command `recdreamer ...`."""

import os
import sys

# "python -m" looks for modules in the working folder first, which may be a stranger's. (A recdreamer.py there has already
# won: "recdreamer" and "python -P -m recdreamer" have no such hole.) A checkout in which one works stays.
HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(HOME):
    del sys.path[0]

from recdreamer.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
