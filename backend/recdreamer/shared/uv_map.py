"""Whether a UV map can be painted, and which tile of it each face uses.

Numpy only, and shared with the add-on like protocol.py; what the worker would refuse is refused before a job is made.
"""

from __future__ import annotations

import numpy as np

from .safe_files import RequestError

FIRST_TILE, TILES_PER_ROW = 1001, 10
MAX_TILES = 64
"""Of a UV map; each has a texture of its own."""
EDGE = 1e-4
"""UVs this close beyond the border of their tile are rounding errors."""
SMALLEST = 1e-13
"""Twice the UV area below which a face has none: it would not get a texel of the largest texture."""
HARDLY_USED = 1e-4
"""Share of a tile below which its few faces have probably been left there by mistake."""
OVERLAPPING = 0.01
"""Share of the painted points above which overlapping islands are worth a word."""
GRID = 256
"""Points along a tile at which overlaps are counted."""
MARGIN = 1e-3
"""Distance from the edge of a face, in grid cells, within which a point is not inside."""
MAX_ROWS = 20_000_000
"""Of points that are compared with a face; beyond them only some of the faces are."""
CHUNK_ROWS = 1_000_000
REMEDY = "Unwrap the object again, or remove the UV map and a new one is made."


def bare_faces(uvs: np.ndarray) -> np.ndarray:
    """Which faces of UVs `faces 3 2` have none: NaN in all their corners.

    >>> bare_faces(np.stack([np.zeros((3, 2)), np.full((3, 2), np.nan)])).tolist()
    [False, True]
    """
    return np.asarray(np.isnan(uvs).all((1, 2)))


def tile_for_the_rest(uvs: np.ndarray) -> int:
    """UDIM number of the tile for the faces without UVs: the one after all that are in use.

    >>> tile_for_the_rest(np.array([[[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], [[np.nan] * 2] * 3]))
    1002
    """
    return int(tile_numbers(uvs[~bare_faces(uvs)]).max()) + 1


def tile_numbers(uvs: np.ndarray) -> np.ndarray:
    """UDIM number of each face's tile, from UVs `faces 3 2`: 1001 for [0, 1)^2, one more per column, ten per row.

    A face without area on the border of two tiles belongs to the one that has others. Raises RequestError if a face
    leaves its tile or lies where UDIM has no tile.

    >>> triangle = np.array([[[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]])
    >>> tile_numbers(np.concatenate([triangle, triangle + [1, 0], triangle + [0, 1]])).tolist()
    [1001, 1002, 1011]
    >>> tile_numbers(np.concatenate([triangle, np.ones((1, 3, 2))])).tolist()
    [1001, 1001]
    """
    if not np.isfinite(uvs).all():
        raise RequestError("The UV map has coordinates that are no numbers.", REMEDY)
    with np.errstate(over="ignore"):
        corner = np.floor(uvs.astype(np.float64).mean(1))
    corner = np.clip(corner, -(2.0**31), 2.0**31).astype(np.int64)
    corner = _beside_others(uvs, corner)
    low, high = corner.min(0), corner.max(0)
    if low.min() < 0 or high[0] >= TILES_PER_ROW:
        raise RequestError(
            f"The UVs reach from tile column {low[0]}, row {low[1]} to column {high[0]}, row {high[1]}; "
            f"UDIM has columns 0 to {TILES_PER_ROW - 1} and rows from 0.",
            "Move the islands there, or remove the UV map and a new one is made.",
        )
    local = uvs - corner[:, None]
    crossing = int((np.abs(local - 0.5) > 0.5 + EDGE).any((1, 2)).sum())
    if crossing:
        raise RequestError(
            f"{_faces(crossing)} cross{'es' if crossing == 1 else ''} the border of "
            f"{'its' if crossing == 1 else 'their'} UV tile.",
            "Move or scale the islands into the tiles, or remove the UV map and a new one is made.",
        )
    return FIRST_TILE + corner[:, 0] + TILES_PER_ROW * corner[:, 1]


