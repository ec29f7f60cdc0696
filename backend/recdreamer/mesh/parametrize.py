"""Flattens patches of a surface: conformally first, then as close to isometric as their shape allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.linalg import splu

from recdreamer.mesh.charts import connected_patches, segment
from recdreamer.mesh.mesh import Mesh, double_areas, face_neighbours
from recdreamer.report import Tick, no_tick

ARAP_STEPS = 8
WORST_STRETCH = 1.25  # L2 stretch above which a chart is cut in two
MANY_LOOSE = 512  # faces, which are laid flat all at once
SWEEP = 256  # segments tested for crossings at once
NEGLIGIBLE_AREA = 1e-6  # of the mean face; the winding of smaller faces is a rounding error


@dataclass(frozen=True)
class Chart:
    """A flattened patch."""

    index: Int[np.ndarray, "chart_faces"]
    """Indices of its faces in the mesh."""
    faces: Int[np.ndarray, "chart_faces 3"]
    """Corners of the faces, as indices of the chart's own vertices."""
    uvs: Float[np.ndarray, "chart_verts 2"]
    """Flat positions in the units of the mesh, with the patch's area; counter-clockwise."""


def make_charts(mesh: Mesh, tick: Tick = no_tick) -> tuple[list[Chart], Int[np.ndarray, "loose"]]:
    """Charts that cover every face of the mesh once and do not overlap themselves; and the faces left over, if there are
    more than MANY_LOOSE that have no neighbour in their patch: each is flat as it is.

    A patch that does not flatten without folds and with little stretch is cut in two, recursively.
    """
    patches = segment(mesh, tick)
    order, sizes = np.argsort(patches, kind="stable"), np.bincount(patches)
    loose = np.flatnonzero(sizes[patches] == 1)
    if len(loose) <= MANY_LOOSE:
        loose = loose[:0]
    else:
        order, sizes = order[sizes[patches[order]] > 1], sizes[sizes > 1]
    waiting = np.split(order, np.cumsum(sizes)[:-1]) if len(order) else []
    charts: list[Chart] = []
    while waiting:
        tick()
        index = waiting.pop()
        used, local = np.unique(mesh.faces[index], return_inverse=True)
        patch = Mesh(mesh.verts[used].astype(np.float64), local.reshape(-1, 3).astype(np.int32))
        uvs = flatten_or_none(patch)
        if uvs is None:
            waiting.extend(index[half] for half in _halves(patch))
        else:
            charts.append(Chart(index, patch.faces, uvs))
    return charts, loose


def flatten_or_none(patch: Mesh) -> Float[np.ndarray, "verts 2"] | None:
    """Flat positions of a connected patch, with the same area; None if it folds or stretches too much.

    Least squares conformal maps (Lévy et al. 2002), then as rigid as possible (Liu et al. 2008); the first is the
    fallback if the second has folds.
    """
    rest = flat_faces(patch)
    area = double_areas(rest)
    if len(patch.faces) == 1:
        uvs = np.zeros((len(patch.verts), 2))
        uvs[patch.faces[0]] = rest[0]
        return uvs
    conformal = _conformal(patch, rest, area)
    for uvs in (_as_rigid_as_possible(patch, rest, conformal), conformal):
        flat = double_areas(uvs[patch.faces])
        if not np.isfinite(uvs).all() or flat.sum() <= 0:
            continue
        uvs = uvs * np.sqrt(area.sum() / flat.sum())
        flat = flat * (area.sum() / flat.sum())
        if (flat <= 0)[area > NEGLIGIBLE_AREA * area.mean()].any():
            continue
        # The L2 stretch of Sander et al. 2001: root mean square stretch of flat unit vectors over the surface.
        squares = np.square(jacobians(uvs[patch.faces], rest)).sum((1, 2)) / 2
        stretch = np.sqrt((squares * area).sum() / area.sum())
        if stretch <= WORST_STRETCH and not _overlaps(uvs, patch.faces):
            return uvs
    return None


def flat_faces(patch: Mesh) -> Float[np.ndarray, "faces 3 2"]:
    """Each triangle laid into the plane separately: first corner at 0, second on the x axis.

    >>> patch = Mesh(np.array([[0.0, 0, 0], [0, 3, 0], [0, 0, 4]]), np.array([[0, 1, 2]]))
    >>> flat_faces(patch).tolist()
    [[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]]
    """
    a, b, c = (patch.verts[patch.faces[:, corner]] for corner in range(3))
    length = np.maximum(np.linalg.norm(b - a, axis=1), 1e-20)
    x = np.einsum("ij,ij->i", c - a, b - a) / length
    y = np.linalg.norm(np.cross(b - a, c - a), axis=1) / length
    zero = np.zeros_like(x)
    return np.stack([zero, zero, length, zero, x, y], 1).reshape(-1, 3, 2)


