"""A stage of a job, and all after it, once more: what is there is set aside until the new result is."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from recdreamer.errors import explain
from recdreamer.process import FolderBusy, FolderLock
from recdreamer.protocol import JobFolder, JobRequest, JobState, RequestError, Stage, write_atomically

CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "shape": ("shape",),
    "geometry": ("geometry",),
    "texture": ("texture", "detail"),
}
"""First words of the names of each stage's checkpoints; those of further particles go on with a number."""


def begin_again(folder: Path, stage: Stage, seed: int | None = None) -> None:
    """Make a job that has run, or part of it, one that repeats a stage and all after it when it runs next.

    It goes on from what the stage before has saved. Checkpoints of the repeated stages wait in `checkpoints/earlier/`,
    with the request if `seed` changes it; the earlier result stays until the new one replaces it. A job that is repeated
    once more before it is through keeps what was set aside first. Raises RequestError where the job has no such stage
    or is running, JobError where its folder cannot be written.
    """
    job = JobFolder(Path(folder).absolute())
    request = job.read_request()
    stages = _stages(request)
    if stage not in stages:
        raise RequestError(
            f"The stage {stage} is not part of this job"
            + (f", which has {', '.join(stages)}." if stages else ", which has none."),
            "Repeat another, or make a job that continues this one and has the stage.",
        )
    try:
        lock = FolderLock(job.root)
    except FolderBusy as error:
        raise RequestError("This job is running.", "Wait for it, or stop it first.") from error
    except OSError as error:
        raise explain(error, str(job.root)) from error
    try:
        # First: who is killed in between leaves a job that goes on with what there is.
        state = JobState(preview=job.read_state().preview)
        write_atomically(job.state, json.dumps(asdict(state), indent=2, ensure_ascii=False))
        # From the last: whatever is left had its input from what is left.
        for repeated in reversed(stages[stages.index(stage) :]):
            is_kept = bool(_checkpoints_of(_earlier(job), repeated))
            for path in _checkpoints_of(job.checkpoints, repeated):
                if is_kept:
                    shutil.rmtree(path)
                else:
                    _earlier(job).mkdir(exist_ok=True)
                    path.rename(_earlier(job) / path.name)
        if seed is not None and seed != request.seed:
            kept = _earlier(job) / job.request.name
            if not kept.exists():
                write_atomically(kept, request.to_json())
            write_atomically(job.request, replace(request, seed=seed).to_json())
    finally:
        lock.release()


def forget_earlier(job: JobFolder) -> None:
    """The new result is there."""
    shutil.rmtree(_earlier(job), ignore_errors=True)


def _stages(request: JobRequest) -> list[str]:
    """In their order."""
    if request.kind != "object":
        return []
    wanted = ("texture",) if request.start == "texture" else request.stages
    return [stage for stage in get_args(Stage) if stage in wanted]


def _checkpoints_of(folder: Path, stage: str) -> list[Path]:
    """Newest first: a stage of which old ones are left goes on from these."""
    paths = folder.iterdir() if folder.is_dir() else ()
    words = CHECKPOINTS[stage]
    found = (path for path in paths if path.name.split("-")[0].rstrip("_0123456789") in words)
    return sorted(found, reverse=True)


def _earlier(job: JobFolder) -> Path:
    return job.checkpoints / "earlier"
