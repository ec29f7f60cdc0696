"""A generation in whole, small: from a prompt to mesh, texture and report, and what stops it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.device import choose_device
from recdreamer.generate import SHARES, generate
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.presets import resolve
from recdreamer.report import JobError
from recdreamer.shared.protocol import COARSE_MESH, Stage

from .small_jobs import Finished, Recorder, albedo_of, job_of


def test_from_a_prompt_to_a_textured_mesh(finished: Finished) -> None:
    job, report = finished
    assert report.stages == list(SHARES)
    assert report.previews and all(path.exists() for path in report.previews)
    with np.load(job.root / COARSE_MESH) as coarse:
        assert len(coarse["faces"]) and coarse["rgb"].shape == coarse["verts"].shape
    assert report.distributions and sum(report.distributions[-1].values()) == pytest.approx(1, abs=1e-3)
    mesh = np.load(job.result / "mesh.npz")
    assert len(mesh["faces"]) > 100 and mesh["uvs"].shape == (len(mesh["faces"]), 3, 2)
    assert np.ptp(mesh["verts"][:, 2]) == pytest.approx(0.5, rel=1e-3)
    with Image.open(job.result / "albedo.png") as texture:
        assert texture.size == (64, 64)
    other = np.load(job.result / "particle-1" / "mesh.npz")
    assert not np.array_equal(other["verts"], mesh["verts"])
    written = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    assert written["gpu_memory"] == {}, "on a CPU"
    assert written["prompt"] == "a red bear" and len(written["meshes"]) == 2
    assert all(summary["is_watertight"] for summary in written["meshes"])
    config = json.loads((job.root / "config.json").read_text(encoding="utf-8"))
    assert config["optimize"]["num_steps"] == 3
    drawn = {path.name for path in job.templates.iterdir()}
    assert {"front-0.png", "back-0.png", "right-0.png"} <= drawn


def test_progress_continues_across_particles_and_is_reported_between_steps(finished: Finished) -> None:
    """Whoever is told can cancel: while a surface is looked for and distances are measured, too."""
    told = finished[1].told
    for stage in ("geometry", "texture"):
        steps, totals = zip(*told[stage], strict=True)
        assert list(steps) == sorted(steps) and set(totals) == {4} and steps[-1] == 4, stage
        assert steps.count(0) > 5, stage
    # The second particle's surface, after both steps of the first.
    assert [step for step, _ in told["geometry"]].count(2) > 5
    assert told["mesh"][-1] == (100, 100)


@pytest.mark.parametrize(("copy_steps", "is_green"), [(60, True), (0, False)])
def test_the_texture_begins_with_what_the_surface_has_learnt(
    tmp_path: Path, copy_steps: int, is_green: bool
) -> None:
    job, request = job_of(tmp_path, {"texture.copy_steps": copy_steps}, stages=("shape", "geometry"))
    generate(job, resolve(request), Recorder())
    store = CheckpointStore(job.checkpoints)
    found = store.newest("geometry")
    assert found is not None
    green = torch.tensor([0.1, 0.9, 0.2])[:, None, None, None].expand_as(found.tensors["surface.albedo"])
    tensors = found.tensors | {"surface.albedo": green.contiguous()}
    store.save("geometry", found.step, tensors, found.meta, final=True)
    generate(job, resolve(replace(request, stages=("shape", "geometry", "texture"))), Recorder())
    red, middle, blue = albedo_of(job).reshape(-1, 3).mean(0)
    assert (middle - max(red, blue) > 0.3) == is_green


@pytest.mark.parametrize("stages", [("shape",), ("shape", "geometry"), ("shape", "texture")])
def test_a_stage_that_is_left_out_hands_on_what_it_was_given(tmp_path: Path, stages: tuple[str, ...]) -> None:
    job, request = job_of(tmp_path, stages=stages)
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", *stages, "mesh"]
    assert report.spans[0][0] == 0 and report.spans[-1][1] == pytest.approx(1)
    assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(report.spans)), (
        "no gap between stages"
    )
    stored = {path.name.split("-")[0] for path in job.checkpoints.iterdir()}
    assert stored == set(stages)
    written = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    assert set(written["seconds"]) == {*stages, "mesh"}


def test_a_stage_without_a_branch_leaves_it_as_it_is(finished: Finished) -> None:
    """SDS on shaded pictures of the geometry must not teach the branch of USD what renders look like."""
    store = CheckpointStore(finished[0].checkpoints)
    shape, geometry, texture = (store.newest(stage) for stage in get_args(Stage))
    lora = {name for name in shape.tensors if name.startswith("lora")}
    assert lora and not lora & set(geometry.tensors) and lora <= set(texture.tensors)


def test_a_wrong_model_folder_stops_the_job_in_one_sentence(tmp_path: Path) -> None:
    job, request = job_of(tmp_path / "job", prior=str(tmp_path))
    with pytest.raises(JobError, match="is a folder without a model"):
        generate(job, resolve(request), Recorder())


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(JobError, match="cannot be used"):
        choose_device("cuda:77")