def jacobians(
    source: Float[np.ndarray, "faces 3 2"], target: Float[np.ndarray, "faces 3 2"]
) -> Float[np.ndarray, "faces 2 2"]:
    """Linear map of each triangle from `source` to `target`; zero where the source has no area.

    >>> triangle = np.array([[[0.0, 0], [1, 0], [0, 1]]])
    >>> jacobians(triangle, triangle * [2, 3]).tolist()
    [[[2.0, 0.0], [0.0, 3.0]]]
    """
    double_area = double_areas(source)
    safe = np.where(np.abs(double_area) < 1e-30, np.inf, double_area)[:, None, None]
    b, c = source[:, 1] - source[:, 0], source[:, 2] - source[:, 0]
    inverse = np.stack([c[:, 1], -c[:, 0], -b[:, 1], b[:, 0]], 1).reshape(-1, 2, 2) / safe
    sides = np.stack([target[:, 1] - target[:, 0], target[:, 2] - target[:, 0]], -1)
    return sides @ inverse


def _conformal(
    patch: Mesh, rest: Float[np.ndarray, "faces 3 2"], area: Float[np.ndarray, "faces"]
) -> Float[np.ndarray, "verts 2"]:
    num_faces, num_verts = len(patch.faces), len(patch.verts)
    # Lévy et al., Eq. 4, in real and imaginary parts: the sum of (opposite edge) x (flat position) vanishes.
    opposite = np.roll(rest, -2, axis=1) - np.roll(rest, -1, axis=1)
    opposite = opposite / np.sqrt(np.maximum(area, NEGLIGIBLE_AREA * area.mean()))[:, None, None]
    real, imaginary = opposite[..., 0].ravel(), opposite[..., 1].ravel()
    row, column = np.repeat(np.arange(num_faces), 3), patch.faces.ravel()
    rows = np.concatenate([row, row, row + num_faces, row + num_faces])
    columns = np.concatenate([column, column + num_verts, column, column + num_verts])
    values = np.concatenate([real, -imaginary, imaginary, real])
    system = sparse.csr_matrix((values, (rows, columns)), (2 * num_faces, 2 * num_verts))
    # Two distant vertices are pinned, because otherwise all vertices could collapse to one point.
    axis = np.ptp(patch.verts, axis=0).argmax()
    first, last = patch.verts[:, axis].argmin(), patch.verts[:, axis].argmax()
    distance = np.linalg.norm(patch.verts[last] - patch.verts[first])
    pinned = np.array([first, last, first + num_verts, last + num_verts])
    free = np.setdiff1d(np.arange(2 * num_verts), pinned)
    flat = np.zeros(2 * num_verts)
    flat[last] = distance
    matrix = system[:, free]
    normal = (matrix.T @ matrix + 1e-12 * sparse.eye_array(len(free))).tocsc()
    flat[free] = splu(normal).solve(-(matrix.T @ (system[:, pinned] @ flat[pinned])))
    return flat.reshape(2, num_verts).T


def _as_rigid_as_possible(
    patch: Mesh, rest: Float[np.ndarray, "faces 3 2"], uvs: Float[np.ndarray, "verts 2"]
) -> Float[np.ndarray, "verts 2"]:
    """Local-global iteration: rotate every triangle, then stitch the rotated triangles together."""
    edges = np.roll(rest, -2, axis=1) - np.roll(rest, -1, axis=1)  # edge i lies opposite corner i
    before, after = np.roll(rest, -1, axis=1) - rest, np.roll(rest, -2, axis=1) - rest
    sine = np.maximum(double_areas(rest), 1e-20)[:, None]
    # Obtuse corners would have negative weights, with which the iteration may diverge.
    weights = np.clip((before * after).sum(-1) / sine, 1e-3, 1e3)
    tails, heads = np.roll(patch.faces, -1, axis=1), np.roll(patch.faces, -2, axis=1)
    shape = (len(patch.verts), len(patch.verts))
    half = sparse.coo_matrix((weights.ravel(), (tails.ravel(), heads.ravel())), shape)
    adjacency = (half + half.T).tocsr()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    solver = splu((sparse.diags_array(degree * (1 + 1e-10)) - adjacency).tocsc())
    for _ in range(ARAP_STEPS):
        flat = uvs[heads] - uvs[tails]
        spread = np.einsum("fc,fci,fcj->fij", weights, flat, edges)
        angle = np.arctan2(spread[:, 1, 0] - spread[:, 0, 1], spread[:, 0, 0] + spread[:, 1, 1])
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.stack([cosine, -sine, sine, cosine], 1).reshape(-1, 2, 2)
        pull = np.einsum("fij,fcj->fci", turn, edges) * weights[..., None]
        forces = [
            np.bincount(heads.ravel(), pull[..., axis].ravel(), minlength=len(uvs))
            - np.bincount(tails.ravel(), pull[..., axis].ravel(), minlength=len(uvs))
            for axis in range(2)
        ]
        uvs = solver.solve(np.stack(forces, 1))
        uvs = uvs - uvs.mean(0)
    return uvs


