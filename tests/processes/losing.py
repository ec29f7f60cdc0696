"""Jobs whose processes are killed, on any device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "processes": 2, "optimize.num_steps": 40, "optimize.num_views": 2, "optimize.render_px": 16, "field.num_levels": 2,
    "field.log2_table_size": 10, "optimize.checkpoint_every_s": 0.3, "optimize.preview_every": 100,
    "mesh.resolution": 24, "mesh.target_faces": 400, "mesh.texture_size_px": 64,
    "rectifier.classifier.template_copies": 1,
}  # fmt: skip
"""Forty steps of the first stage, and a small mesh."""
LIMIT_S = 240.0


def new_job(folder: Path, device: str, **changes: Any) -> JobFolder:
    overrides = SETTINGS | changes.pop("overrides", {})
    request = JobRequest(
        "a red bear",
        device=device,
        seed=3,
        stages=("shape",),
        overrides=overrides,
        **{"method": "vsd"} | changes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder)


@dataclass
class Running:
    """A worker, and what it has said so far."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def until_step(self, step: int) -> None:
        """Wait for a step of the first stage."""
        assert self.process.stdout is not None
        stage = ""
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            stage = self.events[-1].get("name", stage)
            if stage == "shape" and self.events[-1].get("step", 0) >= step:
                return
        raise AssertionError(f"it ended: {self.events[-1:]}")

    def end(self) -> int:
        """Wait for its end. Returns the exit code."""
        said, _ = self.process.communicate(timeout=LIMIT_S)
        self.events += [json.loads(line) for line in said.splitlines()]
        return self.process.returncode

    def others(self) -> list[int]:
        """The processes that it has started, by their numbers."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                command = path.with_name("cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == self.process.pid and b"recdreamer" in command:
                found.append(int(path.parent.name))
        return found


def run(job: JobFolder, options: Sequence[str] = ()) -> Running:
    paths = [str(ROOT / "backend"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recdreamer", "run", str(job.root), *options]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    return Running(process)


def is_gone(pid: int, limit_s: float = 20.0) -> bool:
    """Whether a process ends in time; one that nobody has waited for counts as ended."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def check_the_loss_of_a_process(folder: Path, device: str, num_steps: int) -> None:
    """A process that is killed ends the job with one sentence, and one process resumes it from its checkpoint.

    `num_steps` take longer than it takes to notice.
    """
    from recdreamer.job.checkpoint import CheckpointStore

    job = new_job(folder, device, overrides={"optimize.num_steps": num_steps})
    running = run(job)
    running.until_step(8)
    (other,) = running.others()
    os.kill(other, signal.SIGKILL)
    code = running.end()
    error = running.events[-1]
    assert code == 1, (code, error, job.log.read_text(encoding="utf-8")[-3000:])
    assert error["type"] == "error" and error["kind"] == "processes", error
    assert error["message"].count(".") == 1 and "it was killed by SIGKILL" in error["message"], error
    assert "newest checkpoint" in error["hint"]
    kept = CheckpointStore(job.checkpoints).newest("shape")
    assert kept is not None and 0 < kept.step < num_steps
    again = run(job, ["--processes", "1"])
    again.until_step(kept.step + 1)
    assert again.others() == []
    first = next(event["step"] for event in again.events if event.get("step", 0) > 0)
    assert first == kept.step + 1
    assert again.end() == 0 and (job.result / "mesh.npz").exists()
