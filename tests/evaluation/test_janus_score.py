"""R on objects whose features are known."""

from __future__ import annotations

import pytest
import torch

from recdreamer.evaluation.figurines import KINDS, POSES, pose_class
from recdreamer.evaluation.janus_score import count_around, count_features

AZIMUTHS = 7.5 + torch.arange(24) * 15.0


def one_hot(classes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, 4).float()


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_figure_has_every_feature_once(kind: str) -> None:
    found = count_features(one_hot(pose_class(AZIMUTHS)), kind, (2, 2))
    assert [count.found for count in found.counts] == [count.expected for count in found.counts] == [1, 1, 2]
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


@pytest.mark.parametrize(("found", "score"), [(0, 1.0), (1, 0.5), (2, 0.0), (3, 0.5), (4, 1.0)])
def test_each_ear_too_many_or_missing_costs_half(found: int, score: float) -> None:
    counted = count_features(one_hot(pose_class(AZIMUTHS)), "bear", (found, 2))
    assert counted.counts[-1].name == "ears" and counted.score == score and counted.signed == (found - 2) / 2


def test_a_wide_face_is_one_until_it_is_one_and_a_half() -> None:
    def seen(length: int) -> torch.Tensor:
        return torch.arange(24) < length

    assert [count_around(seen(length), 6.0) for length in (1, 6, 9, 10, 15, 16)] == [1, 1, 1, 2, 2, 3]
    assert count_around(seen(6).roll(20), 6.0) == 1  # Across the seam of the circle.
