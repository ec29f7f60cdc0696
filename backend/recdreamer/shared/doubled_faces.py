"""Finds faces that lie upon others: exports of double-sided materials have each face twice, once each way round.

Numpy only, and shared with the add-on like protocol.py; what the worker leaves out is said before a job is made.
"""

from __future__ import annotations

import numpy as np

FLATNESS = 1e-6
"""Volume of four corners, as a share of the cube of their distance, below which they lie in one plane."""
SMALLEST_AREA = 2e-15
"""Of a face, in units of the square of the mesh's longest side."""


def solid_faces(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Indices of the faces `faces 3` of a START_MESH that have an inside: those with an area, each once.

    `verts` are welded. A square with its other side, and a face that is a line:

    >>> square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> solid_faces(square, np.array([[0, 1, 2], [0, 1, 0], [0, 2, 3], [2, 1, 0]])).tolist()
    [0, 2]
    """
    kept = np.flatnonzero(_has_area(verts, faces))
    return kept[without_doubles(verts, faces[kept])]


def _has_area(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (verts[faces[:, corner]].astype(np.float64) for corner in range(3))
    size = np.ptp(np.concatenate([a, b, c]), axis=0).max() if len(faces) else 0.0
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2 > SMALLEST_AREA * size**2


def without_doubles(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """False for faces `faces 3` that lie upon earlier ones; the winding numbers of both together would have no inside.

    Walls between two closed parts that touch stay double: there it is right that both cancel out.

    A square, the same face the other way round, and the same square cut along its other diagonal:

    >>> square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> without_doubles(square, np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0]])).tolist()
    [True, True, False]
    >>> without_doubles(square, np.array([[0, 1, 2], [0, 2, 3], [1, 0, 3], [1, 3, 2]])).tolist()
    [True, True, False, False]
    """
    first = _first_of(verts, faces)
    is_second = first != np.arange(len(faces))
    if not is_second.any():
        return ~is_second
    doubled = np.unique(first[is_second])
    edges = _earliest_same(np.sort(_half_edges(faces), axis=1)).reshape(-1, 3)
    is_single = ~is_second
    is_single[doubled] = False
    count = int(edges.max()) + 1
    singles = np.bincount(edges[is_single].ravel(), minlength=count)
    uses = np.bincount(edges[doubled].ravel(), minlength=count)
    # Patches of doubled faces, connected across edges.
    patches = _components(
        len(doubled) + count,
        np.repeat(np.arange(len(doubled)), 3),
        len(doubled) + edges[doubled].ravel(),
    )
    # A wall ends where two other faces meet, one of each part.
    rim = np.flatnonzero(uses == 1)
    of_rim = patches[len(doubled) + rim]
    num_patches = int(patches.max()) + 1
    at_parts = np.bincount(of_rim, singles[rim] >= 2, minlength=num_patches)
    is_wall = at_parts > 0.5 * np.bincount(of_rim, minlength=num_patches)
    patch_of_face = np.zeros(len(faces), np.int64)
    patch_of_face[doubled] = patches[: len(doubled)]
    return ~is_second | is_wall[patch_of_face[first]]


def _first_of(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The earliest face that lies where each one lies: the same triangle, or half of the same flat quad."""
    first = _earliest_same(np.sort(faces, axis=1))
    once = np.flatnonzero(first == np.arange(len(faces)))
    # Diagonals of quads are edges of exactly two faces.
    ends = _half_edges(faces[once])
    same = _earliest_same(np.sort(ends, axis=1))
    uses = np.bincount(same, minlength=len(same))
    second = np.flatnonzero((same != np.arange(len(same))) & (uses[same] == 2))
    one, other = once[same[second] // 3], once[second // 3]
    opposite = np.roll(faces[once], -2, axis=1).ravel()
    quads = np.stack([*ends[second].T, opposite[same[second]], opposite[second]], 1)
    a, b, c, d = (verts[quads[:, corner]].astype(np.float64) for corner in range(4))
    above, below = np.cross(b - a, c - a), np.cross(b - a, d - a)
    size = np.abs(np.stack([b - a, c - a, d - a])).max((0, 2), initial=0.0)
    is_flat = np.abs(np.einsum("qi,qi->q", d - a, above)) <= FLATNESS * size**3
    # Not folded onto each other, as the borders of two open sheets are.
    is_flat &= np.einsum("qi,qi->q", above, below) < 0
    quads = np.sort(quads, axis=1)
    quads, one, other = quads[is_flat], one[is_flat], other[is_flat]
    upon = _earliest_same(quads)
    is_second = upon != np.arange(len(quads))
    first[one[is_second]] = one[upon[is_second]]
    first[other[is_second]] = other[upon[is_second]]
    return first


def _components(size: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Numbers from 0 on of the connected components of a graph whose edges join `one` and `other`.

    Blender has no SciPy. Each round hooks trees of lower numbers together and flattens them, so that few are needed.

    >>> _components(5, np.array([3, 1]), np.array([4, 3])).tolist()
    [0, 1, 2, 1, 1]
    """
    root = np.arange(size)
    while True:
        ends = np.stack([root[one], root[other]])
        if (ends[0] == ends[1]).all():
            return np.unique(root, return_inverse=True)[1].reshape(-1)
        np.minimum.at(root, ends.max(0), ends.min(0))
        while (root[root] != root).any():
            root = root[root]


def _earliest_same(rows: np.ndarray) -> np.ndarray:
    """Index of the first row of `rows columns` that equals each row.

    >>> _earliest_same(np.array([[1, 2], [0, 5], [1, 2]])).tolist()
    [0, 1, 0]
    """
    order = np.lexsort(rows.T[::-1])
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(1)
    found = np.empty(len(rows), np.int64)
    found[order] = order[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return found


def _half_edges(faces: np.ndarray) -> np.ndarray:
    """Ends of the half-edges 3 f + i, which run from corner i of face f to the next."""
    return np.stack([faces.ravel(), np.roll(faces, -1, axis=1).ravel()], 1)
