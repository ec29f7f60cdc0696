"""The mesh of a result: read from its job, built, and renewed in an object that is already there."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import bpy
import numpy as np
from mathutils import Matrix
from mathutils.kdtree import KDTree

from ..backend.recdreamer.protocol import RequestError
from .mesh_capture import read_loop_verts
from .regions import SCULPT_MASK
from .rest import frame_of, write_rest
from .result_material import remove_material
from .tags import JOB_KEY

UV_NAME = "UVMap"


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`verts` (verts 3), `faces` (faces 3) and `uvs` (faces 3 2, v up), checked. Raises RequestError."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            verts = np.ascontiguousarray(arrays["verts"], np.float32)
            faces = np.ascontiguousarray(arrays["faces"], np.int32)
            uvs = np.ascontiguousarray(arrays["uvs"], np.float32)
        shapes_fit = verts.shape[1:] == (3,) and faces.shape[1:] == (3,) and uvs.shape == (len(faces), 3, 2)
        if not (shapes_fit and len(faces) and faces.min() >= 0 and faces.max() < len(verts)):
            raise ValueError("the faces do not fit the vertices")
        if not (np.isfinite(verts).all() and np.isfinite(uvs).all()):
            raise ValueError("a coordinate is not finite")
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise RequestError(
            f"The mesh of this job cannot be read ({error}).", "Wait until the job is done, or resume it."
        ) from error
    return verts, faces, uvs


def build_mesh(
    name: str, verts: np.ndarray, faces: np.ndarray, uvs: np.ndarray, material: bpy.types.Material
) -> bpy.types.Mesh:
    """One welded, smooth mesh; UVs are per corner, so seams need no split vertices."""
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(verts))
    mesh.vertices.foreach_set("co", verts.ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.uv_layers.new(name=UV_NAME).uv.foreach_set("vector", uvs.ravel())
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    mesh.validate()
    write_rest(mesh, verts)
    mesh.materials.append(material)
    return mesh


def renew_mesh(
    obj: bpy.types.Object,
    name: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    material: bpy.types.Material,
) -> str:
    """Give an object of the same job its new mesh where the old one stands; what the artist should know, or nothing.

    With the same faces as before all else on the mesh stays. Otherwise vertex groups go to the nearest vertices.
    """
    verts, faces, uvs = arrays
    mesh, frame = obj.data, Matrix(frame_of(obj.data).tolist())
    has_same_faces = len(mesh.polygons) == len(faces) and np.array_equal(read_loop_verts(mesh), faces.ravel())
    if has_same_faces and mesh.users == 1 and mesh.shape_keys is None:
        mesh.vertices.foreach_set("co", verts.ravel())
        write_rest(mesh, verts)
        mesh.transform(frame)
        layer = mesh.uv_layers.get(UV_NAME) or mesh.uv_layers.active or mesh.uv_layers.new(name=UV_NAME)
        layer.uv.foreach_set("vector", uvs.ravel())
        _renew_material(mesh, material, name)
        mesh.update()
        return ""
    new = build_mesh(name, verts, faces, uvs, material)
    new.transform(frame)
    groups = _read_groups(obj)
    gone = ["paint"] if len(mesh.color_attributes) or SCULPT_MASK in mesh.attributes else []
    gone += ["shape keys"] if mesh.shape_keys is not None else []
    nearest = np.arange(len(verts)) if has_same_faces else _nearest(new, mesh)
    old_materials = [old for old in mesh.materials if old is not None]
    obj.data = new
    if mesh.users == 0:
        bpy.data.meshes.remove(mesh)
    for old in old_materials:
        remove_material(old)
    # The old datablocks are gone now, so the new ones can have their names.
    new.name = material.name = name
    for group, weights in groups.items():
        added = obj.vertex_groups.new(name=group)
        for vertex in np.flatnonzero(weights[nearest] >= 0).tolist():
            added.add([vertex], float(weights[nearest[vertex]]), "REPLACE")
    parts = ["its vertex groups went over to the nearest vertices"] if groups and not has_same_faces else []
    parts += [f"it has lost the {' and '.join(gone)} of the old one"] if gone else []
    return f"{obj.name!r} has a new mesh: {', and '.join(parts)}." if parts else ""


def _renew_material(mesh: bpy.types.Mesh, material: bpy.types.Material, name: str) -> None:
    """Into the slot of the earlier import, which is the first one unless the artist moved it."""
    if not mesh.materials:
        mesh.materials.append(material)
        return
    is_ours = [m is not None and m.get(JOB_KEY) == material.get(JOB_KEY) for m in mesh.materials]
    slot = is_ours.index(True) if any(is_ours) else 0
    old = mesh.materials[slot]
    mesh.materials[slot] = material
    if old is not None:
        remove_material(old)
    material.name = name


def _read_groups(obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """`verts` for each vertex group: the weight, or -1 where the vertex is not in it."""
    mesh = obj.data
    weights = np.full((len(obj.vertex_groups), len(mesh.vertices)), -1.0)
    for vertex in mesh.vertices if len(weights) else ():
        for element in vertex.groups:
            if element.group < len(weights):
                weights[element.group, vertex.index] = element.weight
    return {group.name: weights[group.index] for group in obj.vertex_groups}


def _nearest(mesh: bpy.types.Mesh, other: bpy.types.Mesh) -> np.ndarray:
    """`verts`: for each vertex the nearest one of the other mesh."""
    tree = KDTree(len(other.vertices))
    for vertex in other.vertices:
        tree.insert(vertex.co, vertex.index)
    tree.balance()
    found = [tree.find(vertex.co)[1] for vertex in mesh.vertices]
    return np.array([0 if index is None else index for index in found], np.int64)
