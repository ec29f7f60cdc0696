"""Perp-Neg: the projection, both weight schedules by hand, and what it asks the denoiser."""

from __future__ import annotations

import math

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.distillation.guidance_config import GuidanceConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised
from recdreamer.distillation.perp_neg import PerpNegPrompts, PerpNegSchedule, perp_neg_prompts, perpendicular
from recdreamer.prior.prompts import Prompts
from recdreamer.shared.protocol import Method

from .mixture import (
    DOUBLE,
    OTHER,
    TIMES,
    Mixture,
    MixtureDenoiser,
    grad_of,
    noised,
    points,
    words,
    worst,
)

VIEW_MIXTURES = tuple(
    Mixture.of((0.6, (1.5 * math.cos(a), 1.5 * math.sin(a)), 0.5, 0), (0.4, (-0.4 * a, 0.3), 0.8, 0))
    for a in (0.3, 1.4, 2.9, 4.2, 5.5)
)
"""Of front, right, back, left and overhead."""
# By hand from reference/methods.md, 1.6: weights of (front, side). The constants -.606 and -2.426 there are rounded
# from e^-½ and 4 e^-½, at which each curve ends at zero.
WEIGHTS = {
    "threestudio": {
        0: (0.0, -1.573877), 45: (-0.689080, -0.689080), 90: (-1.573531, 0.0), 135: (-1.745801, -0.172270),
        180: (-1.967000, -0.393469),
    },
    "original": {
        0: (0.0, -2.0), 45: (-0.735759, -0.013476), 90: (-2.0, 0.0), 135: (-2.0, -0.006738), 180: (-2.0, -1.0),
    },
}  # fmt: skip


def view_words() -> Prompts:
    return words(6, plain=0, empty=5, views=(0, 1, 2, 3, 4))


def looked_from(azimuth_deg: float, elevation_deg: float = 10.0) -> Noised:
    azimuths = torch.full((6,), float(azimuth_deg), dtype=DOUBLE)
    cameras = orbit_cameras(azimuths, torch.full_like(azimuths, elevation_deg), 4.0, 30.0)
    return noised(points(), TIMES, cameras=cameras)


def view_guide(method: Method, schedule: PerpNegSchedule = "threestudio", strength: float = 2.0) -> Guide:
    config = GuidanceConfig(guidance_scale=7.5, perp_neg_schedule=schedule, perp_neg_strength=strength)
    return Guide(method, MixtureDenoiser(*VIEW_MIXTURES, OTHER), view_words(), config)


def perp_neg_at(azimuth_deg: float, schedule: PerpNegSchedule, elevation_deg: float = 10.0) -> PerpNegPrompts:
    angles = (torch.tensor([float(value)], dtype=DOUBLE) for value in (azimuth_deg, elevation_deg))
    return perp_neg_prompts(view_words(), *angles, schedule, 2.0)


def test_the_perpendicular_part_is_perpendicular() -> None:
    a, b = points(200, seed=1), points(200, seed=2)
    perp = perpendicular(a, b)
    along = (perp * b).sum((1, 2, 3)).abs() / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    assert along.max() < 1e-15
    assert (
        worst(perp + (a * b).sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True) * b, a)
        < 1e-14
    )


@pytest.mark.parametrize("schedule", ["threestudio", "original"])
@pytest.mark.parametrize("azimuth", [0, 45, 90, 135, 180])
def test_perp_neg_weights_by_hand_and_mirrored(schedule: PerpNegSchedule, azimuth: int) -> None:
    right, left = (perp_neg_at(a, schedule) for a in (azimuth, -azimuth))
    # The hand values have six places.
    assert right.weights.flatten().tolist() == pytest.approx(WEIGHTS[schedule][azimuth], abs=6e-7)
    assert torch.equal(right.weights, left.weights)
    assert (right.weights <= 0).all()
    if 0 < azimuth < 180:
        swapped = [0, 3, 2, 1, 4, 5]
        assert torch.equal(right.positive, left.positive[..., swapped])
        assert torch.equal(right.negatives[1], left.negatives[1][..., swapped])
        assert right.negatives[1][0, 0, 1] == 1


@pytest.mark.parametrize(
    ("azimuth", "shares"), [(0, (1, 0, 0)), (45, (0.5, 0.5, 0)), (90, (0, 1, 0)), (135, (0, 0.5, 0.5)), (180, (0, 0, 1))]
)  # fmt: skip
def test_perp_neg_asks_for_what_lies_between_two_views(azimuth: int, shares: tuple[float, ...]) -> None:
    """Shares of front, side and back in the positive prompt; the negatives are front and side."""
    asked = perp_neg_at(azimuth, "threestudio")
    front, right, back, left = asked.positive[0, 0, :4].tolist()
    assert (front, right + left, back) == pytest.approx(shares, abs=1e-15)
    assert asked.negatives[0][0, 0, 0] == 1 and asked.negatives[1][0, 0, [1, 3]].sum() == 1


@pytest.mark.parametrize("schedule", ["threestudio", "original"])
@pytest.mark.parametrize("azimuth", [0, 100, 180, 250])
def test_overhead_views_have_no_negatives(schedule: PerpNegSchedule, azimuth: float) -> None:
    asked = perp_neg_at(azimuth, schedule, elevation_deg=61.0)
    assert (asked.weights == 0).all() and asked.positive[0, 0].tolist() == [0, 0, 0, 0, 1, 0]
    x = looked_from(azimuth, 61.0)
    assert torch.equal(grad_of(view_guide("perp_neg", schedule), x), grad_of(view_guide("sds"), x))


@pytest.mark.parametrize("azimuth", [0, 90, 180, -90])
def test_negatives_without_weight_are_guided_sds(azimuth: float) -> None:
    x = looked_from(azimuth)
    grad = grad_of(view_guide("perp_neg", "original", strength=0.0), x)
    assert torch.equal(grad, grad_of(view_guide("sds"), x))


@pytest.mark.parametrize("azimuth", [20, 70, 110, 160, -120])
def test_negatives_change_the_estimate_only_across_the_wanted_direction(azimuth: float) -> None:
    x = looked_from(azimuth)
    with_, without = (grad_of(view_guide("perp_neg", "original", strength), x) for strength in (2.0, 0.0))
    change = (with_ - without).flatten(1)
    positive = perp_neg_at(azimuth, "original").positive[0, 0]
    answers = [mixture.eps(x.latents_t, x.t) for mixture in (*VIEW_MIXTURES, OTHER)]
    wanted = (sum(s * eps for s, eps in zip(positive, answers, strict=True)) - answers[5]).flatten(1)
    along = (change * wanted).sum(1).abs() / (without.flatten(1).norm(dim=1) * wanted.norm(dim=1))
    assert along.max() < 1e-13
    assert change.norm(dim=1).max() > 1e-2
