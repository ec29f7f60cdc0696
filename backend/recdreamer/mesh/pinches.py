"""Repairs pinched meshes by separating the places where a closed surface touches itself.

An edge collapse that closes a tunnel or flattens a thin wall leaves edges with four faces. The surface is
still a cycle (every directed edge is matched by as many opposite ones), so faces can be paired across
each edge such that every vertex and edge belongs to one sheet only ("cutting", Guéziec et al. 2001).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from recdreamer.mesh.mesh import Mesh


def separate_pinches(mesh: Mesh) -> Mesh:
    """Manifold mesh with the same faces, except double walls without thickness, which are removed.

    The input must be a cycle without boundary. Vertices are duplicated where sheets touch.
    """
    faces = _without_double_walls(mesh.faces)
    tails = faces.ravel().astype(np.int64)
    heads = np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    pairs = _paired_half_edges(tails, heads, faces, mesh.verts)
    # Corners of the faces on both sides of an edge are one vertex if they are at the same end of it.
    # Half-edge i runs from corner i to the next corner of the same face.
    arrival = (np.arange(len(tails)) // 3) * 3 + (np.arange(len(tails)) + 1) % 3
    ends = np.concatenate(
        [
            np.stack([pairs[:, 0], arrival[pairs[:, 1]]], 1),
            np.stack([arrival[pairs[:, 0]], pairs[:, 1]], 1),
        ]
    )
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (len(tails), len(tails)))
    num_verts, vertex_of_corner = sparse.csgraph.connected_components(graph, directed=False)
    verts = np.zeros((num_verts, 3), mesh.verts.dtype)
    verts[vertex_of_corner] = mesh.verts[tails]
    return _without_parallel_edges(verts, vertex_of_corner.reshape(-1, 3).astype(np.int32), pairs)


def _without_double_walls(faces: Int[np.ndarray, "faces 3"]) -> Int[np.ndarray, "kept 3"]:
    """Faces without degenerate ones and without pairs of the same three vertices with opposite windings."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # Sorting three vertices takes an even number of swaps for one winding, an odd one for the other.
    is_even = np.linalg.det(np.eye(3)[np.argsort(faces, axis=1)]) > 0
    _, group = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True)
    surplus = np.bincount(group, np.where(is_even, 1, -1)).astype(int)
    keep = np.zeros(len(faces), bool)
    for winding, wanted in ((is_even, surplus), (~is_even, -surplus)):
        index = np.flatnonzero(winding)
        order = index[np.argsort(group[index], kind="stable")]
        starts = np.searchsorted(group[order], group[order])
        keep[order] = np.arange(len(order)) - starts < wanted[group[order]]
    return faces[keep]


def _paired_half_edges(
    tails: Int[np.ndarray, "half_edges"],
    heads: Int[np.ndarray, "half_edges"],
    faces: Int[np.ndarray, "faces 3"],
    verts: Float[np.ndarray, "verts 3"],
) -> Int[np.ndarray, "edges 2"]:
    """Each half-edge with the opposite one across its edge: the two sides of the same solid wedge."""
    is_forward = tails < heads
    keys = np.minimum(tails, heads) * (len(verts) + 1) + np.maximum(tails, heads)
    forward, backward = np.flatnonzero(is_forward), np.flatnonzero(~is_forward)
    forward = forward[np.argsort(keys[forward], kind="stable")]
    backward = backward[np.argsort(keys[backward], kind="stable")]
    if not np.array_equal(keys[forward], keys[backward]):
        raise ValueError(
            "The mesh has a boundary or faces of mixed winding. Only a closed mesh can be repaired."
        )
    _, starts, counts = np.unique(keys[forward], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        around = slice(start, start + count)
        backward[around] = _wedge_partners(forward[around], backward[around], tails, heads, faces, verts)
    return np.stack([forward, backward], 1)


def _wedge_partners(forward, backward, tails, heads, faces, verts) -> Int[np.ndarray, "count"]:
    """For each forward half-edge of a pinched edge, the backward one that bounds the same solid wedge."""
    start, end = verts[tails[forward[0]]], verts[heads[forward[0]]]
    axis = (end - start) / max(np.linalg.norm(end - start), 1e-20)
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    other_side = np.cross(axis, side)
    half_edges = np.concatenate([forward, backward])
    apex = verts[faces[half_edges // 3, (half_edges + 2) % 3]] - start
    angles = np.arctan2(apex @ other_side, apex @ side)
    # Going backwards around the edge, forward faces enter the solid and backward faces leave it, like brackets.
    order = np.argsort(-angles, kind="stable")
    enters = order < len(forward)
    depth = np.cumsum(np.where(enters, 1, -1))
    order = np.roll(order, -(int(depth.argmin()) + 1))
    partner, open_faces = np.empty(len(forward), int), []
    for item in order:
        if item < len(forward):
            open_faces.append(item)
        else:
            partner[open_faces.pop()] = backward[item - len(forward)]
    return partner


def _without_parallel_edges(
    verts: Float[np.ndarray, "verts 3"], faces: Int[np.ndarray, "faces 3"], pairs: Int[np.ndarray, "edges 2"]
) -> Mesh:
    """Mesh in which two vertices share at most one edge: further edges get a vertex at their midpoint."""
    corners = faces.ravel().astype(np.int64)
    ends = np.sort(np.stack([corners[pairs[:, 0]], corners[pairs[:, 1]]], 1), axis=1)
    _, first = np.unique(ends, axis=0, return_index=True)
    extra = np.setdiff1d(np.arange(len(pairs)), first)
    # From half-edge to the vertex at its midpoint, shared by both sides of the edge.
    middle = {int(half): len(verts) + i for i, pair in enumerate(extra) for half in pairs[pair]}
    if not middle:
        return Mesh(verts, faces)
    points = (verts[ends[extra, 0]] + verts[ends[extra, 1]]) / 2
    split = np.unique(np.array(list(middle)) // 3)
    fans = []
    for face in split:
        ring = []
        for corner in range(3):
            ring.append(faces[face, corner])
            if 3 * face + corner in middle:
                ring.append(middle[3 * face + corner])
        # A fan from a midpoint has no triangle that is flat against a side of the old face.
        turn = next(i for i, vertex in enumerate(ring) if vertex >= len(verts))
        ring = ring[turn:] + ring[:turn]
        fans += [(ring[0], ring[i], ring[i + 1]) for i in range(1, len(ring) - 1)]
    faces = np.concatenate([np.delete(faces, split, axis=0), np.array(fans, np.int32)])
    return Mesh(np.concatenate([verts, points.astype(verts.dtype)]), faces)