def uv_areas(uvs: np.ndarray) -> np.ndarray:
    """Areas of the faces `faces 3 2` in units of a tile, never negative.

    >>> uv_areas(np.array([[[0.0, 0], [0, 1], [1, 0]]])).tolist()
    [0.5]
    """
    b, c = (uvs[:, corner].astype(np.float64) - uvs[:, 0] for corner in (1, 2))
    return np.abs(b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]) / 2


def check_uvs(uvs: np.ndarray, verts: np.ndarray, faces: np.ndarray) -> list[str]:
    """What the artist should know of a UV map `faces 3 2` that will be painted: one sentence each.

    Raises RequestError, with a sentence and its remedy, for a map that cannot be painted.
    """
    warnings, bare = [], bare_faces(uvs)
    if bare.any() and not bare.all():
        count, tile = int(bare.sum()), tile_for_the_rest(uvs)
        warnings.append(
            f"{_faces(count)} of {len(faces):,} {'has' if count == 1 else 'have'} no UVs. "
            f"{'It gets' if count == 1 else 'They get'} UV tile {tile}, with a texture of its own; all others keep "
            "theirs."
        )
        uvs, faces = uvs[~bare], faces[~bare]
    tiles = tile_numbers(uvs)
    areas = uv_areas(uvs)
    is_painted = 2 * areas >= SMALLEST
    if not is_painted.any():
        raise RequestError("The UV map has no area: all its faces are points or lines.", REMEDY)
    used, counts = np.unique(tiles, return_counts=True)
    num_tiles = len(used) + bool(bare.any())
    if num_tiles > MAX_TILES:
        raise RequestError(
            f"The UV map uses {num_tiles} tiles, each with a texture of its own; {MAX_TILES} are the most.",
            "Move the islands into fewer tiles, or remove the UV map and a new one is made.",
        )
    for tile, count in zip(used.tolist(), counts.tolist(), strict=True):
        area = float(areas[(tiles == tile) & is_painted].sum())
        where = f"{_faces(count)} {'lies' if count == 1 else 'lie'} in UV tile {tile}"
        if area == 0:
            raise RequestError(
                f"{where}, without any area there.",
                "Move them to the other islands, or remove the UV map and a new one is made.",
            )
        if area < HARDLY_USED and len(used) > 1:
            warnings.append(
                f"{where} and hardly {'uses' if count == 1 else 'use'} it: it gets a texture of its own."
            )
    a, b, c = (verts[faces[:, corner]].astype(np.float64) for corner in range(3))
    is_surface = np.cross(b - a, c - a).any(1)
    flat = int((is_surface & ~is_painted).sum())
    if flat:
        warnings.append(
            f"{_faces(flat)} of {len(faces):,} {'has' if flat == 1 else 'have'} no area in the UV map: they show no "
            "more than a point of the texture."
        )
    share = overlap(uvs[is_painted], tiles[is_painted])
    if share > OVERLAPPING:
        warnings.append(
            f"{share:.0%} of the UV map lies under other parts of it: parts that overlap share their colors. Unwrap "
            "the object again if they should not."
        )
    return warnings


