"""UV unwrapping: flattens the surface into charts and packs them onto one page."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xatlas
from jaxtyping import Float

from recdreamer.mesh.mesh import Mesh, MeshConfig, double_areas
from recdreamer.mesh.pack_rows import packed_in_rows
from recdreamer.mesh.parametrize import Chart, make_charts
from recdreamer.report import Tick, no_tick

PAGE_GROWTH = 1.5  # xatlas's page is usually larger than requested, by up to this factor
ATTEMPTS = 3
PAGE_PX = 384
"""Largest side of the page for packing: finer pages take longer and save little."""

BRUTE_FORCE_CHARTS = 512
"""Up to so many charts, every place of the page is tried for each. That saves a tenth of the page, but its time grows
with their number, to minutes for thousands, and it cannot be stopped."""

PACKED_CHARTS = 4096
"""Of more charts, xatlas would take seconds for a step that cannot be stopped, and they are put in rows."""

LONG, MAX_ELONGATION = 2.0, 8.0
"""xatlas makes its page as large as the longest chart is at a scale that fits the area of all, and searches a minute for
a rod, hours for a needle. So the page is coarser for long charts, and the longest are put in rows. Ordinary objects have
an elongation below 1."""


def unwrap(mesh: Mesh, config: MeshConfig, tick: Tick = no_tick) -> tuple[Mesh, int]:
    """The same welded mesh with UVs per face corner, and the number of islands.

    Islands lie inside [0, 1]^2, do not overlap, keep their proportions, and are `padding_px` apart at
    `texture_size_px`; less where thousands of islands leave no room for that. `tick` is called between charts and may
    raise to cancel.
    """
    charts, loose = make_charts(mesh, tick)
    count, length = len(charts) + len(loose), elongation(charts)
    if count > PACKED_CHARTS or len(loose) or length > MAX_ELONGATION:
        uvs = packed_in_rows(mesh, charts, loose, config.texture_size_px, config.padding_px, tick)
        return replace(mesh, uvs=uvs), count
    page_px = min(config.texture_size_px, PAGE_PX)
    if length > LONG:
        page_px = math.ceil(page_px * LONG / length)
    least = config.padding_px * page_px / config.texture_size_px
    padding = math.ceil(PAGE_GROWTH * least)
    for _ in range(ATTEMPTS):
        tick()
        uvs, side_px = _packed(charts, len(mesh.faces), page_px, padding)
        growth = side_px / page_px
        if padding >= growth * least:
            break
        padding = math.ceil(1.1 * growth * least)
    return replace(mesh, uvs=uvs), len(charts)


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
    charts: list[Chart], num_faces: int, page_px: int, padding_px: int
) -> tuple[Float[np.ndarray, "faces 3 2"], int]:
    """UVs per corner, and the side of the square page in xatlas's own pixels."""
    atlas = xatlas.Atlas()
    # Scaled up, because xatlas takes small triangles for degenerate and does not move them.
    span = max(float(np.ptp(chart.uvs, axis=0).max()) for chart in charts)
    for chart in charts:
        atlas.add_uv_mesh((chart.uvs * (1000 / span)).astype(np.float32), chart.faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = page_px, padding_px
    options.bruteForce = len(charts) <= BRUTE_FORCE_CHARTS
    atlas.generate(pack_options=options)
    # xatlas normalizes by width and height separately, and its page is not quite square.
    side = max(atlas.width, atlas.height)
    proportions = np.array([atlas.width, atlas.height], np.float32) / side
    uvs = np.zeros((num_faces, 3, 2), np.float32)
    for number, chart in enumerate(charts):
        _, corners, packed = atlas.get_mesh(number)
        uvs[chart.index] = packed[corners] * proportions
    return np.clip(uvs, 0, 1), side
