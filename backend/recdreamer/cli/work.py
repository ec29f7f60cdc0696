"""The work that a worker does for a request: an object, or 2D particles."""

from __future__ import annotations

import os
import time
from pathlib import Path

from recdreamer.catalog.locate import located
from recdreamer.report import Paused, Report
from recdreamer.shared.device_lock import turn
from recdreamer.shared.protocol import JobFolder, JobRequest, Stage
from recdreamer.shared.worlds import DEFAULT_WORLD, EMBEDDED, world_of

PROCESSES = "RECDREAMER_PROCESSES"
"""Environment variable: the number of processes of this run, instead of the job's."""
WAIT_S = 1.0
"""Between two looks at a device that is in use."""
ORDER = ("prepare", "shape", "geometry", "texture", "mesh")
"""Stages as they are reported."""


def generate_job(job: JobFolder, request: JobRequest, report: Report) -> None:
    """Make an object. Imports late, so that a damaged request is answered before torch is loaded."""
    # By default torch's threads spin while they wait for each other. Beside a busy Blender that is eight times slower
    # on two shared cores. The variable is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    refuse_unusable(request)
    from recdreamer.job.processes import as_many_as_fit, see_own_gpu, shared

    # Before Warp is imported, which looks for GPUs.
    see_own_gpu()
    from recdreamer.device import choose_device
    from recdreamer.generate import generate
    from recdreamer.presets import resolve

    config = resolve(request)
    processes = int(os.environ.get(PROCESSES) or config.processes)
    arguments, device = ("run", str(job.root)), choose_device(config.device)
    processes = processes or as_many_as_fit(config.optimize.num_views, device)
    with shared(arguments, processes, device, lambda: report.progress(0, 1)):
        generate(job, config, report)


def assist_job(folder: Path) -> int:
    """Share the views of a job whose worker runs in another process. Returns the exit code."""
    from recdreamer.job.processes import assist as take_part
    from recdreamer.job.processes import end_with_parent, see_own_gpu

    end_with_parent()
    see_own_gpu()
    from recdreamer.device import choose_device
    from recdreamer.generate import assist
    from recdreamer.presets import resolve

    config = resolve(JobFolder(folder).read_request())
    return take_part(choose_device(config.device), lambda: assist(JobFolder(folder), config))


def refuse_unusable(request: JobRequest) -> None:
    """Raise JobError if the image model is missing or cannot be used, before anything is loaded."""
    if world_of(request.prior) != DEFAULT_WORLD:
        located(request.prior, "prior", EMBEDDED / "prior")


def work(job: JobFolder, request: JobRequest, report: Report) -> None:
    """The work of a worker, by kind of request, as soon as nobody else uses its device."""

    has_said_so = False

    def wait() -> None:
        nonlocal has_said_so
        if not has_said_so:
            report.stage("waiting", 0, 1)
            has_said_so = True
        report.progress(0, 1)  # Raises if the worker is to stop.
        time.sleep(WAIT_S)

    with turn(request.device, wait):
        _work(job, request, report)


def _work(job: JobFolder, request: JobRequest, report: Report) -> None:
    if request.kind == "object":
        generate_job(job, request, report)
    else:
        refuse_unusable(request)
        from recdreamer.evaluation.particles_2d_job import particles_job

        particles_job(job, request, report)


class UntilStage:
    """The work up to the end of a stage: then it is paused, to go on with the next command, perhaps elsewhere."""

    def __init__(self, last: Stage) -> None:
        self._last = ORDER.index(last)
        self.is_reached = False
        """Whether the stage is complete."""

    def __call__(self, job: JobFolder, request: JobRequest, report: Report) -> None:
        work(job, request, _Watched(report, self))

    def meet(self, stage: str) -> None:
        """Pause at the first stage after the last one; nothing of it has been made yet."""
        if stage in ORDER and ORDER.index(stage) > self._last:
            self.is_reached = True
            raise Paused


class _Watched:
    """A report that tells which stage begins."""

    def __init__(self, report: Report, until: UntilStage) -> None:
        self._report, self._until = report, until
        self.progress = report.progress
        self.pose_distribution = report.pose_distribution
        self.warning = report.warning

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self._until.meet(name)
        self._report.stage(name, index, count, span)

    def preview(self, path: Path) -> None:
        self._report.preview(path)
