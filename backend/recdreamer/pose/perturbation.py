"""Perturbed copies of pictures, which make templates robust and the gradients of queries meaningful."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recdreamer.parallel.view_shares import drawn

CELLS = 64
"""Copies move, blur and get noise in cells of 1/64 of the picture's width, so that what an extractor sees of it does not
depend on the resolution: in pixels, it would see next to nothing of it in pictures of 512, which it reduces to 224."""
MAX_TURN = 0.1
"""Largest rotation of the hue, as a share of the circle."""


def averaged_logits(
    logits_of: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch 3 h w"],
    generator: torch.Generator | None,
    copies: int,
    noise: float,
) -> Float[Tensor, "batch classes"]:
    """Logits averaged over perturbed copies; without a generator, those of the unchanged pictures."""
    if generator is None:
        return logits_of(images)
    perturbed_images = torch.cat([perturbed(images, generator, noise) for _ in range(copies)])
    return logits_of(perturbed_images).unflatten(0, (copies, -1)).mean(0)


def cell_px(images: Float[Tensor, "batch 3 h w"]) -> int:
    """Width of a cell in pixels, at least 1.

    >>> [cell_px(torch.zeros(1, 3, side, side)) for side in (16, 64, 512)]
    [1, 1, 8]
    """
    return max(1, round(images.shape[-1] / CELLS))


def box_blur(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Mean over 3 × 3 cells, to an odd number of pixels; the border is replicated.

    >>> spot = torch.zeros(1, 3, 3, 3)
    >>> spot[..., 1, 1] = 9
    >>> box_blur(spot)[0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    reach = 3 * cell_px(images) // 2
    # Across and down, which takes fewer sums than a square.
    across = F.avg_pool2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), (1, 2 * reach + 1), stride=1)
    return F.avg_pool2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), (2 * reach + 1, 1), stride=1)


def perturbed(
    images: Float[Tensor, "batch 3 h w"], generator: torch.Generator, noise: float, max_shift: int = 1
) -> Float[Tensor, "batch 3 h w"]:
    """Copies shifted by up to `max_shift` cells, blurred up to twice, slightly brighter or darker, and noisy.

    Averaging over them suppresses gradients that change nothing visible.
    """
    draw = lambda *shape: torch.rand(shape, generator=generator, device=generator.device).to(images)  # noqa: E731
    cell, (height, width) = cell_px(images), images.shape[-2:]
    if max_shift:
        down, right = (((2 * max_shift + 1) * draw(2)).long() - max_shift) * cell
        # Indices stay on the device, because reading them would wait for it. The border is replicated.
        for dim, shift in ((-2, down), (-1, right)):
            places = torch.arange(images.shape[dim], device=images.device) + shift
            images = images.index_select(dim, places.clamp(0, images.shape[dim] - 1))
    # Of each picture, which is one of a step's views.
    each = lambda: drawn(torch.rand, (len(images), 1, 1, 1), generator).to(images)  # noqa: E731
    amount = 2 * each()
    once = box_blur(images)
    images = torch.lerp(
        torch.lerp(images, once, amount.clamp(0, 1)), box_blur(once), (amount - 1).clamp(0, 1)
    )
    images = images * (0.9 + 0.2 * each()) + 0.12 * (each() - 0.5)
    shape = (*images.shape[:2], math.ceil(height / cell), math.ceil(width / cell))
    eps = drawn(torch.randn, shape, generator).to(images)
    if cell > 1:
        eps = F.interpolate(eps, (height, width), mode="bilinear", align_corners=False)
    return images + noise * each() * eps


def jittered_color(
    images: Float[Tensor, "batch 3 h w"],
    generator: torch.Generator,
    grey_share: float = 0.2,
) -> Float[Tensor, "batch 3 h w"]:
    """Hue turned by up to MAX_TURN of the circle, saturation within a fifth, and a share of the copies grey."""
    count = len(images)
    draw = lambda: torch.rand(count, generator=generator, device=generator.device).to(images)  # noqa: E731
    angle, saturation = 2 * math.pi * MAX_TURN * (2 * draw() - 1), 0.8 + 0.4 * draw()
    saturation = torch.where(draw() < grey_share, 0.0, saturation)
    # Rodrigues' rotation about the grey axis, contracted towards it.
    cos, sin, third = saturation * angle.cos(), saturation * angle.sin() / math.sqrt(3), 1 / 3
    same, before, after = cos + third * (1 - cos), third * (1 - cos) - sin, third * (1 - cos) + sin
    matrix = torch.stack((same, before, after, after, same, before, before, after, same), -1).view(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def moved(
    images: Float[Tensor, "batch 3 h w"],
    generator: torch.Generator,
    max_shift: float = 0.06,
    max_scale: float = 1.1,
    max_shear: float = 0.05,
) -> Float[Tensor, "batch 3 h w"]:
    """Randomly shifted (in halves of the picture), scaled and sheared copies; the border is replicated outside."""
    count = len(images)
    draw = lambda *shape: (  # noqa: E731
        2 * torch.rand(count, *shape, generator=generator, device=generator.device) - 1
    ).to(images)
    scale, shear = (math.log(max_scale) * draw()).exp(), max_shear * draw()
    theta = torch.zeros(count, 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 1] = shear
    theta[:, :, 2] = max_shift * draw(2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
