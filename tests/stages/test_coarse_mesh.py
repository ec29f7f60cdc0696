"""The coarse mesh of a running stage: what it shows, what it costs, and that it never harms a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recdreamer.config import GenerateConfig
from recdreamer.mesh import Mesh
from recdreamer.mesh.extract import rough_mesh
from recdreamer.mesh.mesh import is_watertight, signed_volume
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Scene
from recdreamer.models.surface import Surface
from recdreamer.presets import resolve
from recdreamer.sdf.distance_grid import DistanceGrid
from recdreamer.shared.protocol import COARSE_MESH, JobFolder, JobRequest
from recdreamer.stages.coarse_mesh import LEAST_S, MAX_FACES, SHARE, CoarseMeshes

CPU = torch.device("cpu")
RADIUS = 0.5


class Clock:
    """A clock that the test sets; each look at it takes `cost` seconds."""

    def __init__(self) -> None:
        self.now = self.cost = 0.0

    def __call__(self) -> float:
        self.now += self.cost
        return self.now


@pytest.fixture
def config() -> GenerateConfig:
    return resolve(JobRequest("a red bear", quality="quick"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meshes(tmp_path: Path, clock: Clock) -> CoarseMeshes:
    return CoarseMeshes(JobFolder(tmp_path), 48, CPU, clock)


def ball_density(xyz: torch.Tensor) -> torch.Tensor:
    return 100 * (xyz.norm(dim=1) < RADIUS).float()


def ball_grid(resolution: int = 48) -> DistanceGrid:
    axis = torch.linspace(-1, 1, resolution)
    distances = torch.cartesian_prod(axis, axis, axis).norm(dim=1) - RADIUS
    albedo = torch.zeros(3, resolution, resolution, resolution)
    albedo[0] = 1
    return DistanceGrid(distances.view(resolution, resolution, resolution), albedo)


def written(folder: Path) -> Mesh:
    """The mesh that is there now, which Blender can use: closed, outward, within its limits."""
    with np.load(folder / COARSE_MESH, allow_pickle=False) as arrays:
        assert {name: str(arrays[name].dtype) for name in arrays.files} == {
            "verts": "float32",
            "faces": "int32",
            "rgb": "uint8",
        }
        assert arrays["rgb"].shape == arrays["verts"].shape
        mesh = Mesh(arrays["verts"], arrays["faces"])
    assert 0 < len(mesh.faces) <= 1.01 * MAX_FACES and is_watertight(mesh) and signed_volume(mesh) > 0
    return mesh


def test_a_ball_has_the_volume_of_a_ball() -> None:
    for threshold in (None, 50.0):
        mesh = rough_mesh(ball_density, 48, threshold)
        assert mesh is not None and is_watertight(mesh)
        assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
        assert np.abs(mesh.verts.mean(0)).max() < 0.01, "the cells are centred"


def test_an_object_at_the_border_is_closed() -> None:
    mesh = rough_mesh(lambda xyz: 100 * (xyz[:, 0] > 0).float(), 16)
    assert mesh is not None and is_watertight(mesh)
    assert signed_volume(mesh) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_an_empty_field_has_none(value: float) -> None:
    mesh = rough_mesh(lambda xyz: torch.zeros(len(xyz)) * value, 16)
    assert mesh is None


def test_the_first_stage(config: GenerateConfig, meshes: CoarseMeshes, tmp_path: Path) -> None:
    assert meshes.offer(Scene(config, CPU))
    written(tmp_path)


def test_the_second_stage_shows_its_albedo(
    config: GenerateConfig, meshes: CoarseMeshes, tmp_path: Path
) -> None:
    shaded = replace(config, geometry=replace(config.geometry, picture="shaded"))
    assert meshes.offer(Surface(shaded, ball_grid(), CPU))
    assert signed_volume(written(tmp_path)) == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    with np.load(tmp_path / COARSE_MESH) as arrays:
        red, green, blue = arrays["rgb"].mean(0)
    assert red > 100 and max(green, blue) < 5


def test_the_third_stage_has_its_own_mesh_with_fewer_faces(
    config: GenerateConfig, meshes: CoarseMeshes, tmp_path: Path
) -> None:
    fine = rough_mesh(ball_density, 96)
    assert fine is not None and len(fine.faces) > 2 * MAX_FACES
    assert meshes.offer(Painting(config, fine, Scene(config, CPU).field, CPU))
    assert np.ptp(written(tmp_path).verts, axis=0) == pytest.approx([1, 1, 1], abs=0.05)


def test_it_takes_a_fiftieth_of_the_time_at_most(
    config: GenerateConfig, meshes: CoarseMeshes, clock: Clock
) -> None:
    """Each costs one second here, between two looks at the clock."""
    scene, clock.cost = Scene(config, CPU), 1.0
    times = []
    while clock.now < 300:
        if meshes.offer(scene):
            times.append(clock.now)
    gaps = np.diff(times)
    assert len(times) >= 5 and gaps.min() >= 1 / SHARE and 1 / gaps.mean() <= SHARE


def test_quick_ones_keep_a_distance(config: GenerateConfig, meshes: CoarseMeshes, clock: Clock) -> None:
    scene = Scene(config, CPU)
    assert meshes.offer(scene) and not meshes.offer(scene)
    clock.now = LEAST_S - 0.01
    assert not meshes.offer(scene)
    clock.now = LEAST_S
    assert meshes.offer(scene)


def test_it_can_be_switched_off(config: GenerateConfig, tmp_path: Path) -> None:
    assert not CoarseMeshes(JobFolder(tmp_path), 0, CPU).offer(Scene(config, CPU))
    assert not (tmp_path / COARSE_MESH).exists()
    off = resolve(JobRequest("a red bear", overrides={"coarse_cells": 0}))
    assert off.step("shape").coarse_cells == 0 and config.step("texture").coarse_cells == 48


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), OSError(28, "No space left on device"), MemoryError()]
)
def test_no_trouble_of_it_ends_a_job(
    config: GenerateConfig, meshes: CoarseMeshes, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("recdreamer.stages.coarse_mesh.rough_mesh", fail)
    assert not meshes.offer(Scene(config, CPU))
    assert meshes.next_s > 0, "it is not tried again at once"


def test_a_damaged_field_is_left_to_the_stage(config: GenerateConfig, meshes: CoarseMeshes) -> None:
    scene = Scene(config, CPU)
    with torch.no_grad():
        for parameter in scene.field.parameters():
            parameter.fill_(torch.nan)
    assert not meshes.offer(scene)


def test_the_random_numbers_of_a_job_are_not_touched(config: GenerateConfig, meshes: CoarseMeshes) -> None:
    scene = Scene(config, CPU)
    before = torch.random.get_rng_state()
    tensors = {name: tensor.clone() for name, tensor in scene.tensors().items()}
    assert meshes.offer(scene)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in scene.tensors().items())
