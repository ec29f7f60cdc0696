"""Mesh clean-up that keeps a closed surface closed: smoothing and decimation."""

from __future__ import annotations

import fast_simplification
import numpy as np
from scipy import sparse

from .mesh import Mesh, is_watertight, signed_volume
from .surface import Warn, no_warn

TAUBIN_LAMBDA, TAUBIN_MU = 0.5, -0.53


def smooth(mesh: Mesh, steps: int) -> Mesh:
    """Mesh without its small bumps, at nearly the same volume (Taubin 1995, lambda|mu)."""
    if steps == 0:
        return mesh
    num_verts = len(mesh.verts)
    ends = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    ends = np.concatenate([ends, ends[:, ::-1]])
    neighbours = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (num_verts, num_verts))
    neighbours.data[:] = 1
    counts = np.maximum(neighbours.sum(axis=1), 1)
    verts = mesh.verts.astype(np.float64)
    for _ in range(steps):
        for factor in (TAUBIN_LAMBDA, TAUBIN_MU):
            verts = verts + factor * (np.asarray(neighbours @ verts / counts) - verts)
    return Mesh(verts.astype(np.float32), mesh.faces)


def decimate(mesh: Mesh, target_faces: int, warn: Warn = no_warn) -> Mesh:
    """Mesh of about `target_faces` triangles by quadric edge collapse; watertight if the input is.

    The collapses are not guarded against pinched edges, so the result is checked, and gentler and
    smaller reductions are tried before the mesh is left as it is.
    """
    if len(mesh.faces) <= target_faces:
        return mesh
    must_close = is_watertight(mesh)
    for target, aggression in ((1, 7), (1, 4), (1.5, 5), (2, 5), (3, 4)):
        count = int(target * target_faces)
        if count >= len(mesh.faces):
            break
        verts, faces = fast_simplification.simplify(
            mesh.verts, mesh.faces, target_count=count, agg=aggression
        )
        result = Mesh(np.asarray(verts, np.float32), np.asarray(faces, np.int32))
        if len(faces) and (is_watertight(result) or not must_close) and signed_volume(result) > 0:
            return result
    warn(
        f"The mesh keeps its {len(mesh.faces)} faces: it could not be reduced to {target_faces} without "
        "tearing. Blender's Decimate modifier may do it."
    )
    return mesh
