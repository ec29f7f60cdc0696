"""Re-run a stage and all later ones. The old checkpoints are set aside, and restored if the re-run fails.

Meanwhile `checkpoints/earlier/` holds the old checkpoints of these stages, and its `again.json` the request. A folder
without that file was interrupted while it was being filled or emptied, and is restored. So is one whose file is damaged.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, get_args

from recdreamer.job.errors import explain
from recdreamer.report import Warn, no_warn
from recdreamer.shared.json_values import is_seed, read_json
from recdreamer.shared.protocol import (
    TEMPORARY,
    JobFolder,
    JobRequest,
    RequestError,
    Stage,
    write_atomically,
)
from recdreamer.shared.safe_files import FileMissing

CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "shape": ("shape",),
    "geometry": ("geometry",),
    "texture": ("texture", "detail"),
}
"""First words of the names of each stage's checkpoints; further particles append a number."""


def begin_again(job: JobFolder, request: JobRequest, stage: Stage, seed: int | None = None) -> None:
    """Let the next run repeat a stage and all later ones, with a seed of their own.

    They start from the checkpoints of the stages before; the earlier result stays until the new one replaces it. If the
    same repeat is already under way, it continues; a different one is replaced. The caller holds the folder's lock.
    Raises RequestError if the stage cannot be repeated, JobError if the folder cannot be written; both leave the job
    unchanged.
    """
    stages = request.stages_to_run
    if stage not in stages:
        raise RequestError(
            f"The stage {stage} is not part of this job"
            + (f", which has {', '.join(stages)}." if stages else ", which has none."),
            "Repeat another stage, or continue this job with a new one that has the stage.",
        )
    wanted = {"stage": stage, "seed": request.seed if seed is None else seed}
    if _wanted(job) == wanted:
        return
    first = stages.index(stage)
    for before in stages[:first]:
        if not any(path.name.endswith("-final") for path in _checkpoints_of(job.checkpoints, before)):
            raise RequestError(
                f"The stage {stage} cannot be repeated: the stage {before} before it has no final checkpoint.",
                f"Repeat the stage {before}, or run the job to its end first.",
            )
    try:
        put_back(job)
        try:
            job.checkpoints.mkdir(exist_ok=True)
            _earlier(job).mkdir()
            # From the last to the first, so that every stage that is left still has its input.
            for repeated in reversed(stages[first:]):
                for path in _checkpoints_of(job.checkpoints, repeated):
                    path.rename(_earlier(job) / path.name)
            write_atomically(_marker(job), json.dumps(wanted))
        except OSError:
            put_back(job)
            raise
    except OSError as error:
        raise explain(error, f"the folder of earlier checkpoints ({_earlier(job)})") from error


def is_repeated(job: JobFolder) -> bool:
    """Is a repeat under way that can continue?"""
    return _wanted(job) is not None


def put_back(job: JobFolder) -> bool:
    """Abandon a repeat and restore the earlier state. Returns whether there was one. Raises OSError.

    If the process is killed meanwhile, either the repeat is still intact or the next call completes the restoration.
    """
    if not _earlier(job).is_dir():
        return False
    for repeated in reversed(_begun(job)):
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
    """A new folder for a new result; the earlier result stays intact until `take_result`."""
    new = job.checkpoints / f"{TEMPORARY}result"
    shutil.rmtree(new, ignore_errors=True)
    job.checkpoints.mkdir(exist_ok=True)
    new.mkdir()
    return new


def take_result(job: JobFolder) -> None:
    """Replace the earlier result by the content of `empty_result`, which completes a repeat."""
    old = (_earlier(job) if is_repeated(job) else job.checkpoints / f"{TEMPORARY}old") / job.result.name
    if old.exists() and job.result.exists():  # An earlier run was killed right here.
        shutil.rmtree(job.result)
    elif job.result.exists():
        old.parent.mkdir(exist_ok=True)
        job.result.rename(old)
    (job.checkpoints / f"{TEMPORARY}result").rename(job.result)
    if is_repeated(job):
        write_atomically(job.seeds, json.dumps(repeated_seeds(job)))
        _earlier(job).rename(job.checkpoints / f"{TEMPORARY}{time.time_ns()}")
    _remove_leftovers(job)


def repeated_seeds(job: JobFolder, warn: Warn = no_warn) -> dict[str, int]:
    """Stage -> seed, for all stages that were repeated or are being repeated.

    If seeds.json is damaged, its stages get the seed of the job, with a warning.
    """
    seeds: dict[str, int] = {}
    try:
        found = read_json(job.seeds)
        if not isinstance(found, dict) or not all(map(is_seed, found.values())):
            raise RequestError("seeds.json has other things than seeds.", "It is damaged.")
        seeds = {stage: seed for stage, seed in found.items() if stage in get_args(Stage)}
    except FileMissing:
        pass
    except RequestError as error:
        warn(f"{error.message} Stages that were redone with another seed get the seed of the job.")
    wanted = _wanted(job)
    if wanted is not None:
        for stage in _from(job, wanted["stage"]):
            seeds[stage] = wanted["seed"]
    return seeds


def _from(job: JobFolder, stage: str) -> tuple[str, ...]:
    """A stage of the job and all later ones."""
    stages = job.read_request().stages_to_run
    return stages[stages.index(stage) :]


def _wanted(job: JobFolder) -> dict[str, Any] | None:
    """The request of the repeat that is under way: its stage and seed. None if there is none, or a damaged one."""
    try:
        found = read_json(_marker(job))
        is_whole = isinstance(found, dict) and is_seed(found.get("seed"))
        return found if is_whole and found.get("stage") in job.read_request().stages_to_run else None
    except RequestError:
        return None


def _begun(job: JobFolder) -> tuple[str, ...]:
    """The stages that the repeat has begun anew; those whose checkpoints it has set aside, if its file is damaged."""
    wanted = _wanted(job)
    if wanted is not None:
        return _from(job, wanted["stage"])
    if not _marker(job).exists():
        return ()
    moved = [stage for stage in CHECKPOINTS if _checkpoints_of(_earlier(job), stage)]
    return tuple(CHECKPOINTS)[list(CHECKPOINTS).index(moved[0]) :] if moved else ()


def _remove_leftovers(job: JobFolder) -> None:
    for path in job.checkpoints.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints_of(folder: Path, stage: str) -> list[Path]:
    """The checkpoints of a stage, newest first."""
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
