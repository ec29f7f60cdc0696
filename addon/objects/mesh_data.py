"""Bulk access to the data of meshes."""

from __future__ import annotations

import bpy
import numpy as np


def read_property(
    items: bpy.types.bpy_prop_collection, name: str, kind: type = np.float32, width: int = 1
) -> np.ndarray:
    """One property of all items: `items width`, or `items` if the width is 1."""
    values = np.empty(len(items) * width, kind)
    items.foreach_get(name, values)
    return values.reshape(-1, width) if width > 1 else values


def read_verts(mesh: bpy.types.Mesh) -> np.ndarray:
    """Vertex positions, `verts 3`."""
    return read_property(mesh.vertices, "co", width=3)


def read_loop_verts(mesh: bpy.types.Mesh) -> np.ndarray:
    """Vertex of each face corner, `loops`."""
    return read_property(mesh.loops, "vertex_index", np.int32)


def read_loop_starts(mesh: bpy.types.Mesh) -> np.ndarray:
    """First loop of each face, `faces`."""
    return read_property(mesh.polygons, "loop_start", np.int32)


def read_material_indices(mesh: bpy.types.Mesh) -> np.ndarray:
    """Material slot of each face, `faces`."""
    return read_property(mesh.polygons, "material_index", np.int32)
