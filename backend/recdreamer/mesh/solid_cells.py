"""The cells of a field that form the object: without specks, with gaps and cavities filled."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from jaxtyping import Bool, Float

from recdreamer.field.grid_values import labelled
from recdreamer.mesh.level import SurfaceLevel
from recdreamer.mesh.mesh import MeshConfig

SLOPES = tuple((2 * k + 1) / 7 - 1 for k in range(7))
"""Slopes of a cell's lines of sight: seven by seven through each face of a cube, nearly evenly spread."""
NUM_DIRECTIONS = 6 * len(SLOPES) ** 2


def whole_object(
    solid: Bool[np.ndarray, "x y z"],
    sigmas: Float[np.ndarray, "x y z"],
    cell: float,
    level: SurfaceLevel,
    config: MeshConfig,
) -> Bool[np.ndarray, "x y z"]:
    """Solid cells (at least one) without specks, and with gaps and cavities filled.

    Without `config.fill_pores`, only gaps that split the object are filled. Hollows that are open but can hardly be
    seen into (`hidden`) are also filled, because no picture shows that they are empty.

    A small opaque part is kept if gap closing connects it to a large one (an antenna's knob above a broken rod);
    otherwise it is removed as a floater.
    """
    large = solid_parts(solid, config.min_component_share)
    small = solid & ~large
    opaque = opaque_parts(small, sigmas, cell) if small.any() else small
    radius_cells = round(config.closed_gap / 2 * max(np.subtract(level.hi, level.lo)) / cell)
    whole = without_gaps(large | opaque, radius_cells)
    if not config.fill_pores:
        whole = large | opaque | bridges(whole & ~(large | opaque), large | opaque)
    if config.hidden_share:
        whole = whole | hidden(whole, config.hidden_share)
    if not opaque.any():
        return whole
    labels, count = labelled(whole)
    is_joined = np.zeros(count + 1, bool)
    is_joined[labels[large]] = True
    return is_joined[labels]


