"""The shell that stands for a surface: closed forms of a sphere and a box, silhouettes against finite differences."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid
from recdreamer.field.distance_grid import (
    SOLID,
    DistanceGrid,
    anchor_loss,
    eikonal_loss,
    laplacian_loss,
    light,
)
from recdreamer.field.volume import grid_points
from recdreamer.rendering.surface import Shown, render_surface

RESOLUTION, DISTANCE, FOV_DEG = 64, 4.0, 30.0
CELL = 2 / (RESOLUTION - 1)


def sphere(radius: float) -> torch.Tensor:
    return (grid_points(RESOLUTION).norm(dim=1) - radius).view((RESOLUTION,) * 3)


def box(half: float) -> torch.Tensor:
    q = grid_points(RESOLUTION).abs() - half
    return (q.clamp_min(0).norm(dim=1) + q.amax(1).clamp_max(0)).view((RESOLUTION,) * 3)


def shell(distances: torch.Tensor) -> DistanceGrid:
    return DistanceGrid(distances, torch.full((3, *distances.shape), 0.5))


def picture(grid: DistanceGrid, shown: Shown = "normals", softness: float = 0.01, size_px: int = 64):
    """From the front; where everything counts as occupied."""
    cameras = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), DISTANCE, FOV_DEG)
    occupancy = OccupancyGrid(OccupancyConfig(resolution=32))
    return render_surface(grid, occupancy, cameras, size_px, torch.zeros(1, 3), shown, softness, 0.01)


def coverage(grid: DistanceGrid, softness: float = 0.01) -> torch.Tensor:
    """Mean opacity of a picture."""
    return picture(grid, softness=softness).opacity.mean()


def test_distances_normals_and_density_of_a_sphere() -> None:
    grid = shell(sphere(0.6))
    directions = torch.nn.functional.normalize(
        torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    )
    with torch.no_grad():
        assert (grid.distance(0.6 * directions)).abs().max() < 1e-3
        assert (grid.distance(0.75 * directions) - 0.15).abs().max() < 1e-3
        assert (grid.normals(0.6 * directions) * directions).sum(1).min() > 0.9999
        assert grid.solidity(0.6 * directions).mean().item() == pytest.approx(0.5 * SOLID, rel=0.03)


def disc_coverage(radius: float) -> float:
    """Share of the picture under a sphere seen in perspective."""
    rho = radius / math.sqrt(DISTANCE**2 - radius**2) / math.tan(math.radians(FOV_DEG / 2))
    return math.pi * rho**2 / 4


def square_coverage(half: float) -> float:
    """Share of the picture under the front face of a box."""
    return (half / (DISTANCE - half) / math.tan(math.radians(FOV_DEG / 2))) ** 2


@pytest.mark.parametrize(
    ("shape", "size", "exact"), [(sphere, 0.6, disc_coverage), (box, 0.5, square_coverage)]
)
def test_silhouettes_have_the_gradient_of_finite_differences(shape, size: float, exact) -> None:
    """How the covered share of a picture grows with the object: autograd, differences of renders, geometry."""
    grid = shell(shape(size))
    share = coverage(grid)
    assert share.item() == pytest.approx(exact(size), rel=0.02)
    (towards,) = torch.autograd.grad(share, grid.distances)
    slope = (
        -towards.sum().item()
    )  # All distances shrink as the object grows; a box has edges rounder than a cell.
    step = 0.1 * 0.01
    with torch.no_grad():
        grown, shrunk = (coverage(shell(shape(size) - by)).item() for by in (step, -step))
    assert slope == pytest.approx((grown - shrunk) / (2 * step), rel=0.02)
    assert slope == pytest.approx((exact(size + 1e-4) - exact(size - 1e-4)) / 2e-4, rel=0.07)


def test_without_a_silhouette_there_is_no_gradient() -> None:
    """Negative control: an object that fills the picture has no outline, and growing covers nothing more."""
    share = coverage(shell(sphere(0.6) - 5.0))
    assert share.item() == pytest.approx(1.0, abs=1e-3)
    grid = shell(sphere(0.6) - 5.0)
    (towards,) = torch.autograd.grad(coverage(grid), grid.distances)
    assert towards.sum().abs() < 1e-3


def test_an_outline_is_where_it_is_at_any_softness() -> None:
    """A density by distance alone would put it outside, the further the softer."""
    shares = [coverage(shell(sphere(0.6)), softness).item() for softness in (0.005, 0.01, 0.02)]
    assert shares == pytest.approx([disc_coverage(0.6)] * 3, rel=0.01)


def test_what_is_shown_follows_the_normals() -> None:
    grid = shell(sphere(0.6))
    normals, shaded = (picture(grid, shown).rgb[0] for shown in get_args(Shown))
    middle = normals[:, 31:33, 31:33].mean((1, 2))
    assert torch.allclose(middle, torch.tensor([0.5, 0.0, 0.5]), atol=0.01), "the front looks to -Y"
    upper = normals[2, :32].max()
    assert upper > 0.9, "the top looks up"
    level = shaded[:, 31:33, 31:33].mean()
    assert level.item() == pytest.approx(0.5 * (0.74 + 0.08), rel=0.01), "seen head on"
    assert shaded[0, :20].max() > level + 0.05


def test_a_true_distance_costs_nothing_and_a_false_one_does() -> None:
    true, steep = shell(sphere(0.6)), shell(2 * sphere(0.6))
    assert eikonal_loss(true, true.near_surface()) < 1e-3
    assert eikonal_loss(steep, steep.near_surface()).item() == pytest.approx(1.0, rel=0.05)


def test_the_laplacian_is_twice_the_mean_curvature() -> None:
    radius = 0.6
    round_one = shell(sphere(radius))
    found = laplacian_loss(round_one, round_one.near_surface(1.0)).item()
    assert found == pytest.approx((2 * CELL / radius) ** 2, rel=0.05)
    noise = torch.randn((RESOLUTION,) * 3, generator=torch.Generator().manual_seed(0))
    bumpy = shell(sphere(radius) + 0.2 * CELL * noise)
    assert laplacian_loss(bumpy, bumpy.near_surface(1.0)) > 50 * found


def test_light_comes_from_above_and_a_little_from_the_camera() -> None:
    up, ahead = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, -1.0, 0.0]])
    assert light(up).item() == pytest.approx(0.98) and light(ahead).item() == pytest.approx(0.78)
    assert light(ahead, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(0.82), "seen head on"
    assert light(up, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(0.94), "seen edge on"


def test_what_left_its_start_is_pulled_back() -> None:
    grid = shell(sphere(0.6))
    assert anchor_loss(grid, grid.near_surface()) == 0
    with torch.no_grad():
        grid.distances += 0.5 * grid.cell
    loss = anchor_loss(grid, grid.near_surface())
    assert loss.item() == pytest.approx(0.25)
    (towards,) = torch.autograd.grad(loss, grid.distances)
    assert towards.max() > 0 and towards.min() == 0


def test_what_is_stored_brings_back_the_surface() -> None:
    grid, other = shell(sphere(0.6)), shell(box(0.5))
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.distances, grid.distances) and torch.equal(other.start, grid.start)
