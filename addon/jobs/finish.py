"""End a stopped job early: with a mesh of what is there, instead of the steps that are left. No bpy here."""

from __future__ import annotations

from dataclasses import replace

from ...backend.recdreamer.shared.protocol import JobRequest, RequestError, write_atomically
from ...backend.recdreamer.shared.safe_files import reason_of
from .registry import Job

SECTIONS = {"shape": "optimize", "geometry": "geometry", "texture": "texture"}
"""Stage -> section of its settings."""
WHOLE = "job-whole.json"
"""The request as it was before it was ended early."""


def can_finish(job: Job) -> bool:
    """Whether a job has made something that a mesh can be made of."""
    return job.request is not None and (
        job.state.stage == "mesh" or (job.state.stage in SECTIONS and job.state.step > 0)
    )


def finished_at(request: JobRequest, stage: str, step: int) -> JobRequest:
    """A request that ends a stage at this step, and leaves out the later ones; the mesh is made as always.

    >>> request = finished_at(JobRequest(prompt="a red bear"), "shape", 40)
    >>> request.stages, request.overrides
    (('shape',), {'optimize.num_steps': 40})
    """
    if stage not in SECTIONS:
        return request
    stages = request.stages_to_run
    wanted = stages[: stages.index(stage) + 1] if stage in stages else stages
    overrides = {**request.overrides, f"{SECTIONS[stage]}.num_steps": max(1, step)}
    if stage == "texture":
        overrides["texture.detail_steps"] = 0
    return replace(request, stages=wanted, overrides=overrides)


def finish_early(job: Job) -> None:
    """Let a stopped job, when it is resumed, make its mesh at once. Raises RequestError if that cannot be written."""
    if job.request is None:
        raise RequestError(job.problem, "Choose another job.")
    request = finished_at(job.request, job.state.stage, job.state.step)
    request.validate()
    try:
        if not (job.folder.root / WHOLE).exists():
            write_atomically(job.folder.root / WHOLE, job.request.to_json())
        write_atomically(job.folder.request, request.to_json())
    except OSError as error:
        raise RequestError(
            f"The job cannot be written ({reason_of(error)}).", "Free some space, and try again."
        ) from error
    job.request = request
