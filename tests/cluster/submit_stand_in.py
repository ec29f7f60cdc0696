"""`recdreamer run FOLDER --on ADDRESS`, with the stand-in worker on the node: python submit_stand_in.py FOLDER ADDRESS"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from recdreamer.cluster.destination import destination
from recdreamer.cluster.submit import submit

STAND_IN = Path(__file__).resolve().parents[2] / "tools" / "cluster" / "stand_in_worker.py"


if os.environ.get("OTHER_RAY"):  # As if another version were installed here.
    import ray

    ray.__version__ = os.environ["OTHER_RAY"]

if __name__ == "__main__":
    program = (sys.executable, "-P", str(STAND_IN))
    sys.exit(submit(Path(sys.argv[1]), lambda: replace(destination(sys.argv[2]), program=program)))
