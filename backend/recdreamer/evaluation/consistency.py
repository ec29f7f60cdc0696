"""Measures of consistency from all sides: pose entropy, azimuth agreement, number of fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.evaluation.figurines import POSES, pose_class


@dataclass(frozen=True)
class RingAgreement:
    """How well the answers of any classifier fit one object that is turned."""

    agreement: float
    """Share of views with the class of the nearest centre, at the best yaw."""
    yaw_deg: float
    """The turn that puts the front at azimuth 0, counter-clockwise from above, in (-180, 180]."""
    fronts: int
    """Number of separate runs of front views around the circle; -1 if every view is a front."""


def ring_agreement(
    probs: Float[Tensor, "views classes"],
    centres_deg: Sequence[Sequence[float]],
    azimuth_deg: Float[Tensor, "views"],
    num_rotations: int = 72,
) -> RingAgreement:
    """Of evenly spaced views in order of azimuth. Each class has its centres: a side without left and right has two.

    Three views of a figure that faces azimuth 120, in front, beside and behind, agree when it is turned by -120:

    >>> found = ring_agreement(torch.eye(3)[[1, 0, 1, 2]], [[0.0], [90.0, 270.0], [180.0]], torch.arange(4) * 90.0 + 30.0)
    >>> found.agreement, found.yaw_deg, found.fronts
    (1.0, -120.0, 1)
    """
    classes = torch.tensor([k for k, centres in enumerate(centres_deg) for _ in centres])
    centres = torch.tensor([centre for own in centres_deg for centre in own])
    guess = probs.argmax(-1).cpu()
    turns = torch.arange(num_rotations) * (360 / num_rotations)
    seen_at = azimuth_deg.cpu()[None] + turns[:, None]
    apart = ((seen_at[..., None] - centres + 180) % 360 - 180).abs()
    agreement = (classes[apart.argmin(-1)] == guess).float().mean(1)
    # Of several best turns the one in their middle, so that borders between classes count on both sides.
    best = (agreement == agreement.max()).nonzero()[:, 0]
    angles = torch.deg2rad(turns[best])
    yaw_deg = math.degrees(math.atan2(angles.sin().sum(), angles.cos().sum()))
    is_front = guess == min(range(len(centres_deg)), key=lambda k: min(abs(c) for c in centres_deg[k]))
    begins = int((is_front & ~is_front.roll(1)).sum())
    return RingAgreement(
        agreement.max().item(), 180 - (180 - round(yaw_deg, 3)) % 360, -1 if bool(is_front.all()) else begins
    )


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


EntropyForm = Literal["normalized", "nats", "printed"]


def category_entropy(shares: Float[Tensor, "classes"], form: EntropyForm = "normalized") -> float:
    """Entropy of the mean class probabilities over the views (paper, C.1.2): cEnt with CLIP's classes, pEnt with poses.

    `printed` is Eq. 33 as it stands, Σ p log p / n, which has the wrong sign: lower is better. `nats` is -Σ p log p, as
    Table 1 must have been made, whose values lie just below ln 3 and ln 4. `normalized` is that over ln n, in [0, 1].

    >>> [round(category_entropy(torch.full((4,), 0.25), form), 4) for form in ("normalized", "nats", "printed")]
    [1.0, 1.3863, -0.3466]
    """
    nats = -(shares * shares.clamp_min(1e-12).log()).sum().item()
    return {"normalized": nats / math.log(len(shares)), "nats": nats, "printed": -nats / len(shares)}[form]


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
        category_entropy(shares),
        agreement.max().item(),
        agreement[0].item(),
        -1 if bool(is_front.all()) else begins,
        dict(zip(POSES, shares.tolist(), strict=True)),
    )
