"""What the artist should know before a job starts from a mesh: asked before a job is made, and by its worker.

Numpy only, and shared with the add-on like protocol.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .doubled_faces import solid_faces
from .material_slots import slots_in
from .protocol import RequestError, Start
from .uv_map import bare_faces, check_uvs, slots_apart
from .worlds import world_of

SAME_SIZE = 0.01
"""Relative difference of heights that nobody sees."""
FLAT = 0.05
"""An object is flat if its height is a smaller share of its length."""
EMBEDDED_PX, SHAPE_PX, TEXTURE_PX = 64, 256, 512
"""Sides of the pictures of the embedded priors, and of Stable Diffusion in the stages of shape and texture."""
COARSE_METHODS = ("sds", "debiased_sds", "consdreamer", "perp_neg")
"""Methods that were published with small pictures in the first stage."""
MAX_EXTENT, MIN_EXTENT = 1e36, 1e-36
"""Metres between which coordinates are far from the limits of float32."""
HALF_SIZE = 0.75
"""Half of the mesh's longest side in the scene: about the size of the figures that the embedded prior draws."""


def check_extent(verts: np.ndarray, faces: np.ndarray) -> None:
    """Raises RequestError if float32 coordinates cannot hold the shape, or if there is none."""
    used = verts[np.unique(faces)].astype(np.float64)
    extent, distance = float(np.ptp(used, axis=0).max()), float(np.abs(used).max(initial=0.0))
    if extent > MAX_EXTENT or distance > MAX_EXTENT:
        raise RequestError(
            f"The mesh to start from reaches {max(extent, distance):.0e} m far.",
            "Scale it down, and move it to the origin.",
        )
    corners = verts[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if 0 < extent <= 1e-6 * distance:
        raise RequestError(
            f"The mesh to start from is {extent:.3g} m large and {distance:.3g} m away from the origin, too far for "
            "the precision of its coordinates.",
            "Move it to the origin of the scene.",
        )
    if extent < MIN_EXTENT or not normals.any():
        raise RequestError(
            "The mesh to start from has no extent: all its faces are points or lines.",
            "Choose an object with a surface.",
        )


def check_start(arrays: Mapping[str, np.ndarray], start: Start) -> list[str]:
    """What becomes of the faces, UVs and materials of a START_MESH, one sentence each.

    Raises RequestError, with a sentence and its remedy, for UVs that cannot be painted.
    """
    slots = slots_in(arrays, len(arrays["faces"]))
    if start == "object":
        found = _left_out(arrays["verts"], arrays["faces"])
        if slots is not None and slots.num_used > 1:
            found.append(
                f"The surface is made again, so that its {slots.num_used} materials become one, with one texture."
            )
        return found
    if start != "texture":
        return []
    if "uvs" not in arrays:
        return ["The mesh has no UV map; a new one is made."]
    uvs, warnings = painted_uvs(arrays), []
    if slots is not None and uvs is not arrays["uvs"]:
        is_moved = (uvs != arrays["uvs"]).any((1, 2)) & ~bare_faces(uvs)
        moved = len(np.unique(slots.of_face[is_moved]))
        is_one = moved == 1
        warnings = [
            f"The UVs of {moved} of its {slots.num_used} materials lie upon those of others: "
            f"{'it gets' if is_one else 'they get'} UV tiles and textures of {'its' if is_one else 'their'} own."
        ]
    return warnings + check_uvs(uvs, arrays["verts"], arrays["faces"])


def _left_out(verts: np.ndarray, faces: np.ndarray) -> list[str]:
    welded, index = np.unique(verts, axis=0, return_inverse=True)
    count = len(faces) - len(solid_faces(welded, index.reshape(-1)[faces]))
    if not count:
        return []
    are = (
        "has no area or lies upon others, and is"
        if count == 1
        else "have no area or lie upon others, and are"
    )
    return [f"{count:,} of the {len(faces):,} triangles of the object {are} left out."]


def painted_uvs(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The UVs `faces 3 2` in which a START_MESH is painted: its own, unless several materials would share colors.

    Raises RequestError.
    """
    slots = slots_in(arrays, len(arrays["faces"]))
    return arrays["uvs"] if slots is None else slots_apart(arrays["uvs"], slots.of_face)


def check_size(
    arrays: Mapping[str, np.ndarray],
    start: Start,
    seen_px: int,
    height_m: float,
    half_size: float = HALF_SIZE,
) -> list[str]:
    """What becomes of the size of a START_MESH in metres, one sentence each.

    `seen_px` is the side of the pictures that the model sees first, `height_m` the height asked for.

    >>> box = {"verts": np.array([[0, 0, 0], [1, 1, 2.0]]), "faces": np.array([[0, 1, 1]])}
    >>> check_size(box, "object", 64, 3.0)
    ['The object is 2 m high, and its result will be 3 m high.']
    >>> check_size(box, "object", 64, 2.0)
    []
    """
    extents = np.ptp(arrays["verts"][np.unique(arrays["faces"])].astype(np.float64), axis=0)
    found, (_, width, length) = [], sorted(extents.tolist())
    if width * 2 * half_size < length * 2 / seen_px:
        found.append(
            f"The object is {length:.3g} m long but only {width:.3g} m wide, less than a pixel of the {seen_px} that "
            "the model sees: hardly any of it is seen. Thicken it, or make a part of it alone."
        )
    has_region = "region" in arrays and bool(arrays["region"].min() < 1)
    if start != "object" or has_region:
        return found
    width, depth, height = extents.tolist()
    if is_flat(extents):
        found.append(
            f"The object is flat, {width:.3g} × {depth:.3g} × {height:.3g} m: it keeps its size, and the height of "
            f"{height_m:.3g} m is not used."
        )
    elif abs(height_m / height - 1) >= SAME_SIZE:
        found.append(f"The object is {height:.3g} m high, and its result will be {height_m:.3g} m high.")
    return found


def is_flat(extents: np.ndarray) -> bool:
    """An object that lies flat on the ground: scaled by its height, it would become a field."""
    return bool(extents[2] < FLAT * extents.max())


def seen_px(prior: str, method: str, start: Start) -> int:
    """Side of the pictures that the model sees first, as the presets have it."""
    if world_of(prior) is not None:
        return EMBEDDED_PX
    if start == "texture":
        return TEXTURE_PX
    return EMBEDDED_PX if method in COARSE_METHODS else SHAPE_PX
