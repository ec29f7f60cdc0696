"""Stages of a finished job that are repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recdreamer.generate import generate
from recdreamer.job.repeat import begin_again, put_back
from recdreamer.presets import resolve
from recdreamer.report import JobError, Paused
from recdreamer.shared.protocol import JobFolder

from .small_jobs import Finished, Recorder, albedo_of, copy_of, mesh_of


def names(job: JobFolder) -> set[str]:
    return {path.name for path in job.checkpoints.iterdir()}


def test_a_stage_is_repeated_from_what_the_stage_before_has_made(finished: Finished, tmp_path: Path) -> None:
    job = copy_of(finished, tmp_path / "job")
    before, request = names(job), job.read_request()
    begin_again(job, request, "texture", seed=5)

    class Stopping(Recorder):
        def progress(self, step: int, total: int) -> None:
            super().progress(step, total)
            if self.stages[-1] == "texture" and step:
                raise Paused

    with pytest.raises(Paused):
        generate(job, resolve(request), Stopping())
    assert np.array_equal(albedo_of(job), albedo_of(finished[0])), "not replaced yet"
    partial = names(job)
    begin_again(job, request, "texture", seed=5)
    assert names(job) == partial and any(name.startswith("texture") for name in partial), "it goes on"
    generate(job, resolve(request), Recorder())
    assert np.array_equal(mesh_of(job)["verts"], mesh_of(finished[0])["verts"]), (
        "the geometry was not repeated"
    )
    assert not np.array_equal(albedo_of(job), albedo_of(finished[0]))
    assert names(job) - partial <= before and "earlier" not in names(job), "what was set aside is gone"
    report = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    assert report["seed"] == request.seed and report["seeds"] == {"shape": 0, "geometry": 0, "texture": 5}
    assert job.read_request() == request


def test_a_repeat_that_fails_while_it_writes_its_result_leaves_the_earlier_one(
    finished: Finished, tmp_path: Path
) -> None:
    job = copy_of(finished, tmp_path / "job")
    before, result = names(job), {path: path.read_bytes() for path in job.result.rglob("*.*")}

    class Failing(Recorder):
        def progress(self, step: int, total: int) -> None:
            if list(job.checkpoints.glob("*/mesh.npz")):  # Of the first particle; the second is to come.
                raise JobError("disk_full", "The disk is full.", "Free some space.")

    request = job.read_request()
    begin_again(job, request, "texture", seed=5)
    with pytest.raises(JobError):
        generate(job, resolve(request), Failing())
    put_back(job)
    assert names(job) == before
    assert {path: path.read_bytes() for path in job.result.rglob("*.*")} == result
