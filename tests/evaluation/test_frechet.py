"""Fréchet distances of sets with known moments."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from recdreamer.evaluation import frechet
from recdreamer.evaluation.figurines import photograph
from recdreamer.evaluation.frechet import (
    EmbeddedFeatures,
    balanced,
    frechet_distance,
    picture_features,
    pose_balanced_distance,
)
from recdreamer.pose.features import FeatureExtractor


def white(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Points with exactly zero mean and unit covariance."""
    points = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points - points.mean(0)
    return points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T


def test_equal_sets_are_at_distance_zero() -> None:
    few = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))  # Fewer pictures than features.
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


def test_a_shift_costs_its_square() -> None:
    points = white(50, 6)
    assert frechet_distance(points, points + torch.tensor([3.0, 4, 0, 0, 0, 0])) == pytest.approx(25)


def test_gaussians_that_do_not_commute() -> None:
    """tr(A + B - 2 (A^½ B A^½)^½) with a turned ellipse: the root's trace in 2D is √(tr M + 2 √det M)."""
    points = white(60, 2)
    turn = torch.tensor(
        [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64
    )
    one, other = points * torch.tensor([1.0, 3.0]), points * torch.tensor([2.0, 1.0]) @ turn.T
    a, b = one.T.cov(), other.T.cov()
    product = a @ b
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    assert frechet_distance(one, other) == pytest.approx(float(a.trace() + b.trace()) - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


def test_one_picture_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two pictures"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))


def test_every_pose_comes_equally_often_and_no_picture_of_the_most_frequent_is_lost() -> None:
    poses = torch.tensor([0] * 7 + [1] * 3 + [3] * 2)
    picked = balanced(poses, seed=3)
    assert poses[picked].bincount().tolist() == [7, 7, 0, 7]
    assert set(picked.tolist()) == set(range(12))
    assert not torch.equal(picked, balanced(poses, seed=4))


def test_only_the_balanced_distance_rewards_balanced_renders() -> None:
    """Fronts at 0 and backs at 10; the prior draws nine fronts for a back."""
    reference, poses = torch.tensor([[0.0]] * 9 + [[10.0]]), torch.tensor([0] * 9 + [2])
    even, biased = torch.tensor([[0.0], [10.0]] * 5), reference
    assert frechet_distance(biased, reference) < frechet_distance(even, reference)
    assert pose_balanced_distance(even, reference, poses) < pose_balanced_distance(biased, reference, poses)


def test_the_features_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    features = picture_features(torch.device("cpu"))
    assert features.name == "embedded extractor"
    assert frechet.inception_weights() is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / frechet.INCEPTION_FILE).touch()
    monkeypatch.setattr(frechet.importlib.util, "find_spec", lambda name: None)
    assert frechet.inception_weights() is None, "without torch-fidelity the file alone is of no use"


def test_pictures_of_one_side_are_farther_than_those_of_all() -> None:
    features = EmbeddedFeatures(FeatureExtractor("builtin"))

    def of(shares: dict[str, float], seed: int) -> torch.Tensor:
        return features(photograph(96, torch.Generator().manual_seed(seed), shares=shares).images)

    even = dict.fromkeys(("front", "right", "back", "left"), 0.25)
    truth, again = of(even, 0), of(even, 1)
    fronts = of({**dict.fromkeys(even, 0.0), "front": 1.0}, 2)
    assert frechet_distance(fronts, truth) > 2 * frechet_distance(again, truth)
