"""Whole jobs that go on from others: what they keep of them, and what they make anew."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recdreamer.generate import generate
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.presets import resolve
from recdreamer.start.prepare import prepare_start

from .small_jobs import Finished, Recorder, albedo_of, copy_of, job_of, mesh_of

STILL = {
    "geometry.learning_rate": 0.0,
    "texture.grid_learning_rate": 0.0,
    "texture.network_learning_rate": 0.0,
}
"""Whatever begins stays as it began."""


def test_nothing_of_an_earlier_job_is_lost_on_a_long_way(finished: Finished, tmp_path: Path) -> None:
    """Three jobs that go on from each other, each after the one before it was deleted: surface and painting stay."""
    job = copy_of(finished, tmp_path / "0")
    mesh, albedo = mesh_of(job), albedo_of(job)
    for number, stages in enumerate((("geometry",), ("texture",), ()), 1):
        following, request = job_of(
            tmp_path / str(number), STILL, start="continue", start_job=str(job.root), stages=stages
        )
        report = Recorder()
        generate(following, resolve(request), report)
        assert report.stages == ["prepare", *stages, "mesh"]
        assert all(np.array_equal(mesh[name], mesh_of(following)[name]) for name in ("verts", "faces", "uvs"))
        assert np.array_equal(albedo, albedo_of(following)), f"the colours of the first, after {stages}"
        shutil.rmtree(job.root)
        job = following


def test_a_new_shape_forgets_what_was_refined_and_painted_before(finished: Finished, tmp_path: Path) -> None:
    job, request = job_of(tmp_path, start="continue", start_job=str(finished[0].root), stages=("shape",))
    generate(job, replace(resolve(request), prompt="a blue bird"), Recorder())
    kept = CheckpointStore(job.checkpoints).newest("start")
    assert kept is not None and {name.split(".")[0] for name in kept.tensors} == {"scene"}


def test_of_a_continued_job_only_the_region_is_painted(finished: Finished, tmp_path: Path) -> None:
    made, job = mesh_of(finished[0]), copy_of(finished, tmp_path / "first")
    upper = made["verts"][:, 2] > 0.3
    again, request = job_of(
        tmp_path / "second", {"start.resolution": 48, "texture.grid_learning_rate": 0.1},
        start="continue", start_job=str(job.root), start_mesh="mesh.npz", stages=("texture",),
    )  # fmt: skip
    np.savez(
        again.root / "mesh.npz", verts=made["verts"], faces=made["faces"], region=upper.astype(np.float32)
    )
    first = prepare_start(again, resolve(request), torch.device("cpu"))
    shutil.rmtree(job.root)
    generate(again, resolve(request), Recorder())
    resumed = prepare_start(again, resolve(request), torch.device("cpu"))
    assert first.region is not None and torch.equal(first.region, resumed.region)
    assert first.placement == resumed.placement
    found = mesh_of(again)
    np.testing.assert_allclose(found["verts"], made["verts"], atol=0.05, err_msg="it stays where it was")
    assert np.array_equal(found["faces"], made["faces"]) and np.array_equal(found["uvs"], made["uvs"])
    heights, corners = made["verts"][made["faces"]].mean(1)[:, 2], made["uvs"].mean(1)
    pixels = ((1 - corners[:, 1]) * 64).astype(int).clip(0, 63), (corners[:, 0] * 64).astype(int)
    change = np.abs(albedo_of(again) - albedo_of(finished[0])).max(2)[pixels]
    assert np.median(change[heights > 0.4]) > 0.01 and change[heights < 0.1].max() < 0.005
