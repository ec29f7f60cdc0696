"""Degradations and augmentations of pictures, batched and seeded; none of them uses labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _rand(generator: torch.Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur by up to about 2.5 pixels, add noise with a deviation of up to 0.15, change brightness and contrast."""
    count = len(images)
    blur_amount = _rand(generator, count, 0, 2) * (_rand(generator, count) < 0.5)
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    twice = F.avg_pool2d(F.pad(blurred, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    once_share, twice_share = _column(blur_amount.clamp(0, 1)), _column((blur_amount - 1).clamp(0, 1))
    images = torch.lerp(torch.lerp(images, blurred, once_share), twice, twice_share)
    noise = _column(_rand(generator, count, 0, 0.15) * (_rand(generator, count) < 0.5))
    images = images + noise * torch.randn(images.shape, generator=generator, device=images.device)
    gain, offset = _column(_rand(generator, count, 0.85, 1.15)), _column(_rand(generator, count, -0.08, 0.08))
    return ((images - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def jitter_hue(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate the colours of 80 % of the pictures about the grey axis by any angle, and turn 15 % of them grey."""
    count = len(images)
    angle = _rand(generator, count, -math.pi, math.pi) * (_rand(generator, count) < 0.8)
    cos, third = angle.cos(), 1 / 3
    sin = angle.sin() * math.sqrt(third)
    # Rodrigues' rotation about (1, 1, 1) / sqrt(3).
    same = cos + third * (1 - cos)
    before, after = third * (1 - cos) - sin, third * (1 - cos) + sin
    matrix = torch.stack((same, before, after, after, same, before, before, after, same), -1).view(-1, 3, 3)
    grey = _rand(generator, count) < 0.15
    matrix = torch.where(grey[:, None, None], torch.full_like(matrix, third), matrix)
    return torch.einsum("bij,bjhw->bihw", matrix, images).clamp(0, 1)


def recolor(images: Tensor, generator: torch.Generator) -> Tensor:
    """Colours that nothing has: each picture's through a random matrix, and shifted."""
    count, device = len(images), images.device
    amount = 0.5 * _rand(generator, count)[:, None, None]
    matrix = torch.eye(3, device=device) + amount * torch.randn(
        count, 3, 3, generator=generator, device=device
    )
    shift = (
        0.15 * _rand(generator, count)[:, None] * torch.randn(count, 3, generator=generator, device=device)
    )
    changed = torch.einsum("bij,bjhw->bihw", matrix, images - 0.5)
    return (changed + 0.5 + shift[..., None, None]).clamp(0, 1)


def foreign(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures that no photo shows: in other colours, two through each other, under coloured clouds, blurred.

    An object that is still forming looks like them. An autoencoder of photos alone sends back wrong colours for it: where
    all animals are brown, nothing tells it how to make a green one brown.
    """
    count, size = len(images), images.shape[-1]
    is_single = _rand(generator, count) < 0.5
    share = torch.where(is_single, torch.ones_like(is_single, dtype=images.dtype), _rand(generator, count))
    changed = torch.lerp(images.roll(1, 0), recolor(images, generator), _column(share))
    clouds = torch.randn(count, 3, 8, 8, generator=generator, device=images.device)
    clouds = F.interpolate(clouds, (size, size), mode="bicubic")
    changed = changed + _column(0.12 * _rand(generator, count) * (_rand(generator, count) < 0.5)) * clouds
    half, quarter = (
        F.interpolate(F.avg_pool2d(changed, factor), (size, size), mode="bilinear") for factor in (2, 4)
    )
    kind = _column(_rand(generator, count))
    return torch.where(kind < 1 / 3, changed, torch.where(kind < 2 / 3, half, quarter)).clamp(0, 1)


def random_affine(count: int, generator: torch.Generator) -> Tensor:
    """Maps from output to input coordinates in [-1, 1]: scale 0.8 to 1.25, shift up to 0.15, half of them flipped."""
    scale = torch.exp(_rand(generator, count, math.log(0.8), math.log(1.25)))
    flip = torch.where(_rand(generator, count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=generator.device)
    theta[:, 0, 0] = scale * flip
    theta[:, 1, 1] = scale
    theta[:, :, 2] = 0.15 * (2 * torch.rand((count, 2), generator=generator, device=generator.device) - 1)
    return theta


def warp(images: Tensor, theta: Tensor) -> Tensor:
    """Pictures resampled through `theta`; outside, the border is repeated."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def as_sketch(images: Tensor, generator: torch.Generator) -> Tensor:
    """Dark lines on light paper where the picture changes; the threshold for a line varies from picture to picture."""
    count = len(images)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    across = F.pad(smooth, (1, 1, 0, 0), mode="replicate")
    along = F.pad(smooth, (0, 0, 1, 1), mode="replicate")
    change = (across[..., 2:] - across[..., :-2]).square() + (along[..., 2:, :] - along[..., :-2, :]).square()
    change = change.amax(1, keepdim=True).sqrt()
    threshold = _column(_rand(generator, count, 0.06, 0.16))
    lines = ((change - threshold) / 0.08).clamp(0, 1)
    paper, ink = _column(_rand(generator, count, 0.85, 1.0)), _column(_rand(generator, count, 0.0, 0.4))
    return (paper + (ink - paper) * lines).expand(-1, 3, -1, -1)
