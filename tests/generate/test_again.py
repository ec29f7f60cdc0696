"""Stages of a finished job that are repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recdreamer.again import begin_again
from recdreamer.config import resolve
from recdreamer.generate import generate
from recdreamer.protocol import JobRequest
from recdreamer.report import Paused

from .small_jobs import Finished, Recorder, albedo_of, copy_of, mesh_of


def test_a_stage_is_repeated_from_what_the_stage_before_has_made(finished: Finished, tmp_path: Path) -> None:
    job = copy_of(finished, tmp_path / "job")
    before = {path.name for path in job.checkpoints.iterdir()}
    begin_again(job.root, "texture", seed=5)
    assert job.read_state().status == "queued"
    left = {path.name for path in job.checkpoints.iterdir()} - {"earlier"}
    assert left == {name for name in before if not name.startswith("texture")}
    aside = {path.name for path in (job.checkpoints / "earlier").iterdir()}
    assert aside == (before - left) | {"job.json"}

    class Stopping(Recorder):
        def progress(self, step: int, total: int) -> None:
            super().progress(step, total)
            if self.stages[-1] == "texture" and step:
                raise Paused

    with pytest.raises(Paused):
        generate(job, resolve(job.read_request()), Stopping())
    assert np.array_equal(albedo_of(job), albedo_of(finished[0])), "not replaced yet"
    begin_again(job.root, "texture", seed=6)
    assert not list(job.checkpoints.glob("texture*"))
    assert {path.name for path in (job.checkpoints / "earlier").iterdir()} == aside, "what was there first"
    assert JobRequest.from_json((job.checkpoints / "earlier" / "job.json").read_text()).seed == 0
    generate(job, resolve(job.read_request()), Recorder())
    assert np.array_equal(mesh_of(job)["verts"], mesh_of(finished[0])["verts"]), (
        "the geometry was not repeated"
    )
    assert not np.array_equal(albedo_of(job), albedo_of(finished[0]))
    assert {path.name for path in job.checkpoints.iterdir()} == before, "what was set aside is gone"
    assert json.loads((job.result / "report.json").read_text(encoding="utf-8"))["seed"] == 6
