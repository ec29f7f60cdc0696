"""Put a painted texture on the artist's own object; its mesh, UVs, modifiers and materials are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import JobFolder, RequestError
from ...backend.recdreamer.shared.safe_files import confined, read_npz, reason_of
from ..jobs.placement import START_FACES, StartPlacement
from ..objects.mesh_data import read_loop_starts, read_material_indices, read_property
from ..objects.object_keys import PAINTED_KEY
from ..start import properties
from ..start.fingerprint import fingerprint
from .material import build_material, remove_material, renewed
from .mesh import MAX_RESULT_BYTES, read_arrays

FORMER = "recdreamer_former_material"
"""Face attribute: the material slot of each face before the first painting."""
PAINT_UV_MAP = "RecDreamer"
"""Name of the UV map that is added to an object without one."""
MAX_UV_MAPS = 8
"""Blender's limit."""


def why_no_fit(obj: bpy.types.Object, placement: StartPlacement) -> str:
    """Why the texture no longer fits the object, as the start of a sentence; empty if it fits."""
    if obj.type != "MESH":
        return f"{obj.name!r} is no longer a mesh"
    changed = _changes(obj, placement)
    if "faces" in changed:
        return f"The faces of {obj.name!r} were edited since the job was made"
    if placement.uv_map and placement.uv_map not in obj.data.uv_layers:
        return f"{obj.name!r} no longer has the UV map {placement.uv_map!r}"
    return f"The UV map of {obj.name!r} was edited since the job was made" if "uvs" in changed else ""


def import_paint(
    job: JobFolder,
    placement: StartPlacement,
    obj: bpy.types.Object,
    name: str,
    scene: bpy.types.Scene,
    say: Callable[[str], None],
    earlier: Sequence[str] = (),
) -> None:
    """Put the texture on the object for which the job was made. `say` gets remarks. Raises RequestError.

    It takes the place of one that this job, or one of the `earlier` jobs, has painted on it.
    """
    properties.check_object(obj, scene, "texture")
    faces = _read_faces(job, obj)
    uv_map, layers = placement.uv_map or PAINT_UV_MAP, obj.data.uv_layers
    if not placement.uv_map and PAINT_UV_MAP not in layers and len(layers) >= MAX_UV_MAPS:
        raise RequestError(
            f"{obj.name!r} has {MAX_UV_MAPS} UV maps, the most that Blender allows, and the texture needs one more.",
            "Remove one of them (Object Data › UV Maps).",
        )
    loop_uvs = None if placement.uv_map else _loop_uvs(job, obj, faces, say)
    material = build_material(name, job, uv_map=uv_map)
    if loop_uvs is not None:
        # A UV map of this name comes from an earlier import of this job.
        layer = layers.get(PAINT_UV_MAP) or layers.new(name=PAINT_UV_MAP, do_init=False)
        layer.uv.foreach_set("vector", np.ascontiguousarray(loop_uvs, np.float32).ravel())
    if "verts" in _changes(obj, placement):
        say(f"The shape of {obj.name!r} was edited since the job was made; the texture follows its UV map.")
    is_painted = faces.get("is_painted", np.ones(len(obj.data.polygons), bool))
    _assign(obj, material, [job.root.name, *earlier], is_painted)
    obj[PAINTED_KEY] = job.root.name


def _changes(obj: bpy.types.Object, placement: StartPlacement) -> set[str]:
    """Parts of the mesh that were edited since the job was made."""
    now = fingerprint(obj.data, placement.uv_map)
    return {part for part, value in placement.fingerprint.items() if now.get(part) != value}


def restore_materials(obj: bpy.types.Object) -> None:
    """Restore the material slot of each face from before painting; painted materials stay in their slots."""
    indices = read_property(obj.data.attributes[FORMER].data, "value", np.int32)
    obj.data.polygons.foreach_set("material_index", indices)
    obj.data.attributes.remove(obj.data.attributes[FORMER])
    obj.data.update()


