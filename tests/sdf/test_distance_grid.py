"""The shell that stands for a surface: closed forms of a sphere and a box, silhouettes against finite differences."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid
from recdreamer.field.grid_values import grid_points
from recdreamer.rendering.render_sdf import Shown, render_surface
from recdreamer.sdf.distance_grid import (
    HESSIAN_SCALE,
    SOLID,
    DistanceGrid,
    albedo_variation,
    anchor_loss,
    eikonal_loss,
    hessian_loss,
    light,
)

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


def test_the_hessian_holds_the_principal_curvatures() -> None:
    """A plane has none, a ball 1 / r twice, and a rod once."""
    points = grid_points(RESOLUTION)
    tilted = points @ torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -0.5]), dim=0)
    rod = points[:, :2].norm(dim=1) - 0.6
    for distances, curvature in ((tilted, 0.0), (rod, 1 / 0.6), (sphere(0.6), math.sqrt(2) / 0.6)):
        grid = shell(distances.view((RESOLUTION,) * 3))
        exact = math.hypot(CELL * curvature, HESSIAN_SCALE) - HESSIAN_SCALE
        assert hessian_loss(grid, grid.near_surface(1.0)).item() == pytest.approx(exact, rel=0.05, abs=1e-6)
    noise = torch.randn((RESOLUTION,) * 3, generator=torch.Generator().manual_seed(0))
    bumpy = shell(sphere(0.6) + 0.2 * CELL * noise)
    assert hessian_loss(bumpy, bumpy.near_surface(1.0)) > 5 * exact


def test_a_sharp_fold_costs_as_much_as_a_round_one() -> None:
    """A roof whose ridge is sharp or a parabola; the square, which is the control, would have it round."""
    x, _, z = grid_points(RESOLUTION).T
    every = torch.arange(RESOLUTION**3).view((RESOLUTION,) * 3)[2:-2, 2:-2, 2:-2].flatten()
    costs, squares = [], []
    for width in (0.5 * CELL, 4 * CELL):
        roof = torch.where(x.abs() < width, 0.5 * (x.square() / width + width), x.abs())
        grid = shell((z + 2 * roof).view((RESOLUTION,) * 3))
        costs.append(hessian_loss(grid, every).item())
        bends = grid.neighbours(every).sum((0, 1)) - 6 * grid.distances.view(-1)[every]
        squares.append((bends / grid.cell).square().mean().item())
    assert costs[0] == pytest.approx(costs[1], rel=0.1)
    assert squares[0] > 4 * squares[1]


def test_the_variation_of_the_albedo_is_the_height_of_its_steps() -> None:
    """One border of height h costs as much as a slope of the same height, and equal colours nothing."""
    x = torch.arange(RESOLUTION).view(-1, 1, 1).expand((RESOLUTION,) * 3)
    costs = []
    for width in (1, 8):
        ramp = ((x - RESOLUTION // 2) / width).clamp(0, 1)
        grid = DistanceGrid(sphere(0.6), torch.stack([0.5 + 0.4 * ramp] + [torch.full_like(ramp, 0.5)] * 2))
        every = torch.arange(RESOLUTION**3).view((RESOLUTION,) * 3)[1:-1, 1:-1, 1:-1].flatten()
        costs.append(albedo_variation(grid, every).item() * (RESOLUTION - 2))
    assert costs[0] == pytest.approx(0.4, rel=0.03)
    assert costs[1] == pytest.approx(0.4, rel=0.25), "less by the scale below which differences are squared"
    even = shell(sphere(0.6))
    assert albedo_variation(even, even.near_surface()) == 0


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


def test_colours_are_the_albedo_in_the_light_of_a_point_that_faces_as_it_does_on_average() -> None:
    grid = DistanceGrid(torch.ones(5, 5, 5), torch.full((3, 5, 5, 5), 0.5))
    normals = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    expected = 0.5 * torch.tensor([0.98, 0.78, 0.58])
    assert torch.allclose(grid.color(torch.zeros(3, 3), normals), expected[:, None].expand(3, 3))
