"""The first stage's watch: what counts as a collapse, the cure, and that it survives being stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recdreamer.config import GenerateConfig
from recdreamer.evaluation.figurines import Figurines
from recdreamer.field.grid_values import grid_points
from recdreamer.field.solid_field import SolidField
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.models.radiance import Particles, Scene
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import NullReport, Paused
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically
from recdreamer.stages import collapse, shape
from recdreamer.stages.collapse import Look, cured, find_collapse, horizon, horizon_of_sides, look_at
from recdreamer.stages.guidance import prepare_guide
from recdreamer.stages.shape import shape_stage
from recdreamer.start.starting_point import StartingPoint

CPU = torch.device("cpu")
SMALL = {
    "optimize.num_steps": 8, "optimize.num_views": 2, "optimize.render_px": 32, "optimize.preview_every": 100,
    "field.num_levels": 4, "field.log2_table_size": 12,
}  # fmt: skip


class Haze:
    """The same density everywhere, or inside of a radius; grey."""

    def __init__(self, sigma: float, radius: float = 9.0) -> None:
        self.sigma, self.radius = sigma, radius

    def __call__(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(xyz), torch.full_like(xyz, 0.5)

    def density(self, xyz: Tensor) -> Tensor:
        return self.sigma * (xyz.norm(dim=1) < self.radius).float()


def look_of(field: object, prior: str = "builtin") -> Look:
    scene = Scene(resolve(JobRequest("x", prior=prior)), CPU)
    scene.field = field
    for step in (0, 16, 32, 48):
        scene.occupancy.update(field, step, torch.Generator().manual_seed(step))
    return look_at(scene)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Haze(0.0), "empty"),
        (Haze(0.03), "empty"),
        (Haze(0.3, 0.2), "empty"),
        (Haze(50.0, 0.02), "empty"),
        (Haze(0.15), "fog"),
        (Haze(0.3, 0.9), "fog"),
        (Haze(1.0), "full"),
        (Haze(50.0), "full"),
        (Haze(50.0, 0.15), None),
        (Haze(50.0, 0.5), None),
        (Haze(50.0, 0.8), None),
        # A soft ball: clear at its rim, half opaque in the middle.
        (Haze(1.5, 0.5), None),
    ],
)
def test_what_has_no_object_is_found_and_what_has_one_is_not(field: Haze, expected: str | None) -> None:
    assert find_collapse(look_of(field)) == expected


@pytest.mark.parametrize("prior", ["builtin", "some/model"])
def test_neither_the_start_blob_nor_a_figure_is_a_collapse(prior: str) -> None:
    config = resolve(JobRequest("x", prior=prior))
    assert find_collapse(look_of(Scene(config, CPU).field, prior)) is None
    for kind in range(4):
        assert find_collapse(look_of(SolidField(50.0, figurine_distances(kind)), prior)) is None


def figurine_distances(kind: int) -> Tensor:
    """Roughly: the distance that a part's radii scale to; the sign is exact."""
    figure = Figurines.of(torch.tensor([kind]), torch.tensor([0]))
    xyz = grid_points(64)
    found = torch.full((len(xyz),), 9.0)
    for center, radii, pitch, is_box in zip(
        figure.centers[0], figure.radii[0], figure.pitch_rad[0], figure.is_box[0], strict=True
    ):
        if radii.max() == 0 or pitch != 0:
            continue
        scaled = (xyz - center) / radii
        size = scaled.abs().amax(dim=1) if is_box else scaled.norm(dim=1)
        found = torch.minimum(found, (size - 1) * radii.min())
    return found.view(64, 64, 64)


def test_real_runs_are_healthy_where_they_are_looked_at() -> None:
    """As measured for "a red bear" with the embedded prior, steps 20 to 50."""
    for numbers in ((0.95, 0.33, 0.15, 0.27), (0.99, 0.43, 0.25, 0.32), (0.997, 0.42, 0.32, 0.33)):
        assert find_collapse(Look(*numbers)) is None


def test_it_is_looked_at_a_tenth_of_the_way_but_not_before_twenty_steps() -> None:
    assert [horizon(steps) for steps in (100, 500, 15_000)] == [20, 50, 1500]


def test_the_sides_are_read_half_of_the_way_but_not_in_short_runs() -> None:
    assert [horizon_of_sides(steps) for steps in (199, 200, 333, 500, 15_000)] == [None, 100, 166, 250, 7500]


def test_lost_sides_are_cured_by_another_seed_alone() -> None:
    config = resolve(JobRequest("x", seed=7))
    assert cured(config, "sides").seed != 7
    assert replace(cured(config, "sides"), seed=7) == config


