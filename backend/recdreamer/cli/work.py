"""The work that a worker does for a request: an object, or 2D particles."""

from __future__ import annotations

import os
from pathlib import Path

from recdreamer.catalog.locate import located
from recdreamer.protocol import JobFolder, JobRequest
from recdreamer.report import Report
from recdreamer.worlds import DEFAULT_WORLD, EMBEDDED, world_of

PROCESSES = "RECDREAMER_PROCESSES"
"""Environment variable: the number of processes of this run, instead of the job's."""


def generate_job(job: JobFolder, request: JobRequest, report: Report) -> None:
    """Make an object. Imports late, so that a damaged request is answered before torch is loaded."""
    # By default torch's threads spin while they wait for each other. Beside a busy Blender that is eight times slower
    # on two shared cores. The variable is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    refuse_unusable(request)
    from recdreamer.job.processes import see_own_gpu, shared

    # Before Warp is imported, which looks for GPUs.
    see_own_gpu()
    from recdreamer.device import choose_device
    from recdreamer.generate import generate
    from recdreamer.presets import resolve

    config = resolve(request)
    processes = int(os.environ.get(PROCESSES) or config.processes)
    arguments, device = ("run", str(job.root)), choose_device(config.device)
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
    """The work of a worker, by kind of request."""
    if request.kind == "object":
        generate_job(job, request, report)
    else:
        refuse_unusable(request)
        from recdreamer.evaluation.particles_2d_job import particles_job

        particles_job(job, request, report)