def slots_apart(uvs: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """UVs `faces 3 2` in which no two material slots share points; `slots` has the slot of each face.

    In most files each material has pictures of its own, so that its UVs may lie where those of another do. A job paints
    one picture for each tile: slots that overlap earlier ones move up by whole tiles. `uvs` itself if none does.

    >>> square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1.0]]])
    >>> both, slots = np.concatenate([square, square]), np.array([0, 0, 1, 1])
    >>> tile_numbers(slots_apart(both, slots)).tolist()
    [1001, 1001, 1011, 1011]
    >>> slots_apart(both, np.zeros(4, int)) is both
    True

    Raises RequestError for UVs that tile_numbers refuses.
    """
    used = np.flatnonzero(~bare_faces(uvs))
    used = used[np.argsort(slots[used], kind="stable")]  # Those of a slot follow each other.
    names, begins = np.unique(slots[used], return_index=True)
    if len(names) < 2:
        return uvs
    sorted_uvs = uvs[used]
    tiles = tile_numbers(sorted_uvs)
    kinds = np.unique(tiles)
    if len(kinds) > MAX_TILES:
        return uvs  # Refused by check_uvs.
    rows = int((kinds.max() - FIRST_TILE) // TILES_PER_ROW) + 1
    is_painted = 2 * uv_areas(sorted_uvs) >= SMALLEST
    layers: list[np.ndarray] = []
    layer_of_face = np.zeros(len(uvs), np.int64)
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(used)], strict=True):
        painted = begin + np.flatnonzero(is_painted[begin:end])
        own = np.unique(tiles[painted])
        covered, in_layer = _hits(sorted_uvs[painted], tiles[painted], own) > 0, np.searchsorted(kinds, own)
        most = OVERLAPPING * np.count_nonzero(covered)
        place = next(
            (i for i, layer in enumerate(layers) if np.count_nonzero(layer[in_layer] & covered) <= most), None
        )
        if place is None:
            if (len(layers) + 1) * len(kinds) > MAX_TILES:
                raise RequestError(
                    f"The UVs of {len(names):,} materials lie upon each other, and with textures of their own they would "
                    f"need more than {MAX_TILES} UV tiles.",
                    "Unwrap the object again with all materials together, or join some of them.",
                )
            place = len(layers)
            layers.append(np.zeros((len(kinds), GRID, GRID), bool))
        layers[place][in_layer] |= covered
        layer_of_face[used[begin:end]] = place
    if len(layers) == 1:
        return uvs
    moved = uvs.copy()
    moved[..., 1] += (rows * layer_of_face).astype(uvs.dtype)[:, None]
    return moved


def overlap(uvs: np.ndarray, tiles: np.ndarray) -> float:
    """Share of the points covered by faces `faces 3 2` that more than one covers, on a grid in each tile.

    The lower half of a tile, and a triangle upon half of that:

    >>> square = np.array([[[0, 0], [1, 0], [1, 0.5]], [[0, 0], [1, 0.5], [0, 0.5]]])
    >>> upon = np.array([[[0, 0], [1, 0], [1, 0.5]]])
    >>> round(overlap(np.concatenate([square, upon]), np.array([1001] * 3)), 1)
    0.5
    >>> overlap(square, np.array([1001] * 2))
    0.0
    """
    hits = _hits(uvs, tiles, np.unique(tiles))
    covered = int(np.count_nonzero(hits))
    return int(np.count_nonzero(hits > 1)) / covered if covered else 0.0


def rows_of_grid(uvs: np.ndarray, num_slots: int = 1) -> int:
    """How many rows of the grid are looked at to check UVs `faces 3 2`: what that takes.

    Those that the faces cross, and, where materials may overlap, at most those of all their tiles.

    >>> half = np.array([[[0, 0], [1, 0], [1, 0.5]], [[0, 0], [1, 0.5], [0, 0.5]]])
    >>> rows_of_grid(half), rows_of_grid(half, num_slots=2)
    (256, 768)
    """
    uvs = uvs[np.isfinite(uvs).all((1, 2))]
    low, high = uvs[..., 1].min(1), uvs[..., 1].max(1)
    rows = GRID * float(np.minimum(high - low, 1.0).sum())
    if num_slots > 1 and len(uvs):
        tiles = np.unique(
            np.floor(uvs[:, 0, 0].clip(0, TILES_PER_ROW)) + TILES_PER_ROW * np.floor(uvs[:, 0, 1])
        )
        rows += GRID * num_slots * min(len(tiles), MAX_TILES)
    return int(rows)


