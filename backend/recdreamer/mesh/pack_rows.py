"""Packs thousands of charts in rows: loose faces and tiny parts, for which xatlas would search too long."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from recdreamer.mesh.mesh import Mesh
from recdreamer.mesh.parametrize import Chart, flat_faces
from recdreamer.report import Tick, no_tick

BISECTIONS = 24


def packed_in_rows(
    mesh: Mesh,
    charts: list[Chart],
    loose: Int[np.ndarray, "loose"],
    page_px: int,
    padding_px: int,
    tick: Tick = no_tick,
) -> Float[np.ndarray, "faces 3 2"]:
    """UVs per corner of charts and of loose faces, each a chart of its own, `padding_px` apart, or `room_px` if less."""
    tick()
    flat, order = _laid_down(mesh, loose)
    laid = [_lying(chart) for chart in charts]
    sizes = np.concatenate(
        [np.stack([np.ptp(uvs, axis=0) for uvs in laid]) if laid else np.zeros((0, 2)), flat.max(1)]
    )
    gap_px = min(padding_px, room_px(len(sizes), page_px))
    corners, scale = in_rows(sizes, gap_px / page_px, tick)
    uvs = np.zeros((len(mesh.faces), 3, 2), np.float32)
    for chart, lying, corner in zip(charts, laid, corners, strict=False):
        uvs[chart.index] = ((lying - lying.min(0)) * scale + corner)[chart.faces]
    placed = flat * scale + corners[len(charts) :, None]
    uvs[loose[:, None], order] = placed
    return np.clip(uvs, 0, 1)


def room_px(num_charts: int, page_px: int) -> float:
    """The distance between charts at which their gaps take half of the page's side.

    >>> room_px(4096, 1024)
    8.0
    """
    return page_px / (2 * math.sqrt(num_charts))


def in_rows(
    sizes: Float[np.ndarray, "boxes 2"], gap: float, tick: Tick = no_tick
) -> tuple[Float[np.ndarray, "boxes 2"], float]:
    """Lower left corners of boxes in the unit square, `gap` apart, and the largest scale at which they fit in rows.

    The highest come first, so that the boxes of a row are of about one height.

    >>> corners, scale = in_rows(np.array([[1.0, 1], [1, 1], [2, 1]]), 0.0)
    >>> round(scale, 3), corners.round(3).tolist()
    (0.5, [[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    """
    order = np.argsort(-sizes[:, 1], kind="stable")
    widths, heights = sizes[order].T
    low, high = 0.0, 1 / max(float(sizes.max()), 1e-300)
    best = _rows(widths, heights, low, gap)
    assert best is not None, "the gaps of all boxes are at most half of the page"
    for _ in range(BISECTIONS):
        tick()
        middle = (low + high) / 2
        found = _rows(widths, heights, middle, gap)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    corners = np.empty_like(sizes)
    corners[order] = best
    return corners + gap / 2, low


def _rows(
    widths: Float[np.ndarray, "boxes"], heights: Float[np.ndarray, "boxes"], scale: float, gap: float
) -> Float[np.ndarray, "boxes 2"] | None:
    """Lower left corners of ordered boxes at a scale; None if they do not fit."""
    widths, heights = widths * scale + gap, heights * scale + gap
    if widths.max() > 1 + 1e-9:
        return None
    ends = np.cumsum(widths)
    corners, begin, base, height = np.zeros((len(widths), 2)), 0, 0.0, 0.0
    while begin < len(widths):
        end = max(int(np.searchsorted(ends, base + 1 + 1e-9, side="right")), begin + 1)
        corners[begin:end, 0] = ends[begin:end] - widths[begin:end] - base
        corners[begin:end, 1] = height
        height += heights[begin]
        if height > 1 + 1e-9:
            return None
        begin, base = end, ends[end - 1]
    return corners


def _laid_down(
    mesh: Mesh, loose: Int[np.ndarray, "loose"]
) -> tuple[Float[np.ndarray, "loose 3 2"], Int[np.ndarray, "loose 3"]]:
    """Triangles flat on their longest side, which begins at the origin; and the corner of the face that each one is."""
    corners = mesh.verts[mesh.faces[loose]].astype(np.float64)
    lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    order = (lengths.argmax(1)[:, None] + np.arange(3)) % 3
    faces = np.take_along_axis(mesh.faces[loose], order, 1)
    return flat_faces(Mesh(mesh.verts.astype(np.float64), faces)), order


def _lying(chart: Chart) -> Float[np.ndarray, "verts 2"]:
    """A chart turned by a right angle if it is higher than wide."""
    width, height = np.ptp(chart.uvs, axis=0)
    return np.stack([chart.uvs[:, 1], -chart.uvs[:, 0]], 1) if height > width else chart.uvs
