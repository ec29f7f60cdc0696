"""What a mesh was like when a job was made, in a few letters: a change is noticed when the texture comes back."""

from __future__ import annotations

import hashlib

import bpy
import numpy as np


def fingerprint(mesh: bpy.types.Mesh, uv_map: str) -> dict[str, str]:
    """Digests of its `verts`, its `faces`, and of the `uvs` of a UV map where it has that."""
    verts, loop_verts = np.empty(3 * len(mesh.vertices), np.float32), np.empty(len(mesh.loops), np.int32)
    mesh.vertices.foreach_get("co", verts)
    mesh.loops.foreach_get("vertex_index", loop_verts)
    starts = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_start", starts)
    parts = {"verts": (verts,), "faces": (loop_verts, starts)}
    layer = mesh.uv_layers.get(uv_map)
    if layer is not None:
        uvs = np.empty(2 * len(layer.uv), np.float32)
        layer.uv.foreach_get("vector", uvs)
        parts["uvs"] = (uvs,)
    return {name: digest(*arrays) for name, arrays in parts.items()}


def digest(*arrays: np.ndarray) -> str:
    """The same for the same bytes."""
    state = hashlib.blake2b(digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