def _overlaps(uvs: Float[np.ndarray, "verts 2"], faces: Int[np.ndarray, "faces 3"]) -> bool:
    """True if a flat patch without folded faces still covers a point twice.

    It does not if it winds once around every inner vertex and its border does not cross itself.
    """
    border = _border(faces)
    corners = uvs[faces]
    angles = np.zeros(len(uvs))
    for corner in range(3):
        to_next = corners[:, (corner + 1) % 3] - corners[:, corner]
        to_last = corners[:, (corner + 2) % 3] - corners[:, corner]
        cross = to_next[:, 0] * to_last[:, 1] - to_next[:, 1] * to_last[:, 0]
        turned = np.arctan2(cross, (to_next * to_last).sum(1))
        angles += np.bincount(faces[:, corner], turned, minlength=len(uvs))
    is_inner = np.ones(len(uvs), bool)
    is_inner[border] = False
    if len(border) == 0 or (angles[is_inner] > 3 * np.pi).any():
        return True
    return _crosses_itself(uvs[border], border)


def _border(faces: Int[np.ndarray, "faces 3"]) -> Int[np.ndarray, "edges 2"]:
    """Directed edges, as vertex indices, that belong to only one face."""
    face, side = np.nonzero(face_neighbours(Mesh(np.zeros((faces.max() + 1, 3)), faces)) < 0)
    return np.stack([faces[face, side], faces[face, (side + 1) % 3]], 1)


def _crosses_itself(ends: Float[np.ndarray, "edges 2 2"], names: Int[np.ndarray, "edges 2"]) -> bool:
    """True if two of the segments cross, not counting those that share an end."""
    starts, sides = ends[:, 0], ends[:, 1] - ends[:, 0]
    lo, hi = ends.min(1), ends.max(1)
    order = np.argsort(lo[:, 0])
    starts, sides, lo, hi, names = starts[order], sides[order], lo[order], hi[order], names[order]
    # Sweep along x: a segment can only cross those that begin before it ends.
    counts = np.searchsorted(lo[:, 0], hi[:, 0], side="right") - np.arange(len(lo)) - 1
    for begin in range(0, len(lo), SWEEP):
        group = counts[begin : begin + SWEEP]
        one = np.repeat(np.arange(begin, begin + len(group)), group)
        two = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(group) - group, group)
        near = (lo[one, 1] <= hi[two, 1]) & (lo[two, 1] <= hi[one, 1])
        near &= (names[one][:, :, None] != names[two][:, None, :]).all((1, 2))
        one, two = one[near], two[near]
        if (_parts(starts, sides, one, two) & _parts(starts, sides, two, one)).any():
            return True
    return False


def _parts(starts, sides, one, two) -> Bool[np.ndarray, "pairs"]:
    """Whether the ends of segments `two` lie on different sides of the lines of segments `one`."""
    to_start = starts[two] - starts[one]
    to_end = to_start + sides[two]
    line = sides[one]
    before = line[:, 0] * to_start[:, 1] - line[:, 1] * to_start[:, 0]
    after = line[:, 0] * to_end[:, 1] - line[:, 1] * to_end[:, 0]
    return before * after < 0


def _halves(patch: Mesh) -> list[Int[np.ndarray, "half"]]:
    """Faces of a patch cut across its longest side, as connected pieces."""
    centres = patch.verts[patch.faces].mean(1)
    along = centres[:, np.ptp(centres, axis=0).argmax()]
    labels = np.zeros(len(along), np.int64)
    labels[np.argsort(along, kind="stable")[len(along) // 2 :]] = 1
    pieces = connected_patches(labels, face_neighbours(patch))
    return [np.flatnonzero(pieces == number) for number in range(pieces.max() + 1)]
