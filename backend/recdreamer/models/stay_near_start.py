"""The loss that keeps a field near its start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.field import Field
from recdreamer.parallel.view_shares import share_of
from recdreamer.rendering import Rendering
from recdreamer.rendering.picked import picked

THICKNESS = 0.04
"""Thickness of the layer whose opacity stands for a density, in scene units."""
NUM_POINTS = 4096


class GentleField:
    """A `Field` with the same values, whose density passes only a share of its gradient on."""

    def __init__(self, field: Field, share: Float[Tensor, ""]) -> None:
        self.field, self.share = field, share

    def __call__(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        sigmas, rgbs = self.field(xyz)
        return sigmas.detach() + self.share * (sigmas - sigmas.detach()), rgbs

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        return self(xyz)[0]


def hold_loss(
    field: Field, start: Field, rendering: Rendering, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean of (α(x) − α₀(x))² with the occupancy α = 1 − exp(−σ · THICKNESS), and α₀ that of the frozen start.

    With the strength s of a job and the weight W, its loss is

        L(s · ∂σ) + (1 − s) · W · hold_loss

    where s · ∂σ means that every other loss moves the density with the share s of its gradient: at s = 0 the shape
    stays and only the colour learns, at s = 1 nothing is held. The paper leaves open how its method builds on a
    3D generator's shape (Fig. 16 and the outlook beside it: "fine-tuning it from a geometrically consistent base
    model"); this formula is this project's.

    Half of the points are samples of the render, where the field has just changed; half are uniform in the cube.
    """
    share = share_of(generator)
    anywhere = 2 * torch.rand(NUM_POINTS, 3, generator=generator, device=generator.device) - 1
    draws = torch.rand(NUM_POINTS, generator=generator, device=generator.device).to(rendering.rgb)
    rays = rendering.ray_indices if rendering.count is None else None
    found = picked(draws, rendering.xyz.detach(), share, rays=rays, count=rendering.count)
    points = torch.cat([anywhere.to(rendering.rgb), found.xyz])
    with torch.no_grad():
        wanted = -torch.expm1(-THICKNESS * start.density(points))
    moved = (-torch.expm1(-THICKNESS * field.density(points)) - wanted).square()
    uniform, of_samples = moved[:NUM_POINTS].mean(), found.mean(moved[NUM_POINTS:], share)
    return torch.where(found.is_any, 0.5 * (uniform + of_samples), uniform)
