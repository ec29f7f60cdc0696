"""R on objects whose features are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recdreamer.evaluation.figurines import KINDS, POSES, pose_class
from recdreamer.evaluation.janus_score import count_around, count_features, count_pieces
from recdreamer.evaluation.mesh_distance import figure_or_none, true_surface

AZIMUTHS = 7.5 + torch.arange(24) * 15.0


def one_hot(classes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, 4).float()


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_figure_has_every_feature_once(kind: str) -> None:
    figure = figure_or_none(f"a red {kind}")
    assert figure is not None
    found = count_features(one_hot(pose_class(AZIMUTHS)), kind, true_surface(figure, 50_000).points)
    assert [count.found for count in found.counts] == [count.expected for count in found.counts]
    assert found.score == 0 and found.is_free


def test_a_second_face_costs_one_and_a_second_pack_half() -> None:
    classes = pose_class(AZIMUTHS)
    classes[10:14] = POSES.index("front")  # In the middle of the back, which becomes two.
    found = count_features(one_hot(classes), "bear")
    assert {count.name: count.found for count in found.counts} == {"faces": 2, "packs": 2}
    assert found.score == 1.5 and not found.is_free


def test_backs_all_around_are_worse_than_the_truth() -> None:
    found = count_features(one_hot(torch.full((24,), POSES.index("back"))))
    assert {count.name: count.found for count in found.counts} == {"faces": 0, "backs": 4}
    assert found.score == 2.5 and found.signed == 0.5


@pytest.mark.parametrize("kind", ["bear", "rabbit"])
def test_four_ears_are_counted(kind: str) -> None:
    figure = figure_or_none(f"a red {kind}")
    assert figure is not None
    points = true_surface(figure, 50_000).points
    found = count_features(
        one_hot(pose_class(AZIMUTHS)), kind, np.concatenate((points, points + np.array([0, 0.3, 0])))
    )
    assert found.counts[-1].found == 4 and found.score == 1.0


def test_a_wide_face_is_one_until_it_is_one_and_a_half() -> None:
    def seen(length: int) -> torch.Tensor:
        return torch.arange(24) < length

    assert [count_around(seen(length), 6.0) for length in (1, 6, 9, 10, 15, 16)] == [1, 1, 1, 2, 2, 3]
    assert count_around(seen(6).roll(20), 6.0) == 1  # Across the seam of the circle.


def test_specks_are_not_taken_for_ears() -> None:
    assert count_pieces(np.array([[0.0, 0.0, 0.5]]), 0.5) == 0
