"""UV unwrapping: flattens the surface into charts and packs them onto one page."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from recdreamer.mesh.mesh import Mesh, MeshConfig, double_areas, without_unused_verts
from recdreamer.mesh.pack_rows import packed_in_rows
from recdreamer.mesh.parametrize import Chart, make_charts
from recdreamer.mesh.xatlas_process import GivenUp, ask_xatlas
from recdreamer.report import Tick, no_tick
from recdreamer.shared.uv_map import FIRST_TILE, TILES_PER_ROW, bare_faces, tile_for_the_rest

PAGE_GROWTH = 1.5  # xatlas's page is usually larger than requested, by up to this factor
ATTEMPTS = 3
PAGE_PX = 384
"""Largest side of the page for packing: finer pages take longer and save little."""

BRUTE_FORCE_CHARTS = 512
"""Up to so many charts, every place of the page is tried for each. That saves a tenth of the page, but its time grows
with their number, to minutes for thousands."""

PACKED_CHARTS = 4096
"""Of more charts, xatlas would take long, and they are put in rows."""

LONG, MAX_ELONGATION = 2.0, 8.0
"""xatlas makes its page as large as the longest chart is at a scale that fits the area of all, and searches a minute for
a rod, hours for a needle. So the page is coarser for long charts, and the longest are put in rows. Ordinary objects have
an elongation below 1."""


def unwrap(mesh: Mesh, config: MeshConfig, tick: Tick = no_tick) -> tuple[Mesh, int]:
    """The same welded mesh with UVs per face corner, and the number of islands that were made.

    Islands lie inside [0, 1]^2, do not overlap, keep their proportions, and are `padding_px` apart at
    `texture_size_px`; less where thousands of islands leave no room for that. Faces that have UVs keep them, and the
    islands of all others lie in a UV tile of their own. `tick` is called several times a second, and may raise to
    cancel.
    """
    if mesh.uvs is None:
        uvs, count = _new_uvs(mesh, config, tick)
        return replace(mesh, uvs=uvs), count
    bare = bare_faces(mesh.uvs)
    row, column = divmod(tile_for_the_rest(mesh.uvs) - FIRST_TILE, TILES_PER_ROW)
    uvs = mesh.uvs.copy()
    made, count = _new_uvs(without_unused_verts(Mesh(mesh.verts, mesh.faces[bare])), config, tick)
    uvs[bare] = made + np.array([column, row], made.dtype)
    return replace(mesh, uvs=uvs), count


def _new_uvs(mesh: Mesh, config: MeshConfig, tick: Tick) -> tuple[Float[np.ndarray, "faces 3 2"], int]:
    """UVs in [0, 1]^2, and the number of islands."""
    charts, loose = make_charts(mesh, tick)
    count, length = len(charts) + len(loose), elongation(charts)

    def in_rows() -> Float[np.ndarray, "faces 3 2"]:
        return packed_in_rows(mesh, charts, loose, config.texture_size_px, config.padding_px, tick)

    if count > PACKED_CHARTS or len(loose) or length > MAX_ELONGATION:
        return in_rows(), count
    page_px = min(config.texture_size_px, PAGE_PX)
    if length > LONG:
        page_px = math.ceil(page_px * LONG / length)
    least = config.padding_px * page_px / config.texture_size_px
    padding = math.ceil(PAGE_GROWTH * least)
    for _ in range(ATTEMPTS):
        try:
            uvs, side_px = _packed(charts, len(mesh.faces), page_px, padding, tick)
        except GivenUp:
            return in_rows(), count
        growth = side_px / page_px
        if padding >= growth * least:
            break
        padding = math.ceil(1.1 * growth * least)
    return uvs, count


def elongation(charts: list[Chart]) -> float:
    """Length of the longest chart, in sides of a square with the area of all.

    Two strips of 8 × 1, whose area together is that of a square with a side of 4:

    >>> strip, faces = np.array([[0.0, 0], [8, 0], [8, 1], [0, 1]]), np.array([[0, 1, 2], [0, 2, 3]])
    >>> elongation([Chart(np.arange(2), faces, strip)] * 2)
    2.0
    """
    lengths = [float(np.ptp(chart.uvs, axis=0).max()) for chart in charts]
    area = sum(float(np.abs(double_areas(chart.uvs[chart.faces])).sum()) / 2 for chart in charts)
    return max(lengths, default=0.0) / max(math.sqrt(area), 1e-300)


def _packed(
    charts: list[Chart], num_faces: int, page_px: int, padding_px: int, tick: Tick
) -> tuple[Float[np.ndarray, "faces 3 2"], int]:
    """UVs per corner, and the side of the square page in xatlas's own pixels. Raises GivenUp."""
    # Scaled up, because xatlas takes small triangles for degenerate and does not move them.
    span = max(float(np.ptp(chart.uvs, axis=0).max()) for chart in charts)
    task = {
        "uvs": np.concatenate([(chart.uvs * (1000 / span)).astype(np.float32) for chart in charts]),
        "faces": np.concatenate([chart.faces.astype(np.uint32) for chart in charts]),
        "counts": np.array([[len(chart.uvs), len(chart.faces)] for chart in charts]),
        "options": np.array([page_px, padding_px, len(charts) <= BRUTE_FORCE_CHARTS]),
    }
    found = ask_xatlas("pack", task, tick)
    # xatlas normalizes by width and height separately, and its page is not quite square.
    side = int(found["size"].max())
    uvs = np.zeros((num_faces, 3, 2), np.float32)
    index = np.concatenate([chart.index for chart in charts])
    uvs[index] = found["uvs"] * (found["size"].astype(np.float32) / side)
    return np.clip(uvs, 0, 1), side
