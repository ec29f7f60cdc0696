"""A generation in whole, small: from a request to mesh, texture and report, and what stops it."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import of_texture, resolve
from recdreamer.generate import SHARES, choose_device, generate
from recdreamer.guide import class_azimuths
from recdreamer.pose.templates import PoseTemplate
from recdreamer.protocol import JobFolder, JobRequest, Method, RequestError, Stage, write_atomically
from recdreamer.report import JobError
from recdreamer.start import prepare_start

SMALL = {
    "optimize.num_steps": 3,
    "optimize.num_views": 2,
    "optimize.render_px": 32,
    "optimize.preview_every": 2,
    "geometry.num_steps": 2,
    "geometry.num_views": 1,
    "geometry.render_px": 32,
    "geometry.resolution": 24,
    "texture.num_steps": 2,
    "texture.num_views": 1,
    "texture.render_px": 32,
    "mesh.resolution": 24,
    "mesh.target_faces": 400,
    "mesh.texture_size_px": 64,
}


class Recorder:
    """A report that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.spans: list[tuple[float, float]] = []
        self.previews: list[Path] = []
        self.distributions: list[dict[str, float]] = []

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self.stages.append(name)
        if span:
            self.spans.append(span)

    def progress(self, step: int, total: int) -> None:
        assert 0 <= step <= total

    def preview(self, path: Path) -> None:
        self.previews.append(path)

    def pose_distribution(self, probs: dict[str, float]) -> None:
        self.distributions.append(probs)

    def metric(self, name: str, value: float) -> None: ...

    def warning(self, message: str) -> None: ...


def job_of(folder: Path, **changes) -> tuple[JobFolder, JobRequest]:
    request = JobRequest("a red bear", device="cpu", height_m=0.5, **{"overrides": SMALL} | changes)
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), request


def test_from_a_prompt_to_a_textured_mesh(tmp_path: Path) -> None:
    two = SMALL | {"optimize.num_particles": 2}
    job, request = job_of(tmp_path / "jöb with spaces", overrides=two)
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == list(SHARES)
    assert report.previews and all(path.exists() for path in report.previews)
    assert report.distributions and sum(report.distributions[-1].values()) == pytest.approx(1, abs=1e-3)
    mesh = np.load(job.result / "mesh.npz")
    assert len(mesh["faces"]) > 100 and mesh["uvs"].shape == (len(mesh["faces"]), 3, 2)
    assert np.ptp(mesh["verts"][:, 2]) == pytest.approx(0.5, rel=1e-3)
    with Image.open(job.result / "albedo.png") as texture:
        assert texture.size == (64, 64)
    other = np.load(job.result / "particle-1" / "mesh.npz")
    assert not np.array_equal(other["verts"], mesh["verts"])
    written = json.loads((job.result / "report.json").read_text(encoding="utf-8"))
    assert written["prompt"] == "a red bear" and len(written["meshes"]) == 2
    assert all(summary["is_watertight"] for summary in written["meshes"])
    config = json.loads((job.root / "config.json").read_text(encoding="utf-8"))
    assert config["optimize"]["num_steps"] == 3
    drawn = {path.name for path in job.templates.iterdir()}
    assert {"front-0.png", "back-0.png", "right-0.png"} <= drawn


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


def saved_ball(folder: Path, uvs: bool = False, region: bool = False) -> None:
    """The START_MESH of a ball in metres, beside the origin."""
    ball = trimesh.creation.icosphere(3, 0.3).apply_translation((1.0, 2.0, 0.3))
    arrays = {"verts": ball.vertices.astype(np.float32), "faces": ball.faces.astype(np.int32)}
    if uvs:
        # Two tiles: the left half of the ball in the second.
        corners = np.stack([0.2 + 0.6 * np.arange(3)[None] / 3, np.full((1, 3), 0.1)], -1)
        corners[:, 1, 1] += 0.7
        corners = np.repeat(corners, len(ball.faces), 0)
        corners[ball.triangles_center[:, 0] < 1.0, :, 0] += 1
        arrays["uvs"] = corners.astype(np.float32)
    if region:
        arrays["region"] = (ball.vertices[:, 2] > 0.4).astype(np.float32)
        arrays["rgb"] = np.full((len(ball.vertices), 3), (0.1, 0.6, 0.2), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "mesh.npz", **arrays)


