"""The loss of the second stage term by term, its rates, and what the prior is shown."""

from __future__ import annotations

import pytest
import torch

from recdreamer.cameras import orbit_cameras, sample_cameras
from recdreamer.field.grid_values import grid_points
from recdreamer.models.surface import Surface
from recdreamer.sdf.distance_grid import (
    DistanceGrid,
    albedo_variation,
    anchor_loss,
    eikonal_loss,
    hessian_loss,
)

from .test_surface import CPU, config, surface

HELD = (40 / 96) ** 2
"""The surfaces here have 40 vertices along the cube, and weights hold at 96."""
WEIGHTS = ("eikonal", "hessian", "final_hessian", "anchor", "albedo_variation")


def loss_at(number: int, monkeypatch: pytest.MonkeyPatch, **weights: float) -> tuple[float, DistanceGrid]:
    """The loss of a step along no gradient from the prior, on an uneven surface, and the surface."""
    settings = {f"geometry.{name}": weights.get(name, 1e-9) for name in WEIGHTS}
    subject, generator = surface(0.5, **settings), torch.Generator().manual_seed(0)
    with torch.no_grad():
        subject.grid.distances.mul_(1.5).add_(
            0.02 * torch.randn(subject.grid.distances.shape, generator=generator)
        )
        subject.grid.albedo.add_(0.1 * torch.randn(subject.grid.albedo.shape, generator=generator))
    losses: list[torch.Tensor] = []
    monkeypatch.setattr(subject.descent, "step", lambda loss, step, share: losses.append(loss))
    shown = subject.render(sample_cameras(subject.config.cameras, 1, generator, CPU), 0, generator)
    subject.descend(shown, shown.rgb, torch.zeros_like(shown.rgb), number, generator)
    return losses[0].item(), subject.grid


@pytest.mark.parametrize(
    ("name", "number", "of"),
    [("eikonal", 0, eikonal_loss), ("hessian", 0, hessian_loss), ("anchor", 0, anchor_loss),
     ("albedo_variation", 0, albedo_variation)],
)  # fmt: skip
def test_each_term_of_the_loss_has_its_own_weight(name: str, number: int, of, monkeypatch) -> None:
    loss, grid = loss_at(number, monkeypatch, **{name: 20.0})
    wanted = HELD * of(grid, grid.near_surface()).item()
    assert wanted > 1e-3 and loss == pytest.approx(20 * wanted, rel=1e-3)


@pytest.mark.parametrize(("number", "weight"), [(0, 2.0), (20, 10.0), (39, 2 * 25 ** (39 / 40))])
def test_the_weight_of_the_curvature_goes_from_hessian_to_final_hessian(
    number: int, weight: float, monkeypatch
) -> None:
    """Geometrically: halfway from 2 to 50 lies 10."""
    loss, grid = loss_at(number, monkeypatch, hessian=2.0, final_hessian=50.0)
    assert loss == pytest.approx(HELD * weight * hessian_loss(grid, grid.near_surface()).item(), rel=1e-3)


def test_a_vertex_of_a_finer_grid_is_held_as_firmly() -> None:
    """The pull of the curvature on each of the vertices of a ball with bumps of 0.3 cells, per cell that they move."""
    pulls = []
    for resolution in (24, 48):
        size = (resolution,) * 3
        ball = (grid_points(resolution).norm(dim=1) - 0.5).view(size)
        subject = Surface(config(), DistanceGrid(ball, torch.zeros(3, *size)), CPU)
        grid, generator = subject.grid, torch.Generator().manual_seed(0)
        with torch.no_grad():
            grid.distances.add_(0.3 * grid.cell * torch.randn(grid.distances.shape, generator=generator))
        near = grid.near_surface()
        (pull,) = torch.autograd.grad(subject.held * hessian_loss(grid, near), grid.distances)
        pulls.append((pull.flatten()[near] * grid.cell).abs().mean().item())
    assert pulls[1] == pytest.approx(pulls[0], rel=0.15)


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        # (n + 1) / 2 of the front, which faces -Y; and half of the light on it: 0.74 + 0.08.
        ("normals", (0.5, 0.0, 0.5)),
        ("shaded", (0.41, 0.41, 0.41)),
    ],
)
def test_the_prior_is_shown_normals_or_lit_colours(picture: str, wanted: tuple[float, ...]) -> None:
    subject = surface(0.5, **{"geometry.picture": picture})
    front = orbit_cameras(torch.zeros(1), torch.zeros(1), 4.0, 30.0)
    shown = subject.render(front, 0, torch.Generator().manual_seed(0)).rgb[0, :, 15:17, 15:17].mean((1, 2))
    assert shown.tolist() == pytest.approx(wanted, abs=0.02)
    assert subject.picture(front, 33)[0, :, 16, 16].tolist() == pytest.approx(wanted, abs=0.02)


def test_distances_and_albedo_learn_at_their_own_rates() -> None:
    """Adam's first step has the length of the rate: in cells for the distances, in colours for the albedo."""
    subject = surface(0.5, **{"geometry.learning_rate": 0.3, "geometry.albedo_learning_rate": 0.02})
    before = [subject.grid.distances.detach().clone(), subject.grid.albedo.detach().clone()]
    generator = torch.Generator().manual_seed(0)
    shown = subject.render(sample_cameras(subject.config.cameras, 3, generator, CPU), 0, generator)
    subject.descend(shown, shown.rgb, shown.rgb.detach(), 0, generator)
    moved = [
        (now - old).abs().max().item()
        for now, old in zip((subject.grid.distances, subject.grid.albedo), before, strict=True)
    ]
    assert moved == pytest.approx([0.3 * subject.grid.cell, 0.02], rel=1e-2)
