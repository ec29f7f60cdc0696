"""The copies of a query: how many, how far they move, and how noisy they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from recdreamer.pose.perturbation import averaged_logits, perturbed

MIDDLE = 8


def spot() -> Tensor:
    """A white square of 3 × 3 on black, so that blurring it leaves its middle where it is."""
    picture = torch.zeros(1, 3, 2 * MIDDLE + 1, 2 * MIDDLE + 1)
    picture[..., MIDDLE - 1 : MIDDLE + 2, MIDDLE - 1 : MIDDLE + 2] = 1
    return picture


def place(pictures: Tensor) -> list[tuple[int, int]]:
    """Where each picture is brightest, after the noise that is not there."""
    smooth = avg_pool2d(pictures.mean(1, keepdim=True), 3, stride=1, padding=1)
    return [divmod(int(index), pictures.shape[-1]) for index in smooth.flatten(1).argmax(1)]


def copies_of(noise: float, copies: int, seed: int = 0) -> Tensor:
    """The pictures whose logits are averaged."""
    seen: list[Tensor] = []

    def logits_of(pictures: Tensor) -> Tensor:
        seen.append(pictures)
        return pictures.mean((2, 3))

    images, generator = spot(), torch.Generator().manual_seed(seed)
    averaged = averaged_logits(logits_of, images, generator, copies, noise)
    (pictures,) = seen
    assert torch.allclose(averaged, pictures.mean((2, 3)).mean(0, keepdim=True), atol=1e-6)
    return pictures


def test_copies_of_a_query_move_by_up_to_a_pixel_each_way() -> None:
    pictures = copies_of(noise=0.0, copies=200)
    assert len(pictures) == 200
    moves = {(row - MIDDLE, column - MIDDLE) for row, column in place(pictures)}
    assert moves == {(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)}


def test_copies_that_may_not_move_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    moves = {place(perturbed(spot(), generator, 0.0, max_shift=0))[0] for _ in range(20)}
    assert moves == {(MIDDLE, MIDDLE)}


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_the_noise_of_copies_is_uniform_up_to_the_setting(noise: float) -> None:
    """The standard deviation of a copy's noise is drawn from [0, noise], whatever else happens to the copy."""
    added = copies_of(noise, 60) - copies_of(0.0, 60)
    deviations = added.flatten(1).std(dim=1)
    # Uniform: mean ½, deviation 0.29 / √60; the largest of 60 is near the end.
    assert deviations.mean().item() == pytest.approx(noise / 2, rel=0.25)
    assert 0.9 * noise < deviations.max() < 1.1 * noise


@pytest.mark.parametrize("side", [128, 512])
def test_an_extractor_sees_the_same_perturbation_at_any_resolution(side: int) -> None:
    """A copy of an enlarged picture, reduced again, is the copy of the small one but for what resizing takes away."""
    small = avg_pool2d(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(3)), 5, 1, 2)
    large = interpolate(small, (side, side), mode="bilinear", align_corners=False)
    of_small, of_large = (
        perturbed(picture, torch.Generator().manual_seed(7), 0.06) - picture for picture in (small, large)
    )
    seen = interpolate(of_large, (64, 64), mode="area")
    assert (of_small - seen).norm() < 0.45 * of_small.norm()
    # In pixels instead of cells, less than half of it would be left at 512.
    assert seen.norm() > 0.75 * of_small.norm()


def test_without_random_numbers_a_query_is_read_as_it_is() -> None:
    images = spot()
    assert averaged_logits(lambda pictures: pictures.sum((2, 3)), images, None, 5, 0.5).tolist() == [
        [9.0] * 3
    ]
