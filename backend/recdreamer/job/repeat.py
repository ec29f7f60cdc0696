"""A stage of a job, and all after it, once more: what is there is set aside until the new result is, or put back.

While a job is repeated, `checkpoints/earlier/` holds the checkpoints that it had of these stages, and in `again.json`
what was asked for. A folder without that file is one that is being filled or emptied: it is to be put back.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from recdreamer.job.errors import explain
from recdreamer.protocol import TEMPORARY, JobFolder, JobRequest, RequestError, Stage, write_atomically

CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "shape": ("shape",),
    "geometry": ("geometry",),
    "texture": ("texture", "detail"),
}
"""First words of the names of each stage's checkpoints; those of further particles go on with a number."""


def begin_again(job: JobFolder, request: JobRequest, stage: Stage, seed: int | None = None) -> None:
    """Make a job one that repeats a stage and all after it, by a seed of their own, when it runs next.

    It goes on from what the stages before have saved; the earlier result stays until the new one replaces it. A repeat
    that is under way goes on where the same is asked for; another one takes its place. The caller holds the folder's
    lock. Raises RequestError where that cannot be, JobError where the folder cannot be written; the job is then as
    it was.
    """
    stages = request.own_stages
    if stage not in stages:
        raise RequestError(
            f"The stage {stage} is not part of this job"
            + (f", which has {', '.join(stages)}." if stages else ", which has none."),
            "Repeat another, or make a job that continues this one and has the stage.",
        )
    wanted = {"stage": stage, "seed": request.seed if seed is None else seed}
    if _wanted(job) == wanted:
        return
    first = stages.index(stage)
    for before in stages[:first]:
        if not any(path.name.endswith("-final") for path in _checkpoints_of(job.checkpoints, before)):
            raise RequestError(
                f"The {stage} cannot be repeated: the {before} before it has no checkpoint of its end.",
                f"Repeat the {before}, or run the job to its end first.",
            )
    try:
        put_back(job)
        try:
            _earlier(job).mkdir(parents=True)
            # From the last: whatever is left had its input from what is left.
            for repeated in reversed(stages[first:]):
                for path in _checkpoints_of(job.checkpoints, repeated):
                    path.rename(_earlier(job) / path.name)
            write_atomically(_marker(job), json.dumps(wanted))
        except OSError:
            put_back(job)
            raise
    except OSError as error:
        raise explain(error, f"what the job has made ({_earlier(job)})") from error


def is_repeated(job: JobFolder) -> bool:
    """A repeat is under way."""
    return _marker(job).is_file()


def put_back(job: JobFolder) -> bool:
    """Give up a repeat: what was set aside takes its place again. Says whether there was any. Raises OSError.

    Whoever is killed in it leaves a repeat that goes on, or what the next call puts back.
    """
    if not _earlier(job).is_dir():
        return False
    wanted = _wanted(job)
    if wanted is not None:
        for repeated in reversed(_from(job, wanted["stage"])):
            for path in _checkpoints_of(job.checkpoints, repeated):
                shutil.rmtree(path)
    _marker(job).unlink(missing_ok=True)
    for path in sorted(_earlier(job).iterdir()):
        target = job.result if path.name == job.result.name else job.checkpoints / path.name
        if path.is_dir():
            if target.exists():
                shutil.rmtree(target)
            path.rename(target)
    shutil.rmtree(_earlier(job))
    _remove_leftovers(job)
    return True


def empty_result(job: JobFolder) -> Path:
    """A folder to make a result in; the earlier one stays whole until `take_result`."""
    new = job.checkpoints / f"{TEMPORARY}result"
    shutil.rmtree(new, ignore_errors=True)
    return new


def take_result(job: JobFolder) -> None:
    """Put what was made in `empty_result` in the place of the earlier result; a repeat is through with it."""
    old = (_earlier(job) if is_repeated(job) else job.checkpoints / f"{TEMPORARY}old") / job.result.name
    if old.exists() and job.result.exists():  # Killed right here before.
        shutil.rmtree(job.result)
    elif job.result.exists():
        old.parent.mkdir(exist_ok=True)
        job.result.rename(old)
    (job.checkpoints / f"{TEMPORARY}result").rename(job.result)
    if is_repeated(job):
        write_atomically(job.seeds, json.dumps(repeated_seeds(job)))
        _earlier(job).rename(job.checkpoints / f"{TEMPORARY}{time.time_ns()}")
    _remove_leftovers(job)


def repeated_seeds(job: JobFolder) -> dict[str, int]:
    """Stage -> its seed, of those that were repeated, or are: a repeat gives its own to a stage and all after it."""
    try:
        seeds: dict[str, int] = json.loads(job.seeds.read_text(encoding="utf-8"))
    except FileNotFoundError:
        seeds = {}
    wanted = _wanted(job)
    if wanted is not None:
        for stage in _from(job, wanted["stage"]):
            seeds[stage] = wanted["seed"]
    return seeds


def _from(job: JobFolder, stage: str) -> tuple[str, ...]:
    """A stage of the job and all after it."""
    stages = job.read_request().own_stages
    return stages[stages.index(stage) :]


def _wanted(job: JobFolder) -> dict[str, Any] | None:
    """What the repeat that is under way was asked for."""
    try:
        return json.loads(_marker(job).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _remove_leftovers(job: JobFolder) -> None:
    for path in job.checkpoints.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints_of(folder: Path, stage: str) -> list[Path]:
    """The last first."""
    paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return [
        path
        for word in reversed(CHECKPOINTS[stage])
        for path in paths
        if path.name.split("-")[0].rstrip("_0123456789") == word
    ]


def _earlier(job: JobFolder) -> Path:
    return job.checkpoints / "earlier"


def _marker(job: JobFolder) -> Path:
    return _earlier(job) / "again.json"
