"""The oracle of the animals: a small supervised network that recognizes azimuth, kind and coat.

It only measures results: no part of the method may import it, which tests/test_boundaries.py checks.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from recdreamer.evaluation.animals import COATS, KINDS, POSES
from recdreamer.evaluation.oracle import Oracle, load_oracle
from recdreamer.shared.worlds import EMBEDDED, World

ORACLE_FILE = EMBEDDED / "animals" / "oracle" / "model.safetensors"
AZIMUTH_BINS = 36
"""Ten degrees each; the first is centered at azimuth 0, so that no bin lies across the border of two poses."""
SIZE_PX = 128


class AnimalOracle(nn.Module):
    """Logits of azimuth, kind and coat of a 128×128 picture in [0, 1]."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 128), features: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for width in widths:
            layers += [nn.Conv2d(previous, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            previous = width
        side = SIZE_PX // 2 ** len(widths)
        self.trunk = nn.Sequential(
            *layers, nn.Conv2d(previous, 32, 1), nn.Flatten(), nn.Linear(32 * side**2, features), nn.SiLU()
        )
        self.sizes = (AZIMUTH_BINS, len(KINDS), len(COATS))
        self.head = nn.Linear(features, sum(self.sizes))

    def forward(
        self, images: Float[Tensor, "batch 3 128 128"]
    ) -> tuple[Float[Tensor, "batch bins"], Float[Tensor, "batch kinds"], Float[Tensor, "batch coats"]]:
        azimuth, kind, coat = self.head(self.trunk(2 * images - 1)).split(self.sizes, dim=-1)
        return azimuth, kind, coat

    @torch.no_grad()
    def pose_probs(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch poses"]:
        """Probability of each of POSES; pictures of another size are resampled."""
        probs = self(_resampled(images))[0].softmax(-1)
        return pose_probs_of(probs)

    @torch.no_grad()
    def azimuth_deg(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch"]:
        """The mean direction of the likeliest bin and its neighbours, in [0, 360)."""
        return mean_azimuth_deg(self(_resampled(images))[0].softmax(-1))


def pose_probs_of(probs: Float[Tensor, "batch bins"]) -> Float[Tensor, "batch poses"]:
    """Probabilities of bins added up to those of POSES.

    >>> pose_probs_of(torch.eye(AZIMUTH_BINS)[[0, 4, 5, 18, 32]]).argmax(-1).tolist()
    [0, 0, 1, 2, 0]
    """
    half = AZIMUTH_BINS // len(POSES) // 2
    return probs.roll(half, -1).unflatten(-1, (len(POSES), -1)).sum(-1)


def mean_azimuth_deg(probs: Float[Tensor, "batch bins"]) -> Float[Tensor, "batch"]:
    """
    >>> probs = torch.zeros(1, AZIMUTH_BINS)
    >>> probs[0, 35] = probs[0, 0] = 0.5
    >>> round(mean_azimuth_deg(probs).item(), 3)
    355.0
    """
    offsets = torch.arange(-1, 2, device=probs.device)
    near = (probs.argmax(-1, keepdim=True) + offsets) % AZIMUTH_BINS
    angle = 2 * math.pi / AZIMUTH_BINS * near
    weight = probs.gather(-1, near)
    mean = torch.atan2((weight * angle.sin()).sum(-1), (weight * angle.cos()).sum(-1))
    return mean.rad2deg() % 360


def azimuth_bin(azimuth_deg: Float[Tensor, "batch"]) -> Tensor:
    """
    >>> azimuth_bin(torch.tensor([0.0, 4.9, 5.1, 356.0, 44.0])).tolist()
    [0, 0, 1, 0, 4]
    """
    return (azimuth_deg * AZIMUTH_BINS / 360).round().long() % AZIMUTH_BINS


def _resampled(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 128 128"]:
    if images.shape[-2:] == (SIZE_PX, SIZE_PX):
        return images
    return nn.functional.interpolate(
        images, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True, align_corners=False
    )


def load_animal_oracle(device: torch.device | str = "cpu", file: Path = ORACLE_FILE) -> AnimalOracle:
    """The oracle that ships with the animals' prior, in single precision."""
    oracle = AnimalOracle()
    oracle.load_state_dict({name: values.float() for name, values in load_file(file).items()})
    return oracle.to(device).eval().requires_grad_(False)


def oracle_of(world: World, device: torch.device | str = "cpu") -> Oracle | AnimalOracle:
    """The oracle that ships with the prior of a world."""
    return load_animal_oracle(device) if world.name == "animals" else load_oracle(device)
