"""The measures of consistency on answers that are known."""

from __future__ import annotations

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.consistency import measure_consistency
from recdreamer.evaluation.figurines import COLORS, KINDS, POSES, Figurines, pose_class, render_figurines
from recdreamer.evaluation.oracle import load_oracle

AZIMUTHS = 7.5 + torch.arange(24) * 15.0


def one_hot(classes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, 4).float()


def test_a_perfect_turntable() -> None:
    found = measure_consistency(one_hot(pose_class(AZIMUTHS)), AZIMUTHS)
    assert found.pose_entropy == pytest.approx(1) and found.azimuth_agreement == 1
    assert found.agreement_unrotated == 1 and found.fronts == 1


def test_a_turned_figure_is_as_consistent() -> None:
    found = measure_consistency(one_hot(pose_class(AZIMUTHS + 120)), AZIMUTHS)
    assert found.azimuth_agreement == 1 and found.agreement_unrotated < 0.5


def test_one_pose_all_around_is_janus() -> None:
    found = measure_consistency(one_hot(torch.zeros(24, dtype=torch.long)), AZIMUTHS)
    assert found.pose_entropy == pytest.approx(0, abs=1e-6) and found.fronts == -1
    assert found.azimuth_agreement < 0.3


def test_two_faces_are_counted() -> None:
    classes = torch.full((24,), POSES.index("back"))
    classes[[0, 1, 23, 10, 11]] = POSES.index("front")
    assert measure_consistency(one_hot(classes), AZIMUTHS).fronts == 2


def test_uniform_shares_in_the_wrong_order_do_not_agree() -> None:
    found = measure_consistency(one_hot(torch.arange(24) % 4), AZIMUTHS)
    assert found.pose_entropy == pytest.approx(1) and found.azimuth_agreement < 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_true_figurines_are_judged_consistent(kind: str) -> None:
    index = KINDS.index(kind)
    figures = Figurines.of(torch.full((24,), index), torch.full((24,), index % len(COLORS)))
    cameras = orbit_cameras(AZIMUTHS, torch.full((24,), 10.0), 4.0, 30.0)
    images = render_figurines(figures, cameras, 64, torch.full((24, 3), 0.8))
    found = measure_consistency(load_oracle().pose_probs(images), AZIMUTHS)
    assert found.pose_entropy > 0.98 and found.agreement_unrotated >= 0.9
