"""Short digests of a mesh, to detect edits between the start of a job and the import of its texture."""

from __future__ import annotations

import hashlib

import bpy
import numpy as np

from ..objects.mesh_data import read_loop_starts, read_loop_verts, read_property, read_verts


def fingerprint(mesh: bpy.types.Mesh, uv_map: str) -> dict[str, str]:
    """Digests of `verts`, `faces` and, if the UV map exists, `uvs`."""
    parts = {"verts": (read_verts(mesh),), "faces": (read_loop_verts(mesh), read_loop_starts(mesh))}
    layer = mesh.uv_layers.get(uv_map)
    if layer is not None:
        parts["uvs"] = (read_property(layer.uv, "vector", width=2),)
    return {name: digest(*arrays) for name, arrays in parts.items()}


def digest(*arrays: np.ndarray) -> str:
    """Digest of the bytes of arrays."""
    state = hashlib.blake2b(digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
