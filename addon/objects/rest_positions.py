"""Original vertex positions of an imported result, to recover its job's space after edits.

Edits and applied transforms move the vertices of a mesh away from the space in which its job works.
"""

from __future__ import annotations

import bpy
import numpy as np

from .mesh_data import read_property, read_verts

REST = ".recdreamer_rest"
"""Vertex attribute with the position in the job's space. Blender keeps it through edits and hides names with a dot."""
TRIES, SAMPLE = 200, 1000
"""Of the fit: number of transforms tried, each from four vertices, and of vertices that score them."""
UNMOVED = 1e-5
"""Tolerance of an unmoved vertex, relative to the size of the mesh."""


def write_rest(mesh: bpy.types.Mesh, verts: np.ndarray) -> None:
    """Store the positions `verts` (verts 3) in the job's space."""
    attribute = mesh.attributes.get(REST) or mesh.attributes.new(REST, "FLOAT_VECTOR", "POINT")
    attribute.data.foreach_set("vector", np.ascontiguousarray(verts, np.float32).ravel())


def frame_of(mesh: bpy.types.Mesh) -> np.ndarray:
    """`4 4`, from the job's space to that of the mesh; the identity unless the artist applied a transform.

    Vertices moved by hand are ignored as long as they are fewer than half.
    """
    places = _rest_and_now(mesh)
    if places is None:
        return np.eye(4)
    rest, now = places
    tolerance = UNMOVED * float(np.ptp(now, axis=0).max())
    if np.median(np.linalg.norm(rest - now, axis=1)) <= tolerance:
        return np.eye(4)
    places = np.column_stack((rest, np.ones(len(rest)))).astype(np.float64)
    # Choose by most inliers, then least median; plain least squares would follow vertices moved by hand.
    rng = np.random.default_rng(0)
    judges = rng.permutation(len(places))[:SAMPLE]
    samples = [judges, *(rng.choice(judges, 4) for _ in range(TRIES))]
    tried = [_affine(places, now, verts) for verts in samples if np.linalg.matrix_rank(places[verts]) == 4]
    if not tried:  # The mesh is flat.
        return np.eye(4)

    def badness(affine: np.ndarray) -> tuple[int, float]:
        misses = _misses(affine, places[judges], now[judges])
        return np.count_nonzero(misses > tolerance), float(np.median(misses))

    best = min(tried, key=badness)
    misses, frame = _misses(best, places, now), np.eye(4)
    frame[:3] = _affine(places, now, np.flatnonzero(misses <= max(tolerance, np.median(misses))))
    return frame if np.linalg.matrix_rank(frame) == 4 else np.eye(4)


def is_rest(mesh: bpy.types.Mesh, verts: np.ndarray) -> bool:
    """True if these are the original positions of the mesh; differences are the artist's changes."""
    places = _rest_and_now(mesh)
    if places is None or len(places[0]) != len(verts):
        return False
    return float(np.abs(places[0] - verts).max()) <= UNMOVED * float(np.ptp(verts, axis=0).max())


def is_moved_by_hand(mesh: bpy.types.Mesh) -> bool:
    """True if vertices moved in a way that no transform of the whole mesh explains."""
    places = _rest_and_now(mesh)
    if places is None:
        return False
    rest, now = (part.astype(np.float64) for part in places)
    misses = _misses(frame_of(mesh)[:3], np.column_stack((rest, np.ones(len(rest)))), now)
    # The precision of a coordinate falls with its distance from the origin.
    precision = UNMOVED * float(np.ptp(now, axis=0).max()) + 1e-6 * float(np.abs(now).max())
    return bool(misses.max() > 10 * precision)


def _rest_and_now(mesh: bpy.types.Mesh) -> tuple[np.ndarray, np.ndarray] | None:
    """`verts 3` each: original and current positions; None if there are none."""
    attribute = mesh.attributes.get(REST)
    if attribute is None or not len(attribute.data):
        return None
    return read_property(attribute.data, "vector", width=3), read_verts(mesh)


def _affine(places: np.ndarray, now: np.ndarray, verts: np.ndarray) -> np.ndarray:
    """`3 4`: least-squares transform from the original to the current positions of these vertices."""
    return np.linalg.lstsq(places[verts], now[verts], rcond=None)[0].T


def _misses(affine: np.ndarray, places: np.ndarray, now: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places @ affine.T - now, axis=1)


def world_of_job(obj: bpy.types.Object, context: bpy.types.Context) -> np.ndarray:
    """`4 4`, from the space of the job that made an object to the world."""
    context.view_layer.update()
    return np.array(obj.matrix_world) @ frame_of(obj.data)
