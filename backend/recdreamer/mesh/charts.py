"""Cuts a surface for unwrapping: connected patches of faces that flatten well.

xatlas cuts well, but its time grows with the square of a chart's faces: 39 s for 100,000 faces. The borders of a
chart depend only on the coarse shape, so xatlas cuts a decimated copy, and the fine faces inherit its charts.
"""

from __future__ import annotations

import fast_simplification
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.spatial import KDTree

from recdreamer.mesh.mesh import Mesh, face_neighbours, face_normals
from recdreamer.mesh.xatlas_process import GivenUp, ask_xatlas
from recdreamer.report import Tick, no_tick

PROXY_FACES = 4000  # takes xatlas a third of a second
NORMAL_WEIGHT = 0.05  # of the mesh's size: keeps the two sides of a thin wall apart
SMOOTHING_ROUNDS = 8
MERGING_ROUNDS = 4
SMALLEST_SHARE = 5e-4  # smaller patches are merged into a neighbour


def segment(mesh: Mesh, tick: Tick = no_tick) -> Int[np.ndarray, "faces"]:
    """Patch number of each face, from 0; every patch is connected across edges."""
    neighbours = face_neighbours(mesh)
    labels = _majority(_proxy_labels(mesh, tick), neighbours)
    for _ in range(MERGING_ROUNDS):
        patches = connected_patches(labels, neighbours)
        labels = _without_small_patches(patches, neighbours)
        if np.array_equal(labels, patches):
            break
    return connected_patches(labels, neighbours)


def connected_patches(
    labels: Int[np.ndarray, "faces"], neighbours: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "faces"]:
    """Labels split into connected patches, numbered from 0.

    Three faces in a row; the first and the last have one label, but do not touch:

    >>> neighbours = np.array([[1, -1, -1], [0, 2, -1], [1, -1, -1]])
    >>> connected_patches(np.array([0, 1, 0]), neighbours).tolist()
    [0, 1, 2]
    """
    face, side = np.nonzero((neighbours >= 0) & (labels[neighbours] == labels[:, None]))
    links = (np.ones(len(face), bool), (face, neighbours[face, side]))
    graph = sparse.coo_matrix(links, (len(labels), len(labels)))
    return sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def _proxy_labels(mesh: Mesh, tick: Tick) -> Int[np.ndarray, "faces"]:
    """Chart of the nearest face, by position and normal, of a decimated copy that xatlas has cut.

    One chart for all, which is halved until its pieces are flat, where xatlas gives up.
    """
    verts = ((mesh.verts - mesh.verts.mean(0)) / max(np.ptp(mesh.verts, axis=0).max(), 1e-20)).astype(
        np.float32
    )
    mesh = Mesh(verts, mesh.faces)
    proxy = mesh
    if len(mesh.faces) > PROXY_FACES:
        simplified = fast_simplification.simplify(verts, mesh.faces, target_count=PROXY_FACES, agg=5)
        proxy = Mesh(simplified[0].astype(np.float32), simplified[1].astype(np.int32))
    if len(proxy.faces) == 0:
        return np.zeros(len(mesh.faces), np.int64)
    # Scaled up, because xatlas takes small triangles for degenerate.
    task = {"verts": proxy.verts * np.float32(10), "faces": proxy.faces.astype(np.uint32)}
    try:
        charts = ask_xatlas("cut", task, tick)["charts"]
    except GivenUp:
        return np.zeros(len(mesh.faces), np.int64)
    if proxy is mesh:
        return charts
    return charts[KDTree(_places(proxy)).query(_places(mesh))[1]]


def _places(mesh: Mesh) -> Float[np.ndarray, "faces 6"]:
    return np.concatenate([mesh.verts[mesh.faces].mean(1), NORMAL_WEIGHT * face_normals(mesh)], axis=1)


def _majority(
    labels: Int[np.ndarray, "faces"], neighbours: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "faces"]:
    """Labels with straighter borders: a face with two neighbours of the same other label adopts it."""
    for _ in range(SMOOTHING_ROUNDS):
        a, b, c = np.where(neighbours >= 0, labels[neighbours], labels[:, None]).T
        labels = np.where((a == b) | (a == c), a, np.where(b == c, b, labels))
    return labels


def _without_small_patches(
    patches: Int[np.ndarray, "faces"], neighbours: Int[np.ndarray, "faces 3"]
) -> Int[np.ndarray, "faces"]:
    """Patches with small ones merged into the neighbour that shares the most edges."""
    sizes = np.bincount(patches)
    is_small = sizes < max(8.0, SMALLEST_SHARE * len(patches))
    face, side = np.nonzero(neighbours >= 0)
    own, other = patches[face], patches[neighbours[face, side]]
    at_border = (own != other) & is_small[own]
    pairs, shared = np.unique(np.stack([own, other], 1)[at_border], axis=0, return_counts=True)
    new = np.arange(len(sizes))
    order = np.lexsort((sizes[pairs[:, 1]], shared))  # the longest border wins, then the largest patch
    new[pairs[order, 0]] = pairs[order, 1]
    return new[patches]
