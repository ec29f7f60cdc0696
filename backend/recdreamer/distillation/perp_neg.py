"""Perp-Neg (Armandpour et al. 2023): negative prompts for other views act only across the wanted direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import angle_difference
from recdreamer.prior.prompts import VIEWS, Prompts

PerpNegSchedule = Literal["threestudio", "original"]


def perpendicular(
    a: Float[Tensor, "batch c h w"], b: Float[Tensor, "batch c h w"]
) -> Float[Tensor, "batch c h w"]:
    """The component of `a` perpendicular to `b`, sample by sample.

    >>> a, b = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    >>> perpendicular(a, b).flatten().tolist()
    [0.0, 4.0]
    """
    share = (a * b).sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return a - share * b


def perp_neg_eps(
    eps_uncond: Float[Tensor, "batch c h w"],
    eps_positive: Float[Tensor, "batch c h w"],
    eps_negatives: list[Float[Tensor, "batch c h w"]],
    negative_weights: Float[Tensor, "negatives batch"],
    scale: float,
) -> Float[Tensor, "batch c h w"]:
    """eps_u + s · (e₊ + Σᵢ wᵢ · perp(eᵢ, e₊)) with e = eps - eps_u and wᵢ ≤ 0 (Armandpour et al. 2023).

    With eps_u = 0, e₊ = (1, 0) and one negative (1, 1) of weight -1: 2 · ((1, 0) - (0, 1)).

    >>> uncond, positive, negative = (torch.tensor(e).view(1, 1, 1, 2) for e in ([0.0, 0], [1.0, 0], [1.0, 1]))
    >>> perp_neg_eps(uncond, positive, [negative], torch.tensor([[-1.0]]), 2.0).flatten().tolist()
    [2.0, -2.0]
    """
    positive = eps_positive - eps_uncond
    direction = positive
    for eps, weight in zip(eps_negatives, negative_weights, strict=True):
        direction = direction + weight[:, None, None, None] * perpendicular(eps - eps_uncond, positive)
    return eps_uncond + scale * direction


@dataclass(frozen=True)
class PerpNegPrompts:
    """The prompt of each view, and its two negative prompts with their weights."""

    positive: Float[Tensor, "batch tokens width"]
    negatives: tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch tokens width"]]
    weights: Float[Tensor, "2 batch"]


def perp_neg_prompts(
    prompts: Prompts,
    azimuth_deg: Float[Tensor, "batch"],
    elevation_deg: Float[Tensor, "batch"],
    schedule: PerpNegSchedule,
    strength: float = 2.0,
) -> PerpNegPrompts:
    """Embeddings between two neighbouring views, and the weights of the negative ones.

    `threestudio` (the paper's baseline): exponential weights that vanish where their own view begins. `original`
    (the method's authors, stable-dreamfusion): `strength` 2, up to 4 for stubborn prompts; stronger weights flatten
    faces. The two differ materially. Overhead views have no negatives.

    Halfway between front (0) and right (1), both weights are -4 (exp(-1/4) - exp(-1/2)):

    >>> from recdreamer.prior.prompts import ViewConfig
    >>> word = torch.zeros(1, 1, 1)
    >>> prompts = Prompts(word, word, torch.arange(5.0).view(5, 1, 1), word.expand(5, 1, 1), ViewConfig())
    >>> asked = perp_neg_prompts(prompts, torch.tensor([45.0]), torch.tensor([0.0]), "threestudio")
    >>> asked.positive.item(), [round(weight, 3) for weight in asked.weights.flatten().tolist()]
    (0.5, [-0.689, -0.689])
    """
    from_front = angle_difference(azimuth_deg, 0.0)
    angle = from_front.abs() / 90
    is_front = angle < 1
    r = torch.where(is_front, 1 - angle, 2 - angle)
    front, right, back, left = (
        prompts.views[VIEWS.index(name)] for name in ("front", "right", "back", "left")
    )
    side = torch.where((from_front > 0)[:, None, None], right, left)
    share = r[:, None, None]
    positive = torch.where(
        is_front[:, None, None], share * front + (1 - share) * side, share * side + (1 - share) * back
    )
    weights = (
        _threestudio_weights(r, is_front)
        if schedule == "threestudio"
        else _original_weights(r, is_front, strength)
    )
    is_overhead = elevation_deg > prompts.view_config.overhead_elevation_deg
    overhead = prompts.views[VIEWS.index("overhead")]
    positive = torch.where(is_overhead[:, None, None], overhead, positive)
    return PerpNegPrompts(positive, (front.expand_as(positive), side), weights.masked_fill(is_overhead, 0.0))


def _decay(scale: float, rate: float, offset: float) -> Callable[[Tensor], Tensor]:
    return lambda x: scale * torch.exp(-rate * x) + offset


def _threestudio_weights(r: Float[Tensor, "batch"], is_front: Tensor) -> Float[Tensor, "2 batch"]:
    """Weights of (front, side); the constants make all curves but `front_behind` vanish at 1."""
    front_behind, side_behind = _decay(1.0, 0.5, 0.967), _decay(1.0, 0.5, -math.exp(-0.5))
    frontal = _decay(4.0, 0.5, -4.0 * math.exp(-0.5))
    return torch.stack([
        torch.where(is_front, -frontal(r), -front_behind(r)),
        torch.where(is_front, -frontal(1 - r), -side_behind(r)),
    ])  # fmt: skip


def _original_weights(
    r: Float[Tensor, "batch"], is_front: Tensor, strength: float
) -> Float[Tensor, "2 batch"]:
    """Weights of (front, side)."""
    front = torch.where(is_front, torch.exp(-2 * r).masked_fill(r > 0.8, 0), torch.ones_like(r))
    side_before = torch.exp(-10 * (1 - r)).masked_fill(r < 0.2, 0)
    side_behind = (0.5 * torch.exp(-10 * r)).masked_fill(r > 0.8, 0)
    return -strength * torch.stack([front, torch.where(is_front, side_before, side_behind)])