def is_painted(obj: bpy.types.Object | None) -> bool:
    return obj is not None and obj.type == "MESH" and FORMER in obj.data.attributes


def _read_faces(job: JobFolder, obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """`is_painted` (faces) if there was a region; `triangle_loops` (triangles 3) if there was no UV map."""
    mesh = obj.data
    try:
        arrays = read_npz(confined(job.root, START_FACES), ("is_painted", "triangle_loops"), MAX_RESULT_BYTES)
        painted, loops = arrays.get("is_painted"), arrays.get("triangle_loops")
        if painted is not None and (painted.dtype != bool or painted.shape != (len(mesh.polygons),)):
            raise ValueError("they are not those of the object")
        if loops is not None and not (
            loops.dtype.kind in "iu"
            and loops.shape[1:] == (3,)
            and (not loops.size or (loops.min() >= 0 and loops.max() < len(mesh.loops)))
        ):
            raise ValueError("they are not those of the object")
    except ValueError as error:
        raise RequestError(
            f"The painted faces of this job cannot be read ({reason_of(error)}).", "Paint the object again."
        ) from error
    return arrays


def _loop_uvs(
    job: JobFolder, obj: bpy.types.Object, faces: dict[str, np.ndarray], say: Callable[[str], None]
) -> np.ndarray:
    """UVs `loops 2` from the triangle corners of the job's result, which keep the order of its start mesh."""
    mesh, triangle_loops = obj.data, faces.get("triangle_loops", ())
    *_, uvs = read_arrays(job)
    if len(uvs) != len(triangle_loops):
        raise RequestError("The faces of this result do not match the object.", "Paint the object again.")
    corners, values = triangle_loops.ravel(), uvs.reshape(-1, 2)
    loop_uvs = np.zeros((len(mesh.loops), 2), np.float32)
    # Triangles of one face share corners; the first one wins.
    loop_uvs[corners[::-1]] = values[::-1]
    is_off = (np.abs(loop_uvs[corners] - values) > 1e-5).any(1).reshape(-1, 3).any(1)
    starts = read_loop_starts(mesh)
    count = len(np.unique(np.searchsorted(np.sort(starts), triangle_loops[is_off, 0], side="right")))
    if count:
        say(
            f"A seam of the new UV map crosses {count} of {len(starts)} faces, which look stretched. "
            "Unwrap or triangulate the object and paint it again to avoid it."
        )
    return loop_uvs


def _assign(
    obj: bpy.types.Object, material: bpy.types.Material, jobs: Sequence[str], is_painted: np.ndarray
) -> None:
    """Put the material into the slot that one of the jobs has painted, or a new one, and assign the faces.

    It is then the first job's.
    """
    mesh = obj.data
    if not mesh.materials:
        # An empty slot to which the faces can return.
        mesh.materials.append(None)
    # For a slot that is not there Blender shows the last one, which will be another one.
    indices = read_material_indices(mesh).clip(0, len(mesh.materials) - 1)
    if FORMER not in mesh.attributes:
        former = mesh.attributes.new(FORMER, "INT", "FACE")
        former.data.foreach_set("value", indices)
    slots = {m.get(PAINTED_KEY): i for i, m in reversed(list(enumerate(mesh.materials))) if m}
    slot = next((slots[job_id] for job_id in jobs if job_id in slots), None)
    if slot is None:
        mesh.materials.append(material)
        slot = len(mesh.materials) - 1
    else:
        old = mesh.materials[slot]
        material = renewed(old, material, sum(one == old for one in mesh.materials))
        if material != old:
            mesh.materials[slot] = material
            name = material.name if old.users else old.name
            remove_material(old)
            material.name = name
    material[PAINTED_KEY] = jobs[0]
    indices[is_painted] = slot
    mesh.polygons.foreach_set("material_index", indices)
    mesh.update()
