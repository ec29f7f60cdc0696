"""Perturbed copies of a picture: what a classifier thinks of all of them has a gradient that an eye can follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def averaged_logits(
    logits_of: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch 3 h w"],
    generator: torch.Generator | None,
    copies: int,
    noise: float,
) -> Float[Tensor, "batch classes"]:
    """Logits averaged over perturbed copies; without a generator, those of the pictures as they are."""
    if generator is None:
        return logits_of(images)
    perturbed_images = torch.cat([perturbed(images, generator, noise) for _ in range(copies)])
    return logits_of(perturbed_images).unflatten(0, (copies, -1)).mean(0)


def box_blur(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def perturbed(
    images: Float[Tensor, "batch 3 h w"], generator: torch.Generator, noise: float, max_shift_px: int = 1
) -> Float[Tensor, "batch 3 h w"]:
    """Shifted by a pixel, blurred none to twice, a little brighter or darker, and noisy."""
    draw = lambda *shape: torch.rand(shape, generator=generator, device=generator.device).to(images)  # noqa: E731
    if max_shift_px:
        down, right = ((2 * max_shift_px + 1) * draw(2)).long() - max_shift_px
        # Places stay on the device: reading them would wait for it. The border repeats itself.
        for dim, shift in ((-2, down), (-1, right)):
            places = torch.arange(images.shape[dim], device=images.device) + shift
            images = images.index_select(dim, places.clamp(0, images.shape[dim] - 1))
    amount = 2 * draw(len(images), 1, 1, 1)
    once = box_blur(images)
    images = torch.lerp(
        torch.lerp(images, once, amount.clamp(0, 1)), box_blur(once), (amount - 1).clamp(0, 1)
    )
    images = images * (0.9 + 0.2 * draw(len(images), 1, 1, 1)) + 0.12 * (draw(len(images), 1, 1, 1) - 0.5)
    eps = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
    return images + noise * draw(len(images), 1, 1, 1) * eps
