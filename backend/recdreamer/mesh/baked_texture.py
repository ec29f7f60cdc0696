"""Baked textures: one image per UV tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, UInt8

from recdreamer.kernels import launch

wp.set_module_options({"enable_backward": False})

Tiles = dict[int, UInt8[np.ndarray, "_height _width 3"]]
"""Square images of one size by UDIM number, 1001 for [0, 1)^2. Row 0 is the top (v = 1)."""


@dataclass(frozen=True)
class Texture:
    """Images, and masks of their islands."""

    tiles: Tiles
    is_island: dict[int, Bool[np.ndarray, "_height _width"]]
    """True where a texel has its own value: in the islands and just around them."""

    @property
    def coverage(self) -> float:
        """Share of the texels of all tiles that have their own value."""
        return float(np.mean([mask.mean() for mask in self.is_island.values()]))

    @property
    def size_px(self) -> int:
        return len(next(iter(self.tiles.values())))


def fill_padding(texture: Texture) -> Texture:
    """Texture whose remaining texels take the nearest island's value, so that mip-mapping meets no background."""
    return Texture(
        {tile: _filled(image, texture.is_island[tile]) for tile, image in texture.tiles.items()},
        texture.is_island,
    )


def _filled(
    image: UInt8[np.ndarray, "height width 3"], is_island: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    if is_island.all() or not is_island.any():
        return image
    height, width = is_island.shape
    # Row and column in one number: both are below 2¹⁵.
    rows, columns = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    nearest = np.where(is_island, rows[:, None] << 16 | columns, np.int32(-1))
    # One thread, because each texel depends on those visited before it.
    launch(_spread, 1, [height, width, torch.from_numpy(nearest)])
    filled, found = image.copy(), nearest[~is_island]
    filled[~is_island] = image[found >> 16, found & 0xFFFF]
    return filled


@wp.func
@no_type_check
def _ask(nearest: wp.array2d(dtype=int), y: int, x: int, other_y: int, other_x: int):
    """Adopt the nearest texel of a neighbour if it is nearer than the current one."""
    own, other = nearest[y, x], nearest[other_y, other_x]
    if other >= 0 and other != own:
        dy, dx = (other >> 16) - y, (other & 0xFFFF) - x
        own_dy, own_dx = (own >> 16) - y, (own & 0xFFFF) - x
        if own < 0 or dy * dy + dx * dx < own_dy * own_dy + own_dx * own_dx:
            nearest[y, x] = other


@wp.kernel
@no_type_check
def _spread(height: int, width: int, nearest: wp.array2d(dtype=int)):
    """Location of the nearest valued texel, by sweeps down and up (Danielsson 1980; exact except for near ties)."""
    for sweep in range(2):
        for i in range(height):
            y, before = i, i - 1
            if sweep == 1:
                y, before = height - 1 - i, height - i
            for x in range(width):
                if nearest[y, x] != (y << 16 | x):
                    if i > 0:
                        for column in range(wp.max(x - 1, 0), wp.min(x + 2, width)):
                            _ask(nearest, y, x, before, column)
                    if x > 0:
                        _ask(nearest, y, x, y, x - 1)
            for j in range(1, width):
                x = width - 1 - j
                if nearest[y, x] != (y << 16 | x):
                    _ask(nearest, y, x, y, x + 1)
