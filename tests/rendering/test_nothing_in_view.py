"""Steps in which no ray hits anything: thin objects, regions out of sight, an empty grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.kernels import Backend
from recdreamer.presets import EMBEDDED_FIELD, EMBEDDED_RENDER
from recdreamer.rendering import regularizers, render
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import Samples, march
from recdreamer.rendering.ray_cast import MeshCaster
from recdreamer.rendering.render_sdf import Shown, render_surface
from recdreamer.sdf.distance_grid import DistanceGrid
from recdreamer.sdf.from_mesh import SolidMesh

NOWHERE = torch.zeros(0, 3)
VERTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
CAMERAS = orbit_cameras(torch.tensor([0.0, 120.0]), torch.tensor([8.0, 8.0]), 4.0, 30.0)


@pytest.fixture(params=["warp", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[Backend]:
    set_backend(request.param)
    yield request.param
    set_backend("warp")


def nothing() -> OccupancyGrid:
    grid = OccupancyGrid(OccupancyConfig(resolution=8))
    grid.occupied.zero_()
    return grid


def no_samples(num_rays: int) -> Samples:
    none = torch.zeros(0)
    return Samples(
        torch.zeros(num_rays, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), none, none, NOWHERE
    )


@pytest.mark.parametrize("features", [1, 2, 4])
def test_a_field_of_no_points_has_a_gradient_of_zero(features: int) -> None:
    field = RadianceField(replace(EMBEDDED_FIELD, features_per_level=features), 0)
    sigmas, rgb = field(NOWHERE)
    assert sigmas.shape == (0,) and rgb.shape == (0, 3)
    (sigmas.sum() + rgb.sum()).backward()
    assert field.grid.table.grad is not None and not field.grid.table.grad.any()


@pytest.mark.parametrize("num_rays", [0, 4])
def test_no_samples_composite_to_nothing(num_rays: int) -> None:
    sigmas, rgb = torch.zeros(0, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    weights, *sums = composite(sigmas, rgb, no_samples(num_rays))
    sum(values.sum() for values in (weights, *sums)).backward()
    assert [len(values) for values in (weights, *sums)] == [0, num_rays, num_rays, num_rays]
    assert not any(values.any() for values in sums)
    assert sigmas.grad is not None and rgb.grad is not None and rgb.grad.shape == (0, 3)


def test_no_rays_have_no_samples_and_no_hits() -> None:
    begins = torch.zeros(0, dtype=torch.int32)
    samples, goes_on = march(NOWHERE, NOWHERE, nothing(), 0.05, torch.zeros(0), begins, 4)
    assert len(samples.xyz) == len(samples.counts) == len(goes_on) == 0
    assert [len(found) for found in MeshCaster(VERTS, FACES, "cpu").cast(NOWHERE, NOWHERE)] == [0, 0, 0]
    assert len(SolidMesh(VERTS, FACES, "cpu").nearest(NOWHERE).distances) == 0


def test_an_empty_scene_is_its_background_and_every_regularizer_is_finite() -> None:
    field, background = RadianceField(EMBEDDED_FIELD, 0), torch.full((2, 3), 0.25)
    found = render(field, nothing(), CAMERAS, 8, 8, background, EMBEDDED_RENDER)
    assert torch.equal(found.rgb, torch.full((2, 3, 8, 8), 0.25)) and not found.opacity.any()
    losses = [
        regularizers.sparsity_loss(found.opacity),
        regularizers.opaque_loss(found.opacity),
        regularizers.weight_entropy_loss(found.weights),
        regularizers.z_variance_loss(found),
        *regularizers.smoothness_loss(field, found, 0.04, 16, torch.Generator()),
    ]
    assert torch.isfinite(torch.stack(losses)).all()


@pytest.mark.parametrize("shown", ["normals", "shaded"])
def test_a_surface_out_of_view_is_its_background_and_gets_no_gradient(shown: Shown) -> None:
    grid = DistanceGrid(torch.ones(16, 16, 16), torch.full((3, 16, 16, 16), 0.5))
    background = torch.full((2, 3), 0.25)
    found = render_surface(grid, nothing(), CAMERAS, 8, background, shown, 0.01, 0.05)
    assert torch.equal(found.rgb, torch.full((2, 3, 8, 8), 0.25))
    found.rgb.sum().backward()
    assert grid.distances.grad is not None and not grid.distances.grad.any()
