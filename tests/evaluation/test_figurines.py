"""The embedded world: conventions of pose, distribution of cameras."""

from __future__ import annotations

import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import (
    KINDS,
    POSE_SHARES,
    POSES,
    Figurines,
    photograph,
    pose_class,
    render_figurines,
    sample_azimuths,
)


def bird_from(azimuth_deg: float) -> torch.Tensor:
    kind = torch.tensor([KINDS.index("bird")])
    cameras = orbit_cameras(torch.tensor([azimuth_deg]), torch.tensor([0.0]), 4.0, 30.0)
    return render_figurines(Figurines.of(kind, torch.tensor([2])), cameras, 64, torch.full((1, 3), 0.8))[0]


def orange_column(image: torch.Tensor) -> float:
    """Mean column of the beak's colour, above the feet."""
    red, green, blue = image[:, :40]
    beak = (red > 0.6) & (green > 0.25) & (green < 0.65) & (blue < 0.3)
    return torch.nonzero(beak)[:, 1].float().mean().item()


def test_the_beak_points_to_the_left_from_the_right_and_the_other_way_round() -> None:
    assert orange_column(bird_from(90.0)) < 26
    assert orange_column(bird_from(270.0)) > 38
    assert abs(orange_column(bird_from(0.0)) - 31.5) < 1.5


def test_opposite_sides_are_mirror_images() -> None:
    assert torch.allclose(bird_from(90.0), bird_from(270.0).flip(-1), atol=1e-4)


def test_classes_are_quarters_about_their_azimuth() -> None:
    azimuth_deg = torch.tensor([0.0, 44.0, 46.0, 90.0, 180.0, 270.0, 314.0, 316.0])
    assert [POSES[i] for i in pose_class(azimuth_deg)] == [
        "front", "front", "right", "right", "back", "left", "left", "front",
    ]  # fmt: skip


def test_azimuths_have_the_stated_bias() -> None:
    azimuths = sample_azimuths(20_000, torch.Generator().manual_seed(0), "cpu", POSE_SHARES)
    shares = torch.bincount(pose_class(azimuths), minlength=4) / 20_000
    assert torch.allclose(shares, torch.tensor([POSE_SHARES[p] for p in POSES]), atol=0.012)


def test_photographs_are_seeded_and_valid() -> None:
    first, second = (photograph(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert first.images.min() >= 0 and first.images.max() <= 1 and first.images.std() > 0.05
