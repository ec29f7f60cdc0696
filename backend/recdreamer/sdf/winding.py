"""Winds any triangles consistently and outward, as far as there is an outside."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recdreamer.shared.doubled_faces import solid_faces


def facing_outward(
    verts: Float[np.ndarray, "verts 3"], faces: Int[np.ndarray, "faces 3"]
) -> tuple[Float[np.ndarray, "welded 3"], Int[np.ndarray, "kept 3"], Int[np.ndarray, "kept"]]:
    """Welded vertices, the faces with an area, wound outward, and their indices among the given faces.

    Neighbours across an edge of two faces are wound alike. A closed patch then faces away from its inside, so that a
    cavity counts as solid; open patches are flipped together, by the volume that they span with their centre.
    One-sided surfaces (a Möbius strip) are left unchanged. Of faces that are there twice, one is left out.
    """
    welded, index = np.unique(verts, axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    kept = solid_faces(welded, faces)
    faces = faces[kept]
    patches, is_turned, is_closed = _patches(faces, len(welded))
    faces = np.where(is_turned[:, None], faces[:, ::-1], faces)

    # Open patches form one group; each closed patch is its own.
    groups = np.where(is_closed[patches], patches + 1, 0)
    corners = welded[faces].astype(np.float64)
    counts = np.bincount(groups, minlength=groups.max(initial=0) + 1).clip(1)
    middles = np.stack(
        [np.bincount(groups, corners.mean(1)[:, axis], minlength=len(counts)) for axis in range(3)], axis=1
    )
    corners = corners - (middles / counts[:, None])[groups][:, None]
    spanned = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    # Rounding gives a flat sheet a volume of either sign; it has no preferred side.
    volumes, sizes = np.bincount(groups, spanned), np.bincount(groups, np.abs(spanned))
    is_inward = volumes < -1e-6 * sizes
    return welded, np.where(is_inward[groups][:, None], faces[:, ::-1], faces), kept


def _patches(
    faces: Int[np.ndarray, "faces 3"], num_verts: int
) -> tuple[Int[np.ndarray, "faces"], Bool[np.ndarray, "faces"], Bool[np.ndarray, "patches"]]:
    """Patch of each face, whether the face must be flipped to agree with it, and which patches are closed.

    Two copies of each face represent its two windings, and edges join those that agree: each patch has two connected
    components, one per orientation.
    """
    count = len(faces)
    tails = faces.astype(np.int64).ravel()
    heads = np.roll(faces, -1, axis=1).astype(np.int64).ravel()
    keys = np.minimum(tails, heads) * num_verts + np.maximum(tails, heads)
    order = np.argsort(keys, kind="stable")
    _, starts, uses = np.unique(keys[order], return_index=True, return_counts=True)
    pairs = starts[uses == 2]
    first, second = order[pairs], order[pairs + 1]
    # Neighbours that are wound alike run along their edge in opposite directions.
    is_apart = (tails[first] == tails[second]).astype(np.int64)
    one, other = first // 3, second // 3
    rows = np.concatenate([one, one + count])
    columns = np.concatenate([other + count * is_apart, other + count * (1 - is_apart)])
    joined = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(2 * count, 2 * count))
    _, labels = connected_components(joined, directed=False)
    as_given, turned = labels[:count], labels[count:]
    _, patches = np.unique(np.minimum(as_given, turned), return_inverse=True)
    num_open = np.bincount(patches[order[np.repeat(starts, uses)[np.repeat(uses, uses) != 2]] // 3],
                           minlength=patches.max(initial=-1) + 1)  # fmt: skip
    return patches, turned < as_given, num_open == 0
