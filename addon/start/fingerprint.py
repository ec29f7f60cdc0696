"""Short digests of a mesh, to detect edits between the start of a job and the import of its texture."""

from __future__ import annotations

import hashlib

import bpy
import numpy as np


def fingerprint(mesh: bpy.types.Mesh, uv_map: str) -> dict[str, str]:
    """Digests of `verts`, `faces` and, if the UV map exists, `uvs`."""
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
    """Digest of the bytes of arrays."""
    state = hashlib.blake2b(digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
