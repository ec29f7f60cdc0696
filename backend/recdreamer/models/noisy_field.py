"""Noise on the density, by which only what is certainly solid is seen."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recdreamer.field import Field

LEAST = 1e-6
"""Densities below it count as this one, which is nothing: softplus has no inverse at 0."""
STRIDES = ((127.1, 311.7, 74.7), (269.5, 183.3, 246.1))
"""Of `noise_at`: large against a scene unit and not parallel, so that neighbors have independent numbers."""


class NoisyField:
    """A `Field` with normal noise on its density in front of the softplus (ProlificDreamer's released code)."""

    def __init__(self, field: Field, deviation: float) -> None:
        self.field, self.deviation = field, deviation

    def __call__(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        sigmas, rgbs = self.field(xyz)
        # Added where the softplus has been taken back, so that any field can have it.
        sigmas = sigmas.clamp_min(LEAST)
        raw = sigmas + torch.log(-torch.expm1(-sigmas))
        return F.softplus(raw + self.deviation * noise_at(xyz)), rgbs

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        return self(xyz)[0]


@torch.no_grad()
def noise_at(xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """A standard normal number that looks random for each place and is always the same there.

    Samples are jittered, so no step sees the same places. Without a generator, the noise of a sample does not depend on
    how many others are rendered beside it, nor by which process; and a CUDA graph can record it.

    >>> noise = noise_at(2 * torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0)) - 1)
    >>> abs(noise.mean().item()) < 0.02, abs(noise.std().item() - 1) < 0.02
    (True, True)
    """
    x, y, z = 1000 * xyz.detach().double().T
    # Number by number: a copy from the host would wait for the device.
    first, second = ((torch.sin(a * x + b * y + c * z) * 43758.5453).frac().abs() for a, b, c in STRIDES)
    # Box and Muller's transformation of two uniform numbers.
    return ((-2 * first.clamp_min(1e-12).log()).sqrt() * torch.cos(2 * math.pi * second)).to(xyz.dtype)