def test_the_cures() -> None:
    config = resolve(JobRequest("x"))
    empty, fog = cured(config, "empty"), cured(config, "fog")
    assert empty.field.blob_density == 10 and empty.field.blob_radius == pytest.approx(2 / 3)
    assert empty.regularizers.sparsity == pytest.approx(1) and fog.regularizers.sparsity == 50
    assert fog.regularizers.entropy == 300 and fog.field == config.field == cured(config, "full").field


# The stage


class Notes(NullReport):
    """Keeps the warnings; stops the run at the given steps, once each."""

    def __init__(self, *pauses: int) -> None:
        self.pauses, self.warnings, self.steps = list(pauses), [], []

    def progress(self, step: int, total: int) -> None:
        self.steps.append(step)
        if self.pauses and step == self.pauses[0]:
            self.pauses.pop(0)
            raise Paused

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def make_job(folder: Path, **changes) -> tuple[JobFolder, GenerateConfig]:
    overrides = SMALL | changes.pop("overrides", {})
    request = JobRequest("a red bear", seed=3, device="cpu", overrides=overrides, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "job.json", request.to_json())
    return JobFolder(folder), resolve(request)


def run(job: JobFolder, config: GenerateConfig, notes: Notes) -> Particles:
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    return shape_stage(job, config, prior, prepare_guide(job, config, prior), CPU, notes)[0]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after three steps."""
    monkeypatch.setattr(collapse, "MIN_STEPS", 3)


def verdicts(monkeypatch: pytest.MonkeyPatch, *said: str | None) -> list[str | None]:
    """Let the watch find these, one after the other."""
    left = list(said)
    monkeypatch.setattr(shape, "find_collapse", lambda look: left.pop(0))
    return left


def test_a_healthy_run_is_looked_at_once_and_goes_through(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = verdicts(monkeypatch, None), Notes()
    run(*make_job(tmp_path, method="sds"), notes)
    assert notes.steps == list(range(1, 9)) and not notes.warnings and not left


def test_a_collapse_is_cured_once_by_beginning_again(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = verdicts(monkeypatch, "fog", None), Notes()
    job, config = make_job(tmp_path / "job", method="vsd")
    particles = run(job, config, notes)
    assert notes.steps == [1, 2, 3, *range(1, 9)] and not left
    assert len(notes.warnings) == 1 and "a fog. The shape stage restarts with" in notes.warnings[0]
    assert particles.scenes[0].config.regularizers.entropy == 10 * config.regularizers.entropy
    # From the beginning in every respect: as a job that had the cure's settings from the first.
    verdicts(monkeypatch, None)
    other, _ = make_job(tmp_path / "other", method="vsd")
    expected = run(other, cured(config, "fog"), Notes())
    for name, value in expected.tensors().items():
        assert torch.equal(value, particles.tensors()[name]), name


def test_the_rectifier_begins_again_as_well(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts(monkeypatch, "fog")
    again: dict[str, Tensor] = {}

    def stop(store: CheckpointStore, tensors: dict[str, Tensor]) -> None:
        again.update(tensors)
        raise Paused

    monkeypatch.setattr(shape, "_restart", stop)
    with pytest.raises(Paused):
        run(*make_job(tmp_path, pose_mode="marginal"), Notes())
    (probs,) = (value for name, value in again.items() if "marginal" in name)
    assert torch.allclose(probs, torch.full_like(probs, 1 / probs.shape[1]))


def test_a_second_collapse_is_reported_and_the_stage_continues(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts(monkeypatch, "empty", "full")
    notes = Notes()
    run(*make_job(tmp_path, method="sds"), notes)
    assert notes.steps == [1, 2, 3, *range(1, 9)]
    assert len(notes.warnings) == 2 and "fills the whole scene at step 3 again" in notes.warnings[1]


def losses(monkeypatch: pytest.MonkeyPatch, *said: float) -> list[float]:
    """Let the sides be read after four steps, and these shares of them be lost, one after the other."""
    left = list(said)
    monkeypatch.setattr(collapse, "MIN_STEPS_FOR_SIDES", 2)
    monkeypatch.setattr(shape, "find_collapse", lambda look: None)
    monkeypatch.setattr(shape, "lost_sides", lambda *read: left.pop(0))
    return left


def test_an_object_with_its_sides_is_read_once(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = losses(monkeypatch, 0.25), Notes(5)
    job, config = make_job(tmp_path)
    with pytest.raises(Paused):
        run(job, config, notes)
    run(job, config, notes)
    assert notes.steps == list(range(1, 9)) and not left
    assert not [said for said in notes.warnings if "sides" in said]


def test_lost_sides_are_sought_once_with_other_random_numbers(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = losses(monkeypatch, 0.5, 0.0), Notes()
    job, config = make_job(tmp_path / "job")
    particles = run(job, config, notes)
    assert notes.steps == [1, 2, 3, 4, *range(1, 9)] and not left
    (said,) = (each for each in notes.warnings if "sides" in each)
    assert "restarts with other random numbers" in said
    # The same as a job that had this seed from the first, but for its templates.
    losses(monkeypatch, 0.0)
    other, _ = make_job(tmp_path / "other")
    shutil.copytree(job.templates, other.templates)
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    expected, _ = shape_stage(
        other, cured(config, "sides"), prior, prepare_guide(other, config, prior), CPU, Notes()
    )
    for name, value in expected.tensors().items():
        assert torch.equal(value, particles.tensors()[name]), name


def test_sides_that_are_lost_again_are_reported_and_the_stage_continues(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = losses(monkeypatch, 0.75, 0.75), Notes()
    run(*make_job(tmp_path), notes)
    assert notes.steps == [1, 2, 3, 4, *range(1, 9)] and not left
    assert "its cameras ask for at step 4 again" in notes.warnings[-1] and "seed" in notes.warnings[-1]


@pytest.mark.parametrize("changes", [
    {"pose_mode": "marginal"}, {"method": "vsd"}, {"overrides": {"rectifier.lost_sides": 0.0}},
])  # fmt: skip
def test_where_no_camera_asks_for_a_side_none_is_lost(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    left, notes = losses(monkeypatch, 1.0), Notes()
    run(*make_job(tmp_path, **changes), notes)
    assert notes.steps == list(range(1, 9)) and left == [1.0]


def test_who_starts_from_an_object_is_told_what_can_be_done_about_that(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger start blob is no cure, and full is no collapse."""
    job, config = make_job(tmp_path, method="sds")
    prior, ball = DiffusionPrior.load("builtin", "cpu", torch.float32), grid_points(24).norm(dim=1) - 0.5
    start, guide = (
        StartingPoint("object", 1.0, distances=ball.view(24, 24, 24)),
        prepare_guide(job, config, prior),
    )
    for said in (("full",), ("empty", "empty")):
        left, notes = verdicts(monkeypatch, *said), Notes()
        shape_stage(job, config, prior, guide, CPU, notes, start)
        assert not left
        shutil.rmtree(job.checkpoints)
        if said == ("full",):
            assert not notes.warnings
    first, second = notes.warnings
    assert "with less pressure to be sparse" in first and "larger" not in first
    assert "again" in second and "lower the strength" in second and "seed" not in second


