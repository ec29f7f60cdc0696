"""Blender and workers killed at random: does every job end once, with its result, and no button stuck?

    python tools/kills/proof.py OUT [--kills 50] [--seed 0]

A Blender without a window (`artist.py`) generates with the embedded prior and few steps, job after job, resumes what was
interrupted and imports what is done. It, its workers, or both at once are killed by SIGKILL; a killed Blender is started
again. In the end every result is compared with that of a run that nobody disturbed. Writes OUT/report.json, and ends
with 0 if all holds. For Linux; standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = ("worker", "blender", "both")
LOOK_S = 0.1
WAIT_S = 40.0
"""Longest time between a recovery and the next kill."""
RECOVERY_S = 180.0
"""Time after a kill in which something must work again."""
ORPHANS_S = 30.0
"""Time in which the last worker ends after its Blender has."""
LOCK = "worker.lock"
"""File in a job folder that its worker has open as long as the folder is its own."""
COMPARED = ("mesh.npz", "model.glb", "albedo.png", "normal.png")
"""Files of a result that hold no time."""


@dataclass
class Report:
    kills: Counter[str] = field(default_factory=Counter)
    stages_hit: Counter[str] = field(default_factory=Counter)
    """What the job did when it was hit."""
    jobs: int = 0
    imported: int = 0
    lost: list[str] = field(default_factory=list)
    """Jobs whose folder is gone or damaged."""
    wrong: list[str] = field(default_factory=list)
    """Jobs whose result is not that of an undisturbed run."""
    twice: list[str] = field(default_factory=list)
    """Jobs that two workers had locked at once. One that has let go may take a second to end."""
    orphans: list[str] = field(default_factory=list)
    """Processes that were left behind."""
    stuck: list[str] = field(default_factory=list)
    """What did not work again in time, or which button refused."""

    @property
    def holds(self) -> bool:
        return not (self.lost or self.wrong or self.twice or self.orphans or self.stuck)


class Proof:
    def __init__(self, out: Path, blender: Path, backend: Path, seed: int) -> None:
        self.out, self.blender, self.backend = out, blender, backend
        self.random, self.report = random.Random(seed), Report()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, num_kills: int) -> Report:
        self.out.mkdir(parents=True)
        archive = ROOT / _last_line([sys.executable, ROOT / "tools" / "dev.py", "build"])
        shutil.copy(archive, self.out / "extension.zip")
        last_kill = time.monotonic()
        try:
            while (status := self.look()).get("phase") != "done":
                now = time.monotonic()
                if self.report.kills.total() >= num_kills:
                    (self.out / "enough").touch()
                elif now - last_kill > RECOVERY_S:
                    self.report.stuck.append(f"nothing to kill for {RECOVERY_S:.0f} s: {status}")
                    break
                elif status.get("is_up"):
                    time.sleep(self.random.uniform(0.0, WAIT_S))
                    self.kill(self.random.choice(VICTIMS))
                    self.await_recovery()
                    last_kill = time.monotonic()
                time.sleep(LOOK_S)
        finally:
            if self.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(20)
                self.process.kill()
        self.find_orphans()
        self.compare()
        self.report.stuck += self.lines("refused.txt")
        self.report.imported = len(self.lines("imported.txt"))
        return self.report

    def look(self) -> dict:
        """What Blender has written last; start it if it does not run. Count workers."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None and self.process.returncode not in (0, -signal.SIGKILL):
                self.report.stuck.append(f"Blender ended with {self.process.returncode}, see blender.log")
                raise SystemExit("Blender does not run.")
            (self.out / "status.json").unlink(missing_ok=True)
            self.process = self.start()
        holders = Counter(job for pid, job in self.workers().items() if _has_open(pid, LOCK))
        self.report.twice += [job for job, count in holders.items() if count > 1]
        try:
            return json.loads((self.out / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "BLENDER_USER_RESOURCES": str(self.out / "blender"),
            "XDG_DATA_HOME": str(self.out / "home"),
            "OMP_NUM_THREADS": "1",
        }
        with (self.out / "blender.log").open("ab") as log:
            return subprocess.Popen(
                [self.blender, Path(__file__).with_name("artist.py"), self.out, self.backend],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def workers(self) -> dict[int, str]:
        """Process -> job, of all workers on jobs of this proof."""
        found = {}
        for pid, command in _processes().items():
            jobs = [Path(word).name for word in command if word.startswith(str(self.out / "data"))]
            # A child of a worker has its command until it has loaded its own.
            if jobs and "run" in command and _parent(pid) not in found:
                found[pid] = jobs[0]
        return found

    def kill(self, victim: str) -> None:
        workers, status = list(self.workers()), self.look()
        if not workers:
            victim = "blender"
        self.report.kills[victim] += 1
        self.report.stages_hit[status.get("doing", "")] += 1
        assert self.process is not None
        pids = {"worker": workers, "blender": [self.process.pid], "both": [self.process.pid, *workers]}
        for pid in pids[victim]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != "worker":
            self.process.wait()

    def await_recovery(self) -> None:
        """Until a worker runs again, or everything is done."""
        before, deadline = set(self.workers()), time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline:
            status = self.look()
            if status.get("phase") == "done" or (status.get("is_up") and set(self.workers()) - before):
                return
            if status.get("is_up") and status.get("is_busy"):
                return
            time.sleep(LOOK_S)
        self.report.stuck.append(f"no worker within {RECOVERY_S:.0f} s of a kill: {self.look()}")

    def find_orphans(self) -> None:
        deadline = time.monotonic() + ORPHANS_S
        while True:
            left = [
                " ".join(words)
                for words in _processes().values()
                if str(self.out / "data") in " ".join(words)
            ]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(LOOK_S)
        self.report.orphans += left

    def compare(self) -> None:
        jobs = sorted((self.out / "data" / "jobs").iterdir())
        self.report.jobs = len(jobs)
        self.report.lost += set(self.lines("generated.txt")) - {job.name for job in jobs}
        expected: dict[bytes, dict[str, str]] = {}
        for job in jobs:
            try:
                request = (job / "job.json").read_bytes()
            except OSError:
                self.report.lost.append(job.name)
                continue
            if request not in expected:
                alone = self.out / f"alone-{len(expected)}"
                alone.mkdir()
                (alone / "job.json").write_bytes(request)
                command = [self.backend, "-m", "recdreamer", "run", alone]
                subprocess.run(
                    command, env=os.environ | {"PYTHONPATH": str(ROOT / "backend"), "OMP_NUM_THREADS": "1"},
                    check=True, capture_output=True,
                )  # fmt: skip
                expected[request] = _digests(alone)
            if not expected[request] or _digests(job) != expected[request]:
                self.report.wrong.append(job.name)

    def lines(self, name: str) -> list[str]:
        path = self.out / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _digests(job: Path) -> dict[str, str]:
    files = [job / "result" / name for name in COMPARED]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}


def _processes() -> dict[int, list[str]]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(folder.name)] = words
    return found


def _has_open(pid: int, name: str) -> bool:
    files = []
    with suppress(OSError):  # Process and files may be gone at any time.
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                files.append(link.readlink().name)
    return name in files


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _last_line(command: list) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()[
        -1
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blender", type=Path, default=ROOT / ".venv/blender-5.2/bin/python")
    parser.add_argument("--backend", type=Path, default=ROOT / ".venv/backend/bin/python")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already; name a new folder.")
    out = options.out.absolute()
    report = Proof(out, options.blender.absolute(), options.backend.absolute(), options.seed).run(
        options.kills
    )
    text = json.dumps(vars(report), indent=1)
    (out / "report.json").write_text(text, encoding="utf-8")
    print(text)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