def test_what_is_only_painted_keeps_its_mesh_and_its_uvs(tmp_path: Path) -> None:
    saved_ball(tmp_path, uvs=True)
    job, request = job_of(tmp_path, start="texture", start_mesh="mesh.npz", stages=("texture",))
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", "texture", "mesh"]
    given, made = np.load(tmp_path / "mesh.npz"), np.load(job.result / "mesh.npz")
    assert all(np.array_equal(given[name], made[name]) for name in ("verts", "faces", "uvs"))
    assert {path.name for path in job.result.glob("albedo*")} == {"albedo.1001.png", "albedo.1002.png"}


def test_of_a_painted_object_only_the_region_changes(tmp_path: Path) -> None:
    saved_ball(tmp_path, region=True)
    job, request = job_of(
        tmp_path, start="texture", start_mesh="mesh.npz", overrides=SMALL | {"start.resolution": 32}
    )
    report = Recorder()
    generate(job, resolve(request), report)
    assert report.stages == ["prepare", "texture", "mesh"], "nothing else is left to be done"
    mesh = np.load(job.result / "mesh.npz")
    with Image.open(job.result / "albedo.png") as image:
        texture = np.asarray(image.convert("RGB")) / 255
    middles, corners = mesh["verts"][mesh["faces"]].mean(1), mesh["uvs"].mean(1)
    below = middles[:, 2] < 0.2
    pixels = texture[((1 - corners[:, 1]) * 64).astype(int).clip(0, 63), (corners[:, 0] * 64).astype(int)]
    assert np.abs(np.median(pixels[below], axis=0) - (0.1, 0.6, 0.2)).max() < 0.02
    assert np.abs(np.median(pixels[middles[:, 2] > 0.5], axis=0) - (0.1, 0.6, 0.2)).max() > 0.05


def test_uvs_that_leave_their_tile_are_refused_before_any_work(tmp_path: Path) -> None:
    saved_ball(tmp_path, uvs=True)
    arrays = dict(np.load(tmp_path / "mesh.npz"))
    np.savez(tmp_path / "mesh.npz", **arrays | {"uvs": 3 * arrays["uvs"] - 0.5})
    job, request = job_of(tmp_path, start="texture", start_mesh="mesh.npz")
    report = Recorder()
    with pytest.raises(RequestError, match="tile"):
        generate(job, resolve(request), report)
    assert not report.previews


def test_what_continues_in_a_region_and_is_killed_keeps_region_and_place(tmp_path: Path) -> None:
    job, request = job_of(tmp_path / "first", stages=("shape",))
    generate(job, resolve(request), Recorder())
    made = dict(np.load(job.result / "mesh.npz"))
    again, request = job_of(
        tmp_path / "second", start="continue", start_job=str(job.root), start_mesh="mesh.npz"
    )
    region = (made["verts"][:, 2] > 0.25).astype(np.float32)
    np.savez(again.root / "mesh.npz", verts=made["verts"], faces=made["faces"], region=region)
    first = prepare_start(again, resolve(request), torch.device("cpu"))
    generate(again, resolve(request), Recorder())
    shutil.rmtree(job.root)
    resumed = prepare_start(again, resolve(request), torch.device("cpu"))
    assert first.region is not None and torch.equal(first.region, resumed.region)
    assert first.placement == resumed.placement


def test_a_stage_without_a_branch_leaves_it_as_it_is(tmp_path: Path) -> None:
    """SDS on shaded pictures of the geometry must not teach the branch of USD what renders look like."""
    job, request = job_of(tmp_path)
    generate(job, resolve(request), Recorder())
    store = CheckpointStore(job.checkpoints)
    shape, geometry, texture = (store.newest(stage) for stage in get_args(Stage))
    lora = {name for name in shape.tensors if name.startswith("lora")}
    assert lora and not lora & set(geometry.tensors) and lora <= set(texture.tensors)


