"""What the stages of a job are given: seed, guide, settings, and what the stage before has made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import nn

from recdreamer import generate
from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.grid_values import grid_points
from recdreamer.mesh import Mesh
from recdreamer.models.close_ups import CloseUps
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Particles
from recdreamer.models.surface import Surface
from recdreamer.presets import EMBEDDED_FIELD, resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.report import NullReport
from recdreamer.shared.protocol import JobFolder, JobRequest
from recdreamer.stages import geometry, handover, texture, workpiece
from recdreamer.stages.handover import JobRun, first_shapes, refined_shapes
from recdreamer.stages.workpiece import Workpiece, paint_objects, workpieces_of
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

from ..distillation.recorded import RecordingDenoiser, prompts

CPU = torch.device("cpu")
SEEDS = {"shape": 11, "geometry": 22, "texture": 33}
SMALL = {
    "optimize.num_views": 1, "geometry.num_views": 2, "geometry.resolution": 24, "texture.num_views": 3,
    "texture.detail_steps": 5, "texture.copy_steps": 3, "field.num_levels": 2, "mesh.resolution": 24,
    "mesh.texture_size_px": 64, "texture.render_px": 16,
}  # fmt: skip


def config(**overrides) -> GenerateConfig:
    return resolve(JobRequest("a red bear", seed=1, overrides=SMALL | overrides))


def guides() -> dict[str, Guide]:
    """One for each stage, told apart by their methods."""
    methods = {"shape": "usd", "geometry": "sds", "texture": "esd", "close_ups": "vsd"}
    settings = config().guidance
    return {name: Guide(method, RecordingDenoiser(), prompts(), settings) for name, method in methods.items()}


def job_run(settings: GenerateConfig | None = None, start: StartingPoint = FROM_PROMPT) -> JobRun:
    unet = SimpleNamespace(device=CPU)
    schedule = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon")
    prior = DiffusionPrior(unet, None, None, nn.Identity(), schedule, 64)
    return JobRun(
        JobFolder(Path("nowhere")), settings or config(), NullReport(), lambda name: None, CPU, SEEDS, start,
        prior, guides(),
    )  # fmt: skip


def distances(radius: float = 0.5, resolution: int = 24) -> torch.Tensor:
    return (grid_points(resolution).norm(dim=1) - radius).view((resolution,) * 3)


def ball() -> Mesh:
    found = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    return Mesh(found.vertices.astype(np.float32), found.faces.astype(np.int32))


class Called:
    """A function that remembers what it was called with, and answers the same each time."""

    def __init__(self, answer: object) -> None:
        self.answer, self.given = answer, []

    def __call__(self, *given: object, **named: object) -> object:
        self.given.append((given, named))
        return self.answer


def of_type(given: tuple, kind: type) -> Any:
    """The one argument of a type."""
    (found,) = [value for value in given if isinstance(value, kind)]
    return found


def test_the_shape_has_its_own_seed_its_guide_and_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = StartingPoint("object", 0.5, distances=distances())
    run, made = job_run(start=start), Particles(config(), CPU)
    stage = Called((made, 1.0))
    monkeypatch.setattr(handover, "shape_stage", stage)
    assert first_shapes(run) is made and run.seconds == {"shape": 1.0}
    ((given, _),) = stage.given
    assert of_type(given, GenerateConfig).seed == 11
    assert of_type(given, Guide) is run.guides["shape"] and of_type(given, StartingPoint) is start


@pytest.mark.parametrize(("picture", "is_ahead"), [("shaded", True), ("normals", False)])
def test_the_geometry_has_its_own_seed_and_guide_and_its_colours_are_handed_on(
    picture: str, is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was shown lit colours, it has learned an albedo that the field has not."""
    settings = config(**{"geometry.picture": picture})
    run, particles = job_run(settings), Particles(settings, CPU)
    found = Surface(settings, geometry.colored_grid(settings, distances(), particles.scenes[0].field), CPU)
    with torch.no_grad():
        found.grid.albedo.data = torch.full((3, 24, 24, 24), 0.25)
    stage = Called(([found], 2.0))
    monkeypatch.setattr(handover, "geometry_stage", stage)
    (shape,) = refined_shapes(run, particles)
    ((given, _),) = stage.given
    assert of_type(given, GenerateConfig).seed == 22 and of_type(given, Guide) is run.guides["geometry"]
    assert shape.field is particles.scenes[0].field and shape.is_ahead is is_ahead
    points, normals = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, 1.0]])
    if is_ahead:
        assert shape.shade is not None
        assert torch.allclose(shape.shade(points, normals), torch.full((1, 3), 0.25 * 0.98), atol=1e-3)
    else:
        assert shape.shade is None
    # The refined surface, and not the field, is what the mesh comes from.
    assert shape.density(torch.tensor([[0.0, 0.0, 0.5]])).item() == pytest.approx(50, abs=5)
    assert not shape.settings.fill_pores and run.seconds == {"geometry": 2.0}


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_each_surface_is_refined_with_the_geometrys_settings_as_far_as_the_strength_says(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Called(0.5)
    monkeypatch.setattr(geometry, "run_stage", stage)
    run, field = job_run(), RadianceField(replace(EMBEDDED_FIELD, num_levels=2), 0)
    start = StartingPoint("continue", strength, surface=distances(0.4, 16))
    surfaces, seconds = geometry.geometry_stage(
        run.job,
        run.config,
        run.prior,
        run.guides["geometry"],
        [field] * 2,
        [field] * 2,
        CPU,
        run.report,
        start,
    )
    assert seconds == 1.0 and [given[0] for given, _ in stage.given] == ["geometry", "geometry_1"]
    steps = run.config.geometry.num_steps
    assert [named["counted"] for _, named in stage.given] == [(0, 2 * steps), (steps, 2 * steps)]
    for (given, _), surface in zip(stage.given, surfaces, strict=True):
        assert run.config.step("geometry") in given and run.guides["geometry"] in given and surface in given
        # An earlier job's surface, on the grid of this one.
        assert surface.grid.distances.shape == (24, 24, 24)
        assert surface.grid.distance(torch.tensor([[0.4, 0.0, 0.0]])).abs().item() < 0.02
        if strength == 1:
            assert surface.freedom is None
        else:
            assert surface.freedom is not None and surface.freedom.unique().tolist() == pytest.approx(
                [strength]
            )


def test_textures_and_close_ups_have_each_their_guide_and_their_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Called(0.5)
    monkeypatch.setattr(texture, "run_stage", stage)
    run, field = job_run(), RadianceField(replace(EMBEDDED_FIELD, num_levels=2), 0)
    paintings, seconds = texture.texture_stage(
        run.job, run.config, run.prior, run.guides, [ball()], [field], CPU, run.report
    )
    assert seconds == 1.0
    (painted, counted), (close, counted_close) = stage.given
    assert painted[0] == "texture" and close[0] == "detail"
    assert run.config.step("texture") in painted and run.config.step("close_ups") in close
    assert (
        of_type(painted, Guide) is run.guides["texture"] and of_type(close, Guide) is run.guides["close_ups"]
    )
    assert paintings[0] in painted and of_type(close, CloseUps).painting is paintings[0]
    steps = run.config.texture.num_steps
    assert counted["counted"] == (0, steps + 5) and counted_close["counted"] == (steps, steps + 5)


def piece() -> Workpiece:
    """A ball, whose colour on the surface is green."""
    field = RadianceField(replace(EMBEDDED_FIELD, num_levels=2), 0)
    green = torch.tensor([0.1, 0.8, 0.1])
    return Workpiece(
        ball(),
        field,
        lambda points, normals: green.expand(len(points), -1),
        None,
        lambda mesh: mesh,
        {},
        True,
    )


def test_the_texture_has_its_own_seed_and_starts_from_what_the_surface_has_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, subject = (
        job_run(config(**{"texture.copy_steps": 40, "texture.network_learning_rate": 0.05})),
        piece(),
    )
    painting = Painting(run.config, subject.mesh, subject.field, CPU)
    stage = Called(([painting], 3.0))
    monkeypatch.setattr(workpiece, "texture_stage", stage)
    paint_objects(run, [subject])
    ((given, _),) = stage.given
    assert of_type(given, GenerateConfig).seed == 33 and of_type(given, dict) is run.guides
    ((field,),) = [
        value for value in given if isinstance(value, list) and isinstance(value[0], RadianceField)
    ]
    with torch.no_grad():
        red, middle, _ = field(torch.tensor([[0.0, -0.5, 0.0]]))[1][0].tolist()
    assert middle > red + 0.2
    assert subject.painting is painting and run.seconds["texture"] >= 3.0


def test_meshes_are_extracted_with_the_seed_of_the_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Called(
        SimpleNamespace(mesh=ball(), shade=lambda p, n: p, normal_at=None, facts={"threshold": 1.0})
    )
    monkeypatch.setattr(workpiece, "mesh_of_field", stage)
    run, field = job_run(), RadianceField(replace(EMBEDDED_FIELD, num_levels=2), 0)
    shape = handover.Shape(field.density, run.config.mesh, field, None, False)
    (found,) = workpieces_of(run, [shape])
    ((given, named),) = stage.given
    assert given[0] == field.density and given[2] is run.config.mesh and named["seed"] == 22
    assert found.field is field and found.facts == {"threshold": 1.0}


def test_the_mesh_is_baked_with_the_jobs_settings_and_the_textures_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Called({"is_watertight": True})
    monkeypatch.setattr(generate, "dress_mesh", stage)
    monkeypatch.setattr(generate, "empty_result", lambda job: tmp_path)
    monkeypatch.setattr(generate, "take_result", lambda job: None)
    run, subject = job_run(), piece()
    generate.write_result(run, [subject])
    ((given, named),) = stage.given
    assert given[:2] == (subject.mesh, subject.shade) and given[3] is run.config.mesh
    assert named["seed"] == 33 and named["place"] is subject.place and named["device"] == CPU


def test_an_object_s_strength_is_the_models() -> None:
    start = StartingPoint("object", 0.4, distances=distances())
    (scene,) = Particles(config(), CPU, start).scenes
    assert scene.strength.item() == pytest.approx(0.4)
