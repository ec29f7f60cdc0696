"""A worker of a computation whose result is known, for clusters: the real worker around a logistic map, without torch.

    python tools/cluster/stand_in_worker.py run JOB_FOLDER

Overrides of the request: num_steps, step_s, save_every, ledger (a file that gets a line for each finished run), payload
(bytes of each checkpoint), trouble ("full": the disk is full at half time; "die": killed each time at half time).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from recdreamer.job import worker
from recdreamer.report import Cancelled, Paused, Report
from recdreamer.shared.protocol import TEMPORARY, JobFolder, JobRequest, write_atomically

DEFAULTS = {"num_steps": 20, "step_s": 0.03, "save_every": 5, "ledger": "", "payload": 0, "trouble": ""}


def expected(seed: int, num_steps: int) -> float:
    """What a job gives that has lost no step and repeated none: chaos makes every one count.

    >>> expected(0, 0), expected(0, 1)
    (0.1, 0.351)
    """
    x = 0.1 + 0.001 * (seed % 700)
    for _ in range(num_steps):
        x = 3.9 * x * (1 - x)
    return x


def newest(job: JobFolder) -> tuple[int, float] | None:
    """Step and value of the newest checkpoint."""
    paths = sorted(job.checkpoints.glob("shape-*")) if job.checkpoints.is_dir() else []
    if not paths:
        return None
    saved = json.loads((paths[-1] / "meta.json").read_text())
    return saved["step"], saved["x"]


def save(job: JobFolder, step: int, x: float, payload: int) -> None:
    """A checkpoint, complete as soon as it has its name; the two newest are kept."""
    job.checkpoints.mkdir(exist_ok=True)
    new = job.checkpoints / f"{TEMPORARY}{step}"
    new.mkdir()
    (new / "meta.json").write_text(json.dumps({"step": step, "x": x}))
    (new / "tensors.bin").write_bytes(os.urandom(payload))
    target = job.checkpoints / f"shape-{step:08d}"
    if target.exists():
        shutil.rmtree(target)
    new.rename(target)
    for path in sorted(job.checkpoints.glob("shape-*"))[:-2]:
        shutil.rmtree(path)


def stand_in(job: JobFolder, request: JobRequest, report: Report) -> None:
    options: dict[str, Any] = DEFAULTS | request.overrides
    num_steps, middle = options["num_steps"], options["num_steps"] // 2
    step, x = newest(job) or (0, expected(request.seed, 0))
    report.stage("shape", 0, 1)
    try:
        while step < num_steps:
            x = 3.9 * x * (1 - x)
            step += 1
            time.sleep(options["step_s"])
            if step == middle:
                job.previews.mkdir(exist_ok=True)
                write_atomically(job.previews / "half.png", b"\x89PNG")
                report.preview(job.previews / "half.png")
                if options["trouble"] == "full":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.root / "tensors.bin"))
                if options["trouble"] == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
            if step % options["save_every"] == 0:
                save(job, step, x, options["payload"])
            report.progress(step, num_steps)
    except (Paused, Cancelled):
        save(job, step, x, options["payload"])
        raise
    new = job.checkpoints / f"{TEMPORARY}result"
    new.mkdir(parents=True)
    write_atomically(new / "report.json", json.dumps({"x": x}))
    new.rename(job.result)
    if options["ledger"]:
        with Path(options["ledger"]).open("a") as ledger:
            ledger.write(f"{request.seed}\n")


if __name__ == "__main__":
    sys.exit(worker.run(Path(sys.argv[2]), stand_in))
