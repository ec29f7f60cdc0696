"""Jobs of the stand-in worker, and a cluster in this process: hosts without Ray, which can be lost at will."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recdreamer.cluster import connection
from recdreamer.cluster.connection import NodeLost
from recdreamer.cluster.destination import Destination
from recdreamer.cluster.host import FOLDER, JobHost
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "cluster"
STAND_IN = TOOLS / "stand_in_worker.py"
sys.path.append(str(TOOLS))


class Cluster(connection.Cluster):
    """A connection to hosts in this process."""

    def __init__(self) -> None:
        self.hosts_so_far: list[JobHost] = []
        self.has_gpus = 0.0
        self.ended: list[JobHost] = []
        self.before: Callable[[str, int], None] = lambda method, count: None
        """Called before each question with its name and the number of hosts so far; may raise NodeLost."""

    def gpus(self) -> tuple[float, float]:
        return self.has_gpus, self.has_gpus

    def hosts(self, name: str, to: Destination, gpus: float, count: int) -> tuple[list[JobHost], None]:
        new = [JobHost(name, to.program, to.storage) for _ in range(count)]
        self.hosts_so_far += new
        return new, None

    def promise(self, host: JobHost, method: str, *arguments: Any) -> Any:
        return self.answer(host, method, *arguments)

    def is_ready(self, promise: Any, wait_s: float) -> bool:
        return True

    def answer(self, host: JobHost, method: str, *arguments: Any) -> Any:
        self.before(method, len(self.hosts_so_far))
        return getattr(host, method)(*arguments)

    def end(self, host: JobHost, gently: bool) -> None:
        host.close()
        self.ended.append(host)


class Told(NullReport):
    """Remembers what was reported; `ask` may raise at a progress, as a worker's report does."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[int] = []
        self.previews: list[str] = []
        self.warnings: list[str] = []
        self.ask: Callable[[int], None] = lambda step: None

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self.stages.append(name)

    def progress(self, step: int, total: int) -> None:
        self.steps.append(step)
        self.ask(step)

    def preview(self, path: Path) -> None:
        self.previews.append(path.as_posix())

    def warning(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Path:
    """Where hosts keep their copies."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "copies"))
    return tmp_path / "copies"


@pytest.fixture
def to() -> Destination:
    return Destination("localhost:10001", 0.0, program=(sys.executable, "-P", str(STAND_IN)))


@pytest.fixture
def make_job(tmp_path) -> Callable[..., tuple[JobFolder, JobRequest]]:
    def make(name: str = "job", **fields: Any) -> tuple[JobFolder, JobRequest]:
        request = JobRequest("a red bear", **{"seed": 3, "device": "cpu", **fields})
        job = JobFolder(tmp_path / name)
        job.root.mkdir()
        write_atomically(job.request, request.to_json())
        return job, request

    return make


def result_of(job: JobFolder) -> float:
    return json.loads((job.result / "report.json").read_text())["x"]


def lose_at(method: str, times: int) -> Callable[[str, int], None]:
    """Lose a host at the n-th question of a kind, once."""
    left = {"count": times}

    def before(asked: str, count: int) -> None:
        if asked == method:
            left["count"] -= 1
            if left["count"] == 0:
                raise NodeLost("its node died")

    return before