def test_an_object_gives_its_shape_and_an_earlier_job_goes_on(tmp_path: Path) -> None:
    """From an object; then that result with another prompt, and its surface kept."""
    saved_ball(tmp_path / "first")
    job, request = job_of(
        tmp_path / "first", start="object", start_mesh="mesh.npz", overrides=SMALL | {"start.resolution": 32}
    )
    generate(job, resolve(request), Recorder())
    ball = np.load(job.result / "mesh.npz")["verts"]
    assert np.ptp(ball, axis=0) == pytest.approx([0.5] * 3, rel=0.15)

    again, request = job_of(
        tmp_path / "second", start="continue", start_job=str(job.root), stages=("texture",), seed=5
    )
    generate(again, replace(resolve(request), prompt="a blue bird"), Recorder())
    same = np.load(again.result / "mesh.npz")
    assert np.array_equal(same["verts"], ball), "the surface of the earlier job"
    assert (again.result / "albedo.png").read_bytes() != (job.result / "albedo.png").read_bytes()


def test_a_wrong_model_folder_stops_the_job_in_one_sentence(tmp_path: Path) -> None:
    job, request = job_of(tmp_path / "job", prior=str(tmp_path))
    with pytest.raises(JobError, match="is not a Stable Diffusion model"):
        generate(job, resolve(request), Recorder())


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("optimize.steps", 3, "no setting"),
        ("optimise.num_steps", 3, "no setting"),
        ("optimize.num_steps", "many", "does not fit"),
        ("optimize.num_steps", True, "does not fit"),
        ("rectifier.clamp", "hard", "does not fit"),
        ("prompt.text", "x", "no setting"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        resolve(JobRequest("a red bear", overrides={name: value}))
    assert name in caught.value.message and caught.value.hint


def test_settings_reach_nested_values_and_keep_their_type() -> None:
    config = resolve(
        JobRequest("x", overrides={"rectifier.classifier.query_copies": 3, "guidance.guidance_scale": 5})
    )
    assert config.rectifier.classifier.query_copies == 3
    assert config.guidance.guidance_scale == 5.0 and isinstance(config.guidance.guidance_scale, float)


def test_quick_is_quicker_and_another_prior_is_larger() -> None:
    standard, quick = resolve(JobRequest("x")), resolve(JobRequest("x", quality="quick"))
    large = resolve(JobRequest("x", prior="some/model"))
    assert quick.optimize.num_steps < standard.optimize.num_steps < large.optimize.num_steps
    work = [c.optimize.num_steps * c.optimize.num_views for c in (quick, standard)]
    assert work[0] == pytest.approx(work[1] / 3, rel=0.01)
    quick_large = resolve(JobRequest("x", prior="somewhere", quality="quick"))
    assert (
        quick_large.optimize.num_steps == large.optimize.num_steps // 3
        and quick_large.optimize.num_views == 1
    )
    assert large.optimize.render_px > standard.optimize.render_px


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_its_published_setting(method: Method) -> None:
    """The table of the paper's comparison: guidance scale, steps, words for views."""
    expected = {
        "usd": (7.5, 15_000, False), "vsd": (7.5, 25_000, True), "esd": (7.5, 25_000, True),
        "sds": (101.0, 10_000, True), "debiased_sds": (101.0, 10_000, True), "perp_neg": (100.0, 10_000, True),
        "sds_bridge": (100.0, 25_000, True),
    }[method]  # fmt: skip
    config = resolve(JobRequest("x", method=method, prior="some/model"))
    guidance = config.guidance
    assert (guidance.guidance_scale, config.optimize.num_steps, guidance.view_prompts) == expected
    assert bool(guidance.auxiliary_prompt) == (method == "usd")
    assert of_texture(config).guidance.guidance_scale == expected[0], (
        "the texture stage follows the same method"
    )


def test_a_distribution_is_a_setting() -> None:
    config = resolve(JobRequest("x", overrides={"rectifier.target": {"front": 1, "back": 2.5}}))
    assert config.rectifier.target == {"front": 1.0, "back": 2.5}
    with pytest.raises(RequestError, match="does not fit"):
        resolve(JobRequest("x", overrides={"rectifier.target": {"front": "much"}}))


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(JobError, match="cannot be used"):
        choose_device("cuda:77")


def test_class_azimuths_come_from_the_templates_else_from_the_name() -> None:

    image = torch.zeros(3, 8, 8)
    templates = [PoseTemplate("front", image, None, 350.0), PoseTemplate("front", image, None, 20.0),
                 PoseTemplate("left", image, None, None)]  # fmt: skip
    azimuths = class_azimuths(templates, ("front", "left"), torch.device("cpu"))
    assert azimuths.tolist() == pytest.approx([5.0, 270.0], abs=1e-3)
