"""Baked textures: one image for each UV tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

Tiles = dict[int, UInt8[np.ndarray, "_height _width 3"]]
"""Square images of one size by UDIM number, 1001 for [0, 1)^2. Row 0 is the top (v = 1)."""


BLOCK_ROWS = 64


@dataclass(frozen=True)
class Texture:
    """Images and where in them the islands are."""

    tiles: Tiles
    is_island: dict[int, Bool[np.ndarray, "_height _width"]]
    """True where a texel has a value of its own, which is in the islands and just around them."""

    @property
    def coverage(self) -> float:
        """Share of the texels of all tiles that have a value of their own."""
        return float(np.mean([mask.mean() for mask in self.is_island.values()]))

    @property
    def size_px(self) -> int:
        return len(next(iter(self.tiles.values())))


def fill_padding(texture: Texture) -> Texture:
    """Texture whose other texels take the nearest island's value, so that mip-mapping finds no background."""
    return Texture(
        {tile: _filled(image, texture.is_island[tile]) for tile, image in texture.tiles.items()},
        texture.is_island,
    )


def _filled(
    image: UInt8[np.ndarray, "height width 3"], is_island: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    if is_island.all() or not is_island.any():
        return image
    nearest = np.empty((2, *is_island.shape), np.int32)
    ndimage.distance_transform_edt(~is_island, return_distances=False, return_indices=True, indices=nearest)
    filled = image.copy()
    # Block by block: numpy widens the indices, which would cost more than all the rest.
    for start in range(0, len(image), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        filled[block] = image[nearest[0, block], nearest[1, block]]
    return filled