def solid_parts(solid: Bool[np.ndarray, "x y z"], min_component_share: float) -> Bool[np.ndarray, "x y z"]:
    """Solid cells without specks and without hidden cavities.

    Fields are often hollow, and invisible inner walls would cost half of the faces and of the texture.
    """
    labels, _ = labelled(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    is_large = sizes >= min_component_share * sizes.max()
    return without_cavities(is_large[labels] & solid)


def without_cavities(solid: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """`solid` and all empty cells enclosed by it; space beyond the box counts as empty.

    >>> shell = np.ones((3, 3, 3), bool)
    >>> shell[1, 1, 1] = False
    >>> int(without_cavities(shell).sum())
    27
    """
    labels, _ = labelled(np.pad(~solid, 1, constant_values=True))
    return labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0]


def opaque_parts(
    solid: Bool[np.ndarray, "x y z"], sigmas: Float[np.ndarray, "x y z"], cell: float
) -> Bool[np.ndarray, "x y z"]:
    """Parts that are opaque on their own: along each axis, some ray loses half of its light in the part.

    Two cells with an optical depth of 0.8 and 0.6; half of the light is lost at ln 2 = 0.69:

    >>> sigmas = np.array([[[0.8, 0.0, 0.6]]])
    >>> opaque_parts(sigmas > 0, sigmas, 1.0).tolist()
    [[[True, False, False]]]
    """
    labels, count = labelled(solid)
    cells = np.nonzero(solid)
    part, depth = labels[cells], sigmas[cells] * cell
    is_opaque = np.ones(count + 1, bool)
    for axis in range(3):
        row, column = (cells[other] for other in range(3) if other != axis)
        rays, ray = np.unique(np.stack([part, row, column]), axis=1, return_inverse=True)
        thickest = np.zeros(count + 1)
        np.maximum.at(thickest, rays[0], np.bincount(ray.reshape(-1), depth))
        is_opaque &= thickest >= np.log(2)
    return is_opaque[labels] & solid


def without_gaps(solid: Bool[np.ndarray, "x y z"], radius_cells: int) -> Bool[np.ndarray, "x y z"]:
    """`solid` (at least one cell) with all gaps filled that are too narrow for a ball of this radius.

    A morphological closing that also fills the cavities it leaves.

    Walls with gaps of one and of three cells between them:

    >>> walls = np.broadcast_to(np.array([True, False, True, False, False, False, True]), (9, 9, 7))
    >>> without_gaps(walls, 1)[4, 4].astype(int).tolist()
    [1, 1, 1, 0, 0, 0, 1]
    """
    if radius_cells == 0:
        return solid
    # Padded for the dilated object, so that space beyond the box counts as empty.
    padded = np.pad(solid, 2 * radius_cells)
    swollen = _within(padded, radius_cells)
    inner = (slice(2 * radius_cells, -2 * radius_cells),) * 3
    closed = ~_within(~swollen, radius_cells)[inner]
    return without_cavities(closed)


def bridges(filled: Bool[np.ndarray, "x y z"], solid: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Parts of `filled` that touch more than one part of `solid`.

    >>> solid = np.array([[[True, False, True, False]]])
    >>> bridges(~solid, solid).tolist()
    [[[False, True, False, False]]]
    """
    (fills, count), (parts, num_parts) = labelled(filled), labelled(solid)
    touches = np.zeros((count + 1, num_parts + 1), bool)
    for axis in range(3):
        lower, upper = [slice(None)] * 3, [slice(None)] * 3
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        for one, other in ((lower, upper), (upper, lower)):
            touches[fills[tuple(one)], parts[tuple(other)]] = True
    touches[0] = touches[:, 0] = False
    return (touches.sum(1) > 1)[fills]


def hidden(solid: Bool[np.ndarray, "x y z"], share: float) -> Bool[np.ndarray, "x y z"]:
    """Empty cells with a clear view in less than this share of NUM_DIRECTIONS.

    Cells on a line of sight right through the object are not hidden, however narrow. Space beyond the box is empty.

    >>> shell = np.ones((3, 3, 3), bool)
    >>> shell[1, 1, 1] = False
    >>> int(hidden(shell, 0.03).sum())
    1
    """
    clear, is_through = np.zeros(solid.shape, np.int16), np.zeros(solid.shape, bool)
    for axis in range(3):
        empty = np.ascontiguousarray(np.moveaxis(~solid, axis, 0))
        counts, through = np.zeros(empty.shape, np.int16), np.zeros(empty.shape, bool)
        ways = np.empty((2, len(empty), empty.shape[1] + 2, empty.shape[2] + 2), bool)
        for slopes in product(SLOPES, SLOPES):
            up, down = _clear_ways(empty, slopes, ways)
            counts += up.view(np.int8) + down.view(np.int8)
            through |= up & down
        clear += np.moveaxis(counts, 0, axis)
        is_through |= np.moveaxis(through, 0, axis)
    return ~solid & ~is_through & (clear < share * NUM_DIRECTIONS)


def _clear_ways(
    empty: Bool[np.ndarray, "x y z"], slopes: tuple[float, float], ways: Bool[np.ndarray, "2 x y2 z2"]
) -> Bool[np.ndarray, "2 x y z"]:
    """Empty cells from which the line with these `slopes` per slab is clear to the first slab, and to the last.

    Both are written to `ways`, with a border of one clear cell for lines that leave at the sides: no line moves by
    more than one cell per slab.
    """
    places = np.rint(np.outer(np.arange(len(empty)), slopes)).astype(int)
    _, height, width = empty.shape
    ways[:] = True
    inner = ways[:, :, 1:-1, 1:-1]
    inner[:] = empty
    for way, here, order in zip(ways, inner, (1, -1), strict=True):
        slabs = range(len(empty))[::order]
        for before, slab in pairwise(slabs):
            row, column = 1 + places[before] - places[slab]
            here[slab] &= way[before, row : row + height, column : column + width]
    return inner


def _within(solid: Bool[np.ndarray, "x y z"], radius_cells: int) -> Bool[np.ndarray, "x y z"]:
    """Cells at most `radius_cells` from a solid one, measured between their centres.

    The squared distance is minimized along one axis after the other. For small radii a few shifted copies of bytes
    need a fraction of the time and memory of a distance transform.
    """
    dtype = np.uint8 if radius_cells**2 < 255 else np.uint16
    far = np.iinfo(dtype).max
    squares = np.where(solid, dtype(0), dtype(far))
    for axis in range(3):
        nearest = squares.copy()
        # Saturating, so that sums of far values stay far.
        for shift in range(1, radius_cells + 1):
            raised = np.minimum(squares, far - shift**2) + dtype(shift**2)
            to, of = [slice(None)] * 3, [slice(None)] * 3
            to[axis], of[axis] = slice(shift, None), slice(None, -shift)
            for target, source in ((to, of), (of, to)):
                view = nearest[tuple(target)]
                np.minimum(view, raised[tuple(source)], out=view)
        squares = nearest
    return squares <= radius_cells**2
