"""The loss that keeps a field near its start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.field import Field
from recdreamer.rendering import Rendering

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
    anywhere = 2 * torch.rand(NUM_POINTS, 3, generator=generator, device=generator.device) - 1
    points = anywhere.to(rendering.rgb)
    if rendering.count is not None:
        shares = torch.rand(NUM_POINTS, generator=generator, device=generator.device).to(points)
        chosen = (shares * rendering.count).long().clamp(max=len(rendering.xyz) - 1)
        points = torch.cat([points, rendering.xyz.detach()[chosen]])
    elif len(rendering.xyz):
        chosen = torch.randint(
            len(rendering.xyz), (NUM_POINTS,), generator=generator, device=generator.device
        )
        points = torch.cat([points, rendering.xyz.detach()[chosen.to(points.device)]])
    with torch.no_grad():
        wanted = -torch.expm1(-THICKNESS * start.density(points))
    return (-torch.expm1(-THICKNESS * field.density(points)) - wanted).square().mean()
