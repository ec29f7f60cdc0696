"""Triangles of polygons: fans where these lie inside, and ears where a polygon is concave."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

MAX_CLIPPED = 1_000_000
"""Sum of the squared corners of the polygons that are cut ear by ear, the smallest first: seconds. The rest stay fans."""


def fans(
    corners: Int[np.ndarray, "corners"], sizes: Int[np.ndarray, "polygons"]
) -> Int[np.ndarray, "triangles 3"]:
    """Triangles of polygons, given all their `corners` and how many each has.

    Polygons lie one after the other; a polygon of n corners gives n - 2 triangles, all at its first corner.

    >>> fans(np.arange(7), np.array([4, 3]))
    array([[0, 1, 2],
           [0, 2, 3],
           [4, 5, 6]])
    """
    counts = np.maximum(sizes - 2, 0)
    polygon = np.repeat(np.arange(len(sizes)), counts)
    first = (np.cumsum(sizes) - sizes)[polygon]
    within = np.arange(len(polygon)) - (np.cumsum(counts) - counts)[polygon]
    places = np.stack([first, first + within + 1, first + within + 2], 1)
    return corners[places]


def triangulated(
    verts: Float[np.ndarray, "verts 3"],
    corners: Int[np.ndarray, "corners"],
    sizes: Int[np.ndarray, "polygons"],
) -> Int[np.ndarray, "triangles 3"]:
    """Places, among all `corners`, of the triangles of polygons, as many and in the order that `fans` gives.

    A fan of a concave polygon reaches out of it; then its ears are cut off one by one (Meisters 1975). An arrowhead,
    whose tip is corner 0 and whose notch is corner 2, is cut from tip to notch, and so it is from another start:

    >>> head = np.array([[0.0, 2, 0], [-1, 0, 0], [0, 1, 0], [1, 0, 0]])
    >>> triangulated(head, np.arange(4), np.array([4])).tolist()
    [[0, 1, 2], [0, 2, 3]]
    >>> triangulated(head, np.array([1, 2, 3, 0]), np.array([4])).tolist()
    [[3, 0, 1], [1, 2, 3]]
    """
    places = fans(np.arange(len(corners)), sizes)
    if not len(places) or corners.min() < 0 or corners.max() >= len(verts):
        return places
    counts = np.maximum(sizes - 2, 0)
    polygon = np.repeat(np.arange(len(sizes)), counts)
    a, b, c = (verts[corners[places[:, corner]]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    # The vector area of a polygon is the same however it is cut.
    areas = np.stack([np.bincount(polygon, axis, len(sizes)) for axis in normals.T], 1)
    bent = np.unique(polygon[(normals * areas[polygon]).sum(1) < 0])
    begins, firsts, left = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts, MAX_CLIPPED
    for index in bent[np.argsort(sizes[bent], kind="stable")].tolist():
        left -= int(sizes[index]) ** 2
        if left < 0:
            break
        begin, first, count = int(begins[index]), int(firsts[index]), int(counts[index])
        points = verts[corners[begin : begin + count + 2]]
        places[first : first + count] = begin + _ears(_flat(points, areas[index]))
    return places


def _flat(points: Float[np.ndarray, "corners 3"], normal: Float[np.ndarray, "3"]) -> np.ndarray:
    """The points along the axis that the normal follows most, counter-clockwise, `corners 2`."""
    axis = int(np.abs(normal).argmax())
    flat = points[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return flat if normal[axis] > 0 else flat * (-1, 1)


def _ears(flat: Float[np.ndarray, "corners 2"]) -> Int[np.ndarray, "triangles 3"]:
    """Triangles of a counter-clockwise polygon without crossings."""
    left, found = list(range(len(flat))), []
    while len(left) > 3:
        here = flat[left]
        before, after = np.roll(here, 1, 0), np.roll(here, -1, 0)
        turns = _cross(here - before, after - here)
        ears = (
            k for k in np.flatnonzero(turns > 0).tolist() if not _holds(before[k], here[k], after[k], here)
        )
        ear = next(ears, int(turns.argmax()))  # Of one that crosses itself, any.
        found.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        del left[ear]
    return np.array([*found, left])


def _holds(a: np.ndarray, b: np.ndarray, c: np.ndarray, points: np.ndarray) -> bool:
    """Whether the triangle has one of the points strictly inside, or upon its third side."""
    sides = [_cross(end - start, points - start) for start, end in ((a, b), (b, c), (c, a))]
    is_corner = (points[:, None] == np.stack([a, b, c])).all(2).any(1)
    return bool(((sides[0] > 0) & (sides[1] > 0) & (sides[2] >= 0) & ~is_corner).any())


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