def _hits(uvs: np.ndarray, tiles: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """How many of the faces `faces 3 2` cover each point of a grid `kinds GRID GRID` in the tiles `kinds`."""
    rows, columns = np.divmod(tiles - FIRST_TILE, TILES_PER_ROW)
    # Grid points lie at odd places, so that few edges run exactly through them.
    corners = (uvs.astype(np.float64) - np.stack([columns, rows], 1)[:, None]) * GRID - 0.4871
    low = np.clip(np.ceil(corners.min(1)), 0, GRID).astype(np.int64)
    high = np.clip(np.floor(corners.max(1)), -1, GRID - 1).astype(np.int64)
    num_rows = np.where(high[:, 0] >= low[:, 0], np.maximum(high[:, 1] - low[:, 1] + 1, 0), 0)
    chosen = np.flatnonzero(num_rows)
    if num_rows.sum() > MAX_ROWS:
        chosen = np.random.default_rng(0).permutation(chosen)
        chosen = chosen[: max(int(np.searchsorted(np.cumsum(num_rows[chosen]), MAX_ROWS)), 2)]
    tile = np.searchsorted(kinds, tiles)
    # What a face adds from its first point in a row on, and takes away behind its last.
    changes = np.zeros((len(kinds), GRID, GRID + 1), np.int32)
    ends = np.cumsum(num_rows[chosen])
    for begin in range(0, int(ends[-1]) if len(ends) else 0, CHUNK_ROWS):
        number = np.arange(begin, min(begin + CHUNK_ROWS, int(ends[-1])))
        place = np.searchsorted(ends, number, side="right")
        face = chosen[place]
        y = low[face, 1] + number - (ends - num_rows[chosen])[place]
        first, last = _span(corners[face], y)
        first, last = np.maximum(first, low[face, 0]), np.minimum(last, high[face, 0])
        is_hit = first <= last
        face, y, first, last = face[is_hit], y[is_hit], first[is_hit], last[is_hit]
        np.add.at(changes, (tile[face], y, first), 1)
        np.add.at(changes, (tile[face], y, last + 1), -1)
    return np.cumsum(changes, 2, dtype=np.int32)[..., :GRID]


def _span(corners: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last whole x of the row y that lie strictly inside of triangles `faces 3 2`; first > last for none.

    A common edge of two belongs to neither.
    """
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    turn = np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    low, high = np.full(len(y), -1.0), np.full(len(y), float(GRID))
    for corner in range(3):
        (ax, ay), (bx, by) = corners[:, corner].T, corners[:, (corner + 1) % 3].T
        length = np.maximum(np.hypot(bx - ax, by - ay), 1e-300)
        # The distance from the edge is at_zero + slope * x, positive inside.
        slope = -turn * (by - ay) / length
        at_zero = turn * (bx - ax) * (y - ay) / length - slope * ax
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = (MARGIN - at_zero) / slope
        low = np.where(slope > 0, np.maximum(low, bound), low)
        high = np.where(slope < 0, np.minimum(high, bound), high)
        high = np.where((slope == 0) & (at_zero <= MARGIN), -1.0, high)
    return np.floor(low).astype(np.int64) + 1, np.ceil(high).astype(np.int64) - 1


def _beside_others(uvs: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Tiles, with faces on the border of two moved to the lower one if only that has faces with an area."""
    is_flat = 2 * uv_areas(uvs) < SMALLEST
    if not is_flat.any() or is_flat.all():
        return corner
    painted = {tuple(tile) for tile in np.unique(corner[~is_flat], axis=0).tolist()}
    corner, flat = corner.copy(), np.flatnonzero(is_flat)
    at_border = np.logical_and.reduce(np.abs(uvs[flat] - corner[flat][:, None]) <= EDGE, axis=1)
    touches = np.logical_or.reduce(at_border, axis=1)
    flat, at_border = flat[touches], at_border[touches]
    kinds, kind = np.unique(np.concatenate([corner[flat], at_border], 1), axis=0, return_inverse=True)
    best = kinds[:, :2].copy()
    for index, (column, row, is_left, is_low) in enumerate(kinds.tolist()):
        places = [(column - x, row - y) for x in range(is_left + 1) for y in range(is_low + 1)]
        best[index] = next((place for place in places if place in painted), (column, row))
    corner[flat] = best[kind.reshape(-1)]
    return corner


def _faces(count: int) -> str:
    return f"{count:,} {'face' if count == 1 else 'faces'}"
