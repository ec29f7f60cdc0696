"""UV unwrapping by xatlas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xatlas
from jaxtyping import Float

from recdreamer.mesh.mesh import Mesh, MeshConfig

PAGE_GROWTH = 1.5  # xatlas's page usually comes out up to this much larger than asked
ATTEMPTS = 3


def unwrap(mesh: Mesh, config: MeshConfig) -> tuple[Mesh, int]:
    """The same welded mesh with a UV per face corner, and the number of islands.

    Islands lie inside [0, 1]^2, do not overlap, keep their proportions, and stand `padding_px` apart at
    `texture_size_px`. Cannot be interrupted: one call into xatlas.
    """
    # Small triangles would fall below the areas that xatlas takes for degenerate.
    verts = (mesh.verts - mesh.verts.mean(0)) * np.float32(10 / np.ptp(mesh.verts, axis=0).max())
    padding = math.ceil(PAGE_GROWTH * config.padding_px)
    for _ in range(ATTEMPTS):
        uvs, page_px, num_islands = _packed(verts, mesh, config.texture_size_px, padding)
        growth = page_px / config.texture_size_px
        if padding >= growth * config.padding_px:
            break
        padding = math.ceil(1.1 * growth * config.padding_px)
    return replace(mesh, uvs=uvs), num_islands


def _packed(
    verts: Float[np.ndarray, "verts 3"], mesh: Mesh, size_px: int, padding_px: int
) -> tuple[Float[np.ndarray, "faces 3 2"], int, int]:
    """UVs per corner, side of the square page that they fill in xatlas's own pixels, number of islands."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(verts, mesh.faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = size_px, padding_px
    atlas.generate(pack_options=options)
    _, corners, uvs = atlas.get_mesh(0)
    # xatlas divides by the width and by the height of a page that is not quite square.
    side = max(atlas.width, atlas.height)
    uvs = uvs * (np.array([atlas.width, atlas.height], np.float32) / side)
    return np.clip(uvs[corners], 0, 1).astype(np.float32), side, atlas.chart_count