def test_a_stopped_cure_goes_on_where_it_was(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts(monkeypatch, "empty", None)
    straight = run(*make_job(tmp_path / "straight", method="sds"), Notes())
    left, notes = verdicts(monkeypatch, "empty", None), Notes(3, 2, 5)
    job, config = make_job(tmp_path / "stopped", method="sds")
    # Right before the look, within the second beginning, and after its look.
    for step in (3, 2, 5):
        with pytest.raises(Paused):
            run(job, config, notes)
        checkpoint = CheckpointStore(job.checkpoints).newest("shape")
        assert checkpoint is not None and checkpoint.step == step
    particles = run(job, config, notes)
    assert not left and len(notes.warnings) == 1
    assert particles.scenes[0].config.field.blob_density == 2 * config.field.blob_density
    for name, value in straight.tensors().items():
        assert torch.equal(value, particles.tensors()[name]), name


def test_killed_between_the_look_and_the_new_beginning_it_looks_again(
    early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, notes = verdicts(monkeypatch, "fog", "fog", None), Notes()
    job, config = make_job(tmp_path, method="sds")
    with monkeypatch.context() as patch:
        patch.setattr(shape, "_restart", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(job, config, notes)
    run(job, config, notes)
    assert not left and notes.steps[-8:] == list(range(1, 9))


def test_what_really_collapses_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"regularizers.sparsity": 1e6, "optimize.num_steps": 30, "optimize.num_views": 1,
                 "optimize.final_learning_rate": 1.0, "optimize.grid_learning_rate": 0.3}  # fmt: skip
    monkeypatch.setattr(collapse, "MIN_STEPS", 12)
    notes = Notes()
    run(*make_job(tmp_path, method="sds", overrides=overrides), notes)
    assert "Nothing is left of the object" in notes.warnings[0]
