"""A painted result onto the artist's own object: mesh, UVs, modifiers and earlier materials stay."""

from __future__ import annotations

from zipfile import BadZipFile

import bpy
import numpy as np

from ..backend.recdreamer.protocol import JobFolder, JobRequest, RequestError
from . import start
from .mesh_capture import group_weights, read_loop_verts
from .placement import START_LOOPS, Placement
from .result_material import build_material, remove_material
from .tags import PAINTED_KEY, find_start

FORMER = "recdreamer_former_material"
"""Face attribute: the slot that each face had before it was painted first."""
UV_NAME = "RecDreamer"
"""Of the UV map that is added to an object without one."""


def import_paint(
    job: JobFolder, request: JobRequest, name: str, uvs: np.ndarray, context: bpy.types.Context
) -> tuple[bpy.types.Object, str]:
    """Paint the object that the job was made for, and say what is worth saying. Raises RequestError.

    `uvs` (faces 3 2) are those of the result's triangles, which have the order that they had in the job's mesh.
    """
    placement = Placement.read(job)
    obj = find_start(placement.object, placement.object_id, context.scene)
    if obj is None:
        raise RequestError(
            f"The painted object {placement.object!r} is not in this scene.",
            "Undo its removal, or open the scene that it belongs to.",
        )
    start.check_object(obj, context.scene, "texture")
    loop_uvs, remark = (None, "") if placement.uv_map else _loop_uvs(job, obj, uvs)
    uv_map = placement.uv_map or UV_NAME
    if placement.uv_map and uv_map not in obj.data.uv_layers:
        raise RequestError(
            f"{obj.name!r} no longer has the UV map {uv_map!r} that it was painted for.",
            "Undo its removal, or rename it back.",
        )
    material = build_material(name, job.result, uv_map)
    if loop_uvs is not None:
        # A UV map of this name is that of an earlier import of this job.
        layer = obj.data.uv_layers.get(UV_NAME) or obj.data.uv_layers.new(name=UV_NAME, do_init=False)
        layer.uv.foreach_set("vector", np.ascontiguousarray(loop_uvs, np.float32).ravel())
    if placement.region and placement.region not in obj.vertex_groups:
        remark = f"The vertex group {placement.region!r} is gone, so all faces got the new material. {remark}"
    _assign(obj, material, job.root.name, placement.region)
    obj[PAINTED_KEY] = job.root.name
    return obj, remark.strip()


def restore_materials(obj: bpy.types.Object) -> None:
    """Give each face the slot back that it had before it was painted; the painted materials stay in their slots."""
    former = obj.data.attributes[FORMER]
    indices = np.empty(len(obj.data.polygons), np.int32)
    former.data.foreach_get("value", indices)
    obj.data.polygons.foreach_set("material_index", indices)
    obj.data.attributes.remove(obj.data.attributes[FORMER])
    obj.data.update()


def is_painted(obj: bpy.types.Object | None) -> bool:
    return obj is not None and obj.type == "MESH" and FORMER in obj.data.attributes


def _loop_uvs(job: JobFolder, obj: bpy.types.Object, uvs: np.ndarray) -> tuple[np.ndarray, str]:
    """`loops 2` from the corners of the triangles, and a remark on faces that a seam crosses."""
    mesh = obj.data
    try:
        with (job.root / START_LOOPS).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            triangle_loops, loop_verts = arrays["triangle_loops"], arrays["loop_verts"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise RequestError(
            f"This job no longer knows the faces that it painted ({error}).", "Start it again."
        ) from error
    if len(uvs) != len(triangle_loops) or not np.array_equal(loop_verts, read_loop_verts(mesh)):
        raise RequestError(
            f"The faces of {obj.name!r} are no longer those that were painted.",
            "Undo the changes to the mesh, or paint it again.",
        )
    corners, values = triangle_loops.ravel(), uvs.reshape(-1, 2)
    loop_uvs = np.zeros((len(mesh.loops), 2), np.float32)
    # Triangles of one face share corners; the first one decides.
    loop_uvs[corners[::-1]] = values[::-1]
    is_off = (np.abs(loop_uvs[corners] - values) > 1e-5).any(1).reshape(-1, 3).any(1)
    starts = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_start", starts)
    faces = np.searchsorted(np.sort(starts), triangle_loops[is_off, 0], side="right")
    count = len(np.unique(faces))
    if not count:
        return loop_uvs, ""
    return loop_uvs, (
        f"A seam of the new UV map crosses {count} of {len(starts)} faces, which look stretched. "
        "Unwrap or triangulate the object and paint it again to avoid it."
    )


def _assign(obj: bpy.types.Object, material: bpy.types.Material, job_id: str, region: str) -> None:
    """Put the material into a new slot, or into that of an earlier import of this job, and onto the faces."""
    mesh = obj.data
    indices = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("material_index", indices)
    if not mesh.materials:
        # So that there is a slot to go back to.
        mesh.materials.append(None)
    if FORMER not in mesh.attributes:
        former = mesh.attributes.new(FORMER, "INT", "FACE")
        former.data.foreach_set("value", indices.clip(0, len(mesh.materials) - 1))
    slot = next((i for i, m in enumerate(mesh.materials) if m and m.get(PAINTED_KEY) == job_id), None)
    if slot is None:
        mesh.materials.append(material)
        slot = len(mesh.materials) - 1
    else:
        old = mesh.materials[slot]
        mesh.materials[slot] = material
        name = material.name if old.users else old.name
        remove_material(old)
        material.name = name
    material[PAINTED_KEY] = job_id
    indices[_faces_in(obj, region)] = slot
    mesh.polygons.foreach_set("material_index", indices)
    mesh.update()


def _faces_in(obj: bpy.types.Object, region: str) -> np.ndarray:
    """`faces`: True where the region reaches; everywhere without one."""
    mesh = obj.data
    if not region or region not in obj.vertex_groups:
        return np.ones(len(mesh.polygons), bool)
    is_in = group_weights(obj, mesh, region)[read_loop_verts(mesh)] > 0
    starts = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_start", starts)
    return np.logical_or.reduceat(is_in, starts)
