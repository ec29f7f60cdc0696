"""UV unwrapping by xatlas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xatlas

from .mesh import Mesh, MeshConfig


def unwrap(mesh: Mesh, config: MeshConfig) -> tuple[Mesh, int]:
    """The same welded mesh with a UV per face corner, and the number of islands.

    Islands lie inside [0, 1]^2, do not overlap, keep their proportions, and stand `padding_px` apart at
    `texture_size_px`.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.verts, mesh.faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution = config.texture_size_px
    pack.padding = config.padding_px
    atlas.generate(pack_options=pack)
    _, corners, uvs = atlas.get_mesh(0)
    # xatlas divides by the width and the height of its own, not quite square page.
    side = max(atlas.width, atlas.height)
    uvs = uvs * (np.array([atlas.width, atlas.height], np.float32) / side)
    return replace(mesh, uvs=np.clip(uvs[corners], 0, 1).astype(np.float32)), atlas.chart_count
