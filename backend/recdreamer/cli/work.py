"""The work that a worker does for a request: an object, or 2D particles."""

from __future__ import annotations

import os

from recdreamer.catalog.locate import located
from recdreamer.protocol import JobFolder, JobRequest
from recdreamer.report import Report
from recdreamer.worlds import DEFAULT_WORLD, EMBEDDED, world_of


def generate_job(job: JobFolder, request: JobRequest, report: Report) -> None:
    """Make an object. Imports late, so that a damaged request is answered before torch is loaded."""
    # By default torch's threads spin while they wait for each other. Beside a busy Blender that is eight times slower
    # on two shared cores. The variable is read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    refuse_unusable(request)
    from recdreamer.generate import generate
    from recdreamer.presets import resolve

    generate(job, resolve(request), report)


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
