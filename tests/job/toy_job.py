"""A real worker process around a small computation whose result is known: a logistic map, checkpointed.

    python toy_job.py JOB_FOLDER             run or resume the job
    python toy_job.py JOB_FOLDER --again S   repeat its stage S
    python toy_job.py JOB_FOLDER --kill N    start it N times and SIGKILL each at a random moment

Overrides of the request choose its length and its troubles. Importing torch takes longer than the job:
only jobs that save do it, and the killer does it once and forks.
"""

import ctypes
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from recdreamer.job import worker
from recdreamer.report import Cancelled, JobError, Paused, Report
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically


class Saves:
    """The toy's checkpoints, through the real store."""

    def __init__(self, folder: Path) -> None:
        import torch

        from recdreamer.job.checkpoint import CheckpointStore

        torch.set_num_threads(1)
        self._as_tensor = torch.tensor
        self._dtype = torch.float64
        self._store = CheckpointStore(folder)

    def load(self) -> tuple[int, float] | None:
        saved = self._store.newest("toy")
        return None if saved is None else (saved.step, saved.tensors["x"].item())

    def save(self, step: int, x: float) -> None:
        self._store.save("toy", step, {"x": self._as_tensor(x, dtype=self._dtype)}, {})


def toy(job: JobFolder, request: JobRequest, report: Report) -> None:
    """x <- 3.9 x (1 - x): after some steps every lost or repeated one changes the result wholly."""
    options = {"num_steps": 300, "step_s": 0.002, "save_every": 0, "trouble": "", "trouble_at": 30}
    options |= request.overrides
    saves = Saves(job.checkpoints) if options["save_every"] else None
    step, x = (saves and saves.load()) or (0, 0.1 + 0.01 * request.seed)
    report.stage("toy", 0, 1)
    try:
        while step < options["num_steps"]:
            x = 3.9 * x * (1 - x)
            step += 1
            time.sleep(options["step_s"])
            if step == options["trouble_at"]:
                x = make_trouble(options["trouble"], x, report)
            if saves and step % options["save_every"] == 0:
                saves.save(step, x)
            report.progress(step, options["num_steps"])
    except (Paused, Cancelled):
        if saves:
            saves.save(step, x)
        raise
    job.result.mkdir(exist_ok=True)
    write_atomically(job.result / "x.json", json.dumps(x))


def make_trouble(kind: str, x: float, report: Report) -> float:
    if kind == "noise":
        print("noise of python")
        os.write(1, b"noise of descriptor 1\n")
        ctypes.CDLL(None).puts(b"noise of C")
        ctypes.CDLL(None).fflush(None)
        subprocess.run(["echo", "noise of a child"], check=True)
        subprocess.run(["cat"], check=True)  # Would hang, or eat commands, on the worker's own input.
    elif kind == "nan_checkpoint":
        return x * float("nan")
    elif kind == "nan_share":
        report.pose_distribution({"front": float("nan")})
    elif kind == "expected":
        raise JobError("weights", "The weights are missing.", "Download them.")
    elif kind == "unexpected":
        raise ZeroDivisionError("what a bug\nlooks like")
    elif kind == "disk_full":
        from recdreamer.job import checkpoint

        def half_then_full(path: Path, data: bytes) -> None:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        checkpoint._write = half_then_full
    return x


def run_and_kill(folder: Path, times: int) -> None:
    """Every round forks a worker and kills it; prints how each ended."""
    import safetensors.torch

    assert safetensors.torch  # Imported here, so that the workers need no time for it.
    rng = random.Random(0)
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            os._exit(worker.run(folder, toy))
        time.sleep(rng.uniform(0.01, 0.25))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    if "--kill" in sys.argv:
        run_and_kill(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        stage = sys.argv[3] if "--again" in sys.argv else None
        sys.exit(worker.run(Path(sys.argv[1]), toy, stage and (stage, None)))
