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

from recdreamer import guide
from recdreamer.again import begin_again
from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import of_texture, resolve
from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.generate import SHARES, choose_device, generate
from recdreamer.guide import class_azimuths
from recdreamer.pose.templates import PoseTemplate
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder, JobRequest, Method, RequestError, Stage, write_atomically
from recdreamer.report import JobError, Paused
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
        self.told: dict[str, list[tuple[int, int]]] = {}
        """(step, total) of each stage, as they came."""
        self.spans: list[tuple[float, float]] = []
        self.previews: list[Path] = []
        self.distributions: list[dict[str, float]] = []

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        self.stages.append(name)
        self.told[name] = []
        if span:
            self.spans.append(span)

    def progress(self, step: int, total: int) -> None:
        assert 0 <= step <= total
        self.told[self.stages[-1]].append((step, total))

    def preview(self, path: Path) -> None:
        self.previews.append(path)

    def pose_distribution(self, probs: dict[str, float]) -> None:
        self.distributions.append(probs)

    def metric(self, name: str, value: float) -> None: ...

    def warning(self, message: str) -> None: ...


def job_of(folder: Path, overrides: dict | None = None, **changes) -> tuple[JobFolder, JobRequest]:
    """A small job; of SDS, which needs no templates to be drawn, where nothing else is said."""
    request = JobRequest(
        "a red bear",
        device="cpu",
        height_m=0.5,
        overrides=SMALL | (overrides or {}),
        **{"method": "sds"} | changes,
    )
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), request


Finished = tuple[JobFolder, Recorder]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job of USD that was run from beginning to end, with two particles. Who changes it takes a copy."""
    folder = tmp_path_factory.mktemp("finished") / "jöb with spaces"
    job, request = job_of(folder, {"optimize.num_particles": 2}, method="usd")
    report = Recorder()
    generate(job, resolve(request), report)
    return job, report


def copy_of(finished: Finished, folder: Path) -> JobFolder:
    return JobFolder(Path(shutil.copytree(finished[0].root, folder)))


def mesh_of(job: JobFolder) -> dict[str, np.ndarray]:
    return dict(np.load(job.result / "mesh.npz"))


def albedo_of(job: JobFolder) -> np.ndarray:
    with Image.open(job.result / "albedo.png") as image:
        return np.asarray(image.convert("RGB")) / 255


def test_from_a_prompt_to_a_textured_mesh(finished: Finished) -> None:
    job, report = finished
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


def test_progress_goes_on_from_particle_to_particle_and_is_told_between_the_steps(finished: Finished) -> None:
    """Whoever is told can cancel: while a surface is looked for and distances are measured, too."""
    told = finished[1].told
    for stage in ("geometry", "texture"):
        steps, totals = zip(*told[stage], strict=True)
        assert list(steps) == sorted(steps) and set(totals) == {4} and steps[-1] == 4, stage
        assert steps.count(0) > 5, stage
    # The second particle's surface, after both steps of the first.
    assert [step for step, _ in told["geometry"]].count(2) > 5
    assert told["mesh"][-1] == (100, 100)


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
    job, request = job_of(tmp_path, {"start.resolution": 32}, start="texture", start_mesh="mesh.npz")
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


def test_a_stage_without_a_branch_leaves_it_as_it_is(finished: Finished) -> None:
    """SDS on shaded pictures of the geometry must not teach the branch of USD what renders look like."""
    store = CheckpointStore(finished[0].checkpoints)
    shape, geometry, texture = (store.newest(stage) for stage in get_args(Stage))
    lora = {name for name in shape.tensors if name.startswith("lora")}
    assert lora and not lora & set(geometry.tensors) and lora <= set(texture.tensors)


def test_an_object_gives_its_shape_and_what_it_gave_can_be_continued(tmp_path: Path) -> None:
    saved_ball(tmp_path / "first")
    few = {"start.resolution": 32}
    job, request = job_of(
        tmp_path / "first", few, start="object", start_mesh="mesh.npz", stages=("geometry",)
    )
    generate(job, resolve(request), Recorder())
    ball = mesh_of(job)["verts"]
    assert np.ptp(ball, axis=0) == pytest.approx([0.5] * 3, rel=0.15)
    again, request = job_of(tmp_path / "second", start="continue", start_job=str(job.root), stages=())
    generate(again, resolve(request), Recorder())
    assert np.array_equal(mesh_of(again)["verts"], ball)


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


def test_a_language_model_is_loaded_once_for_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Table(PromptDebiaser):
        def __init__(self, name: str) -> None:
            loaded.append(name)

        def reduced(self, prompt: str, candidates: object = ()) -> dict[str, str]:
            return dict.fromkeys(("side", "front", "back", "overhead"), prompt)

    monkeypatch.setattr(guide, "PromptDebiaser", Table)
    job, request = job_of(tmp_path, {"guidance.masked_lm": "some/model"}, method="debiased_sds")
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guides = guide.prepare_guides(job, resolve(request), prior)
    assert loaded == ["some/model"] and guides["shape"].prompts is guides["texture"].prompts


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
