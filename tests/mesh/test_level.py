"""The automatic threshold: where it must land, and what it says about fields without an object."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recdreamer.mesh import find_surface
from recdreamer.mesh.level import choose_threshold, surface_agreement
from recdreamer.presets import EMBEDDED_MESH
from recdreamer.report import JobError

from .fields import ball

CONFIG = EMBEDDED_MESH


def uniform(value: float):
    return lambda xyz: torch.full_like(xyz[:, 0], value)


def test_a_firm_object_agrees_with_its_renders_and_says_nothing() -> None:
    warnings: list[str] = []
    level = find_surface(lambda xyz: 100.0 * (xyz.norm(dim=-1) < 0.6), CONFIG, warn=warnings.append)
    assert level.agreement > 0.99
    assert 0.1 < level.threshold < 99
    assert level.max_opacity > 0.99
    assert level.percentiles["100"] == 100
    assert level.percentiles["50"] == 0
    assert warnings == []
    # The box holds the ball with two coarse cells to spare, no more.
    assert np.allclose(np.abs([level.lo, level.hi]), 0.6 + 2.5 / 32, atol=1.5 / 32)


def test_a_soft_ball_gets_the_surface_that_a_camera_sees() -> None:
    """Gaussian ball: the frontal ray is half opaque where its optical depth reaches ln 2."""
    width, peak = 0.2, 100.0

    def density(xyz: torch.Tensor) -> torch.Tensor:
        return peak * torch.exp(-xyz.square().sum(-1) / (2 * width**2))

    depths = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    frontal = torch.stack([depths * 0, depths * 0, depths], 1)
    reached = torch.cumsum(density(frontal) * (2 / 4000), 0) >= math.log(2)
    seen_radius = float(-depths[reached.int().argmax()])
    silhouette = width * math.sqrt(2 * math.log(peak * width * math.sqrt(2 * math.pi) / math.log(2)))

    threshold = find_surface(density, CONFIG).threshold
    radius = width * math.sqrt(2 * math.log(peak / threshold))
    assert seen_radius - 0.03 < radius < silhouette + 0.03


def test_haze_around_an_object_does_not_become_the_object() -> None:
    level = find_surface(lambda xyz: ball(0.5)(xyz) + 0.5, CONFIG, warn=lambda message: None)
    assert level.threshold > 0.6
    assert max(level.hi) < 0.7


def test_agreement_falls_when_the_threshold_is_wrong() -> None:
    axis = (np.arange(32) + 0.5) / 16 - 1
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    sigmas = 100 / (1 + np.exp((distance - 0.6) / 0.05))
    best, score = choose_threshold(sigmas, 1 / 16)
    too_low, near, too_high = surface_agreement(sigmas, 1 / 16, [0.05, best, 99.0])
    assert near == pytest.approx(score, abs=0.01)
    assert too_low < 0.8 * score
    assert too_high < 0.8 * score


@pytest.mark.parametrize("value", [0.0, 0.01])
def test_an_empty_field_is_an_error_with_percentiles_and_a_hint(value: float) -> None:
    with pytest.raises(JobError, match=r"empty: no ray .* percentiles 50 %") as caught:
        find_surface(uniform(value), CONFIG)
    assert caught.value.kind == "empty_field"
    assert "seed" in caught.value.hint


@pytest.mark.parametrize("value", [0.3, 100.0])
def test_a_full_scene_is_an_error(value: float) -> None:
    with pytest.raises(JobError, match="fills 100% of the scene"):
        find_surface(uniform(value), CONFIG)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_field_is_an_error(value: float) -> None:
    with pytest.raises(JobError, match="NaN or infinite"):
        find_surface(lambda xyz: torch.where(xyz[:, 0] > 0.5, value, 1.0), CONFIG)


def test_a_threshold_above_the_field_is_an_error() -> None:
    with pytest.raises(JobError, match="threshold 500 is above the whole field"):
        find_surface(ball(0.6), replace(CONFIG, threshold=500.0))


def test_a_given_threshold_is_kept() -> None:
    assert find_surface(ball(0.6), replace(CONFIG, threshold=12.5)).threshold == 12.5


@pytest.mark.parametrize(
    ("density", "sentence"),
    [
        (lambda xyz: 0.3 * (xyz.norm(dim=-1) < 0.6), "foggy: its densest ray is only 30% opaque"),
        (lambda xyz: 1.0 * (xyz.norm(dim=-1) < 0.6), "matches the renders poorly"),
        (ball(0.06), "is tiny"),
        (ball(0.5, (0.0, 0.9, 0.0)), "cut off there"),
    ],
)
def test_a_poor_object_goes_through_with_a_warning(density, sentence: str) -> None:
    warnings: list[str] = []
    level = find_surface(density, CONFIG, warn=warnings.append)
    assert level.threshold > 0
    assert len(warnings) == 1
    assert sentence in warnings[0]
