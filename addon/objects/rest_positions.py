"""Where the mesh of a result was when it came: the space of its job, which edits and applied transforms leave behind."""

from __future__ import annotations

import bpy
import numpy as np

REST = ".recdreamer_rest"
"""Vertex attribute: the place in the job's space. Blender keeps it through edits, and shows no name with a dot."""
TRIES, SAMPLE = 200, 1000
"""Of the fit: transforms tried, each that of four vertices, and the vertices that judge them."""
UNMOVED = 1e-5
"""In sizes of the mesh."""


def write_rest(mesh: bpy.types.Mesh, verts: np.ndarray) -> None:
    """Note the places `verts` (verts 3) in the job's space."""
    attribute = mesh.attributes.get(REST) or mesh.attributes.new(REST, "FLOAT_VECTOR", "POINT")
    attribute.data.foreach_set("vector", np.ascontiguousarray(verts, np.float32).ravel())


def frame_of(mesh: bpy.types.Mesh) -> np.ndarray:
    """`4 4`: from the job's space to that of the mesh; not the identity where the artist applied a transform.

    Vertices that were moved by hand do not count, as long as they are fewer than half.
    """
    places = _rest_and_now(mesh)
    if places is None:
        return np.eye(4)
    rest, now = places
    tolerance = UNMOVED * float(np.ptp(now, axis=0).max())
    if np.median(np.linalg.norm(rest - now, axis=1)) <= tolerance:
        return np.eye(4)
    places = np.column_stack((rest, np.ones(len(rest)))).astype(np.float64)
    # By most vertices that fit, then by least median: least squares alone would follow what was moved by hand.
    rng = np.random.default_rng(0)
    judges = rng.permutation(len(places))[:SAMPLE]
    samples = [judges, *(rng.choice(judges, 4) for _ in range(TRIES))]
    tried = [_affine(places, now, verts) for verts in samples if np.linalg.matrix_rank(places[verts]) == 4]
    if not tried:  # It is flat.
        return np.eye(4)

    def badness(affine: np.ndarray) -> tuple[int, float]:
        misses = _misses(affine, places[judges], now[judges])
        return np.count_nonzero(misses > tolerance), float(np.median(misses))

    best = min(tried, key=badness)
    misses, frame = _misses(best, places, now), np.eye(4)
    frame[:3] = _affine(places, now, np.flatnonzero(misses <= max(tolerance, np.median(misses))))
    return frame if np.linalg.matrix_rank(frame) == 4 else np.eye(4)


def is_rest(mesh: bpy.types.Mesh, verts: np.ndarray) -> bool:
    """True when the mesh came with these places: what differs now was changed by the artist."""
    places = _rest_and_now(mesh)
    if places is None or len(places[0]) != len(verts):
        return False
    return float(np.abs(places[0] - verts).max()) <= UNMOVED * float(np.ptp(verts, axis=0).max())


def is_moved_by_hand(mesh: bpy.types.Mesh) -> bool:
    """True when vertices are elsewhere than a transform of the whole has taken them."""
    places = _rest_and_now(mesh)
    if places is None:
        return False
    rest, now = (part.astype(np.float64) for part in places)
    misses = _misses(frame_of(mesh)[:3], np.column_stack((rest, np.ones(len(rest)))), now)
    # A single coordinate has less to say the farther out it is.
    precision = UNMOVED * float(np.ptp(now, axis=0).max()) + 1e-6 * float(np.abs(now).max())
    return bool(misses.max() > 10 * precision)


def _rest_and_now(mesh: bpy.types.Mesh) -> tuple[np.ndarray, np.ndarray] | None:
    """`verts 3` each: the noted places, and those of now; None where there are none."""
    attribute = mesh.attributes.get(REST)
    if attribute is None or not len(attribute.data):
        return None
    rest, now = np.empty((2, len(mesh.vertices), 3), np.float32)
    attribute.data.foreach_get("vector", rest.ravel())
    mesh.vertices.foreach_get("co", now.ravel())
    return rest, now


def _affine(places: np.ndarray, now: np.ndarray, verts: np.ndarray) -> np.ndarray:
    """`3 4`: what takes the places of these vertices nearest to where they are now."""
    return np.linalg.lstsq(places[verts], now[verts], rcond=None)[0].T


def _misses(affine: np.ndarray, places: np.ndarray, now: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places @ affine.T - now, axis=1)


def world_of_job(obj: bpy.types.Object, context: bpy.types.Context) -> np.ndarray:
    """`4 4`: from the space of the job that made an object to where the object stands in the world."""
    context.view_layer.update()
    return np.array(obj.matrix_world) @ frame_of(obj.data)
