"""The field's metrics on rings whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.consistency import category_entropy
from recdreamer.evaluation.figurines import Figurines, render_figurines
from recdreamer.evaluation.view_metrics import (
    ClipJudge,
    best_turn,
    best_view,
    clip_score,
    distance_up_to_yaw,
    neighbor_cosine,
    opposite_cosine,
    patch_distance,
)
from recdreamer.pose.features import FeatureExtractor, Features

AZIMUTHS = 7.5 + torch.arange(24) * 15.0


def turntable(first_deg: float = 7.5) -> torch.Tensor:
    figures = Figurines.of(torch.zeros(24, dtype=torch.long), torch.zeros(24, dtype=torch.long))
    cameras = orbit_cameras(first_deg + torch.arange(24) * 15.0, torch.full((24,), 10.0), 4.0, 30.0)
    return render_figurines(figures, cameras, 64, torch.full((24, 3), 0.8))


def ring(features: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(features), dim=-1)


def test_entropy_as_in_table_1() -> None:
    """Table 1's values lie just below those of even shares of three and of four classes."""
    assert category_entropy(torch.full((3,), 1 / 3), "nats") == pytest.approx(math.log(3))
    half = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert category_entropy(half) == pytest.approx(0.5)
    assert category_entropy(half, "printed") == pytest.approx(-math.log(2) / 4)


def test_front_and_back_are_found_by_their_azimuths() -> None:
    azimuth_deg = torch.tensor([90.0, 170.0, 270.0, 359.0])
    features = ring([[0, 1.0], [1.0, 1.0], [0, 1.0], [1.0, 0]])
    assert opposite_cosine(features, azimuth_deg) == pytest.approx(math.cos(math.pi / 4))


def test_neighbours_of_a_smooth_ring() -> None:
    angles = torch.arange(12) * math.tau / 12
    features = torch.stack((angles.cos(), angles.sin()), -1)
    assert neighbor_cosine(features) == pytest.approx(math.cos(math.tau / 12))


def test_the_best_view_is_smoothed_and_the_score_is_one_minus_the_mean() -> None:
    fit = torch.tensor([0.0, 0.9, 0.0, 0.3, 0.3, 0.3])
    assert best_view(fit) == pytest.approx(0.4)
    assert clip_score(fit) == pytest.approx(0.7)


def test_patches_at_right_angles_are_at_distance_one() -> None:
    one, other = (
        Features(torch.zeros(1, 2), patches[None]) for patches in (ring([[1, 0.0]] * 4), ring([[0, 1.0]] * 4))
    )
    assert patch_distance(one, other).item() == 1 and patch_distance(one, one).item() == 0


def test_a_turned_ring_is_found() -> None:
    ring_of = torch.arange(8.0)
    for turn in (-3, 0, 2, 4):
        assert best_turn((ring_of.roll(turn)[:, None] - ring_of[None]).abs()) == turn


def test_a_turned_figure_is_as_near_as_the_truth_and_a_two_faced_one_is_not() -> None:
    extractor, true = FeatureExtractor("builtin"), turntable()
    turned = distance_up_to_yaw(extractor, turntable(7.5 - 60), true)
    assert turned["yaw_deg"] == -60 and turned["psnr_db"] > 60 and turned["patch_distance"] < 1e-4
    two_faced = torch.cat((true[18:], true[:6], true[18:], true[:6]))
    assert distance_up_to_yaw(extractor, two_faced, true)["patch_distance"] > 0.02


def test_clip_reads_the_prompt_and_the_directions() -> None:
    pictures = turntable()
    red, blue = (ClipJudge(f"a {color} bear") for color in ("red", "blue"))
    assert red.name == "embedded CLIP"
    assert clip_score(red.fit(pictures)) < clip_score(blue.fit(pictures))
    probs = red.pose_probs(pictures)
    assert probs.shape == (24, 3) and torch.allclose(probs.sum(-1), torch.ones(24))
    assert red.features(pictures).norm(dim=-1).sub(1).abs().max() < 1e-5
