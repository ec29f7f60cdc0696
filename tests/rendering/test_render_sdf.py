"""Pictures of a signed distance: few samples carry them, and their gradient is that of all samples."""

from __future__ import annotations

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid
from recdreamer.field.grid_values import grid_points
from recdreamer.rendering import Rendering, render_sdf
from recdreamer.rendering.render_sdf import render_surface
from recdreamer.sdf.distance_grid import DistanceGrid

SIZE, PX = 48, 48


def ball(radius: float = 0.6) -> DistanceGrid:
    distances = (grid_points(SIZE).norm(dim=1) - radius).view(SIZE, SIZE, SIZE)
    return DistanceGrid(distances, torch.full((3, SIZE, SIZE, SIZE), 0.5))


def shown(grid: DistanceGrid, softness: float = 0.01) -> Rendering:
    """Two views, from where everything counts as occupied."""
    cameras = orbit_cameras(torch.tensor([0.0, 120.0]), torch.tensor([8.0, 8.0]), 4.0, 30.0)
    occupancy = OccupancyGrid(OccupancyConfig(resolution=16))
    return render_surface(grid, occupancy, cameras, PX, torch.full((2, 3), 0.8), "shaded", softness, 0.01)


def gradient(grid: DistanceGrid) -> torch.Tensor:
    """Of a sum in which every pixel counts differently."""
    picture = shown(grid).rgb
    weights = torch.linspace(0, 60, picture.numel()).sin().view_as(picture)
    (found,) = torch.autograd.grad((weights * picture).sum(), grid.distances)
    return found


def test_samples_that_are_left_out_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ball()
    picture, found = shown(grid), gradient(grid)
    monkeypatch.setattr(render_sdf, "MIN_WEIGHT", 0.0)
    whole, exact = shown(grid), gradient(grid)
    assert len(picture.weights) < len(whole.weights)
    assert (picture.rgb - whole.rgb).abs().max() < 1e-3
    assert (found - exact).norm() < 0.01 * exact.norm()


def test_what_is_kept_is_the_shell_that_is_seen_and_not_the_cube() -> None:
    """Memory: at a sharp surface a ray keeps what passes it once, of some hundred samples through the cube."""
    picture = shown(ball(), softness=0.002)
    hits = int((picture.opacity > 0).sum())
    assert hits > 500 and len(picture.weights) < 12 * hits


def test_an_edge_that_two_samples_share_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, asked, marched = ball(), [], []
    distance, march = grid.distance, render_sdf.march

    def counted(*arguments):
        samples, begins = march(*arguments)
        marched.append(len(samples.xyz))
        return samples, begins

    monkeypatch.setattr(render_sdf, "march", counted)
    monkeypatch.setattr(grid, "distance", lambda xyz: asked.append(len(xyz)) or distance(xyz))
    with torch.no_grad():
        shown(grid)
    before_the_choice = sum(asked[: 2 * sum(count > 0 for count in marched)])
    assert before_the_choice < 1.1 * sum(marched)


def test_where_nothing_is_there_is_only_the_ground() -> None:
    picture = shown(DistanceGrid(torch.ones(SIZE, SIZE, SIZE), torch.ones(3, SIZE, SIZE, SIZE)))
    assert torch.allclose(picture.rgb, torch.tensor(0.8)) and len(picture.weights) == 0
