"""Measures of consistency from all sides: pose entropy, azimuth agreement, number of fronts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.evaluation.figurines import POSES, pose_class


@dataclass(frozen=True)
class Consistency:
    pose_entropy: float
    """Entropy of the mean pose probabilities over the views, divided by ln 4 (paper, Eq. 33 with its sign and
    factor corrected): 1 for a figure that shows each side equally, near 0 for one that shows one side only."""
    azimuth_agreement: float
    """Share of views with the true pose under the best global rotation. The same pose all around gives about 0.27."""
    agreement_unrotated: float
    """The same with the front at azimuth 0."""
    fronts: int
    """Number of separate runs of front views around the circle; -1 if every view is a front."""
    shares: dict[str, float]
    """Mean probability of each pose."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def pose_entropy(shares: Float[Tensor, "poses"]) -> float:
    """Entropy of a distribution over the poses, relative to the uniform one."""
    return -(shares * shares.clamp_min(1e-12).log()).sum().item() / math.log(len(shares))


def measure_consistency(
    probs: Float[Tensor, "views poses"], azimuth_deg: Float[Tensor, "views"], num_rotations: int = 72
) -> Consistency:
    """Measures from the oracle's pose probabilities of evenly spaced views, in order of azimuth."""
    shares = probs.mean(0)
    guess = probs.argmax(-1)
    rotations = torch.arange(num_rotations, device=azimuth_deg.device) * (360 / num_rotations)
    truths = torch.stack([pose_class(azimuth_deg + rotation) for rotation in rotations])
    agreement = (guess == truths).float().mean(1)
    is_front = guess == POSES.index("front")
    begins = int((is_front & ~is_front.roll(1)).sum())
    return Consistency(
        pose_entropy(shares),
        agreement.max().item(),
        agreement[0].item(),
        -1 if bool(is_front.all()) else begins,
        dict(zip(POSES, shares.tolist(), strict=True)),
    )
