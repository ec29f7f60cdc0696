"""From a finished job folder to an object in the scene."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import bpy
import numpy as np

from ..backend.recdreamer.protocol import JobFolder, JobRequest, RequestError
from .hiding import hide
from .paint_import import import_paint
from .placement import PLACEMENT, Placement
from .properties import metres_per_unit
from .result_material import build_materials, remove_material
from .tags import JOB_KEY, PARTICLE_KEY, find_imported, find_start

NAME_LENGTH = 40
_GAP = 1.2
"""Distance between neighbours in a row, in widths."""


def import_result(
    job_folder: str | Path,
    context: bpy.types.Context | None = None,
    *,
    hide_start: bool = False,
    say: Callable[[str], None] = print,
) -> list[bpy.types.Object]:
    """The result of a finished job: an object for each particle, selected, the first one active.

    New ones stand in a row along X from the 3D cursor, or from where the object stood that the job started from; with
    `hide_start` that object is hidden. An object of the same job that is already in the scene gets the new mesh and
    keeps its transform, modifiers and name. Meshes are in metres and scaled to the scene's unit, the origin is at the
    base, the front looks along -Y, or where that of the start looked. A job that only paints gives its material to the
    artist's object. `say` takes what the artist should know. Raises RequestError with one clear sentence when the
    folder holds no whole result.
    """
    context = context or bpy.context
    job = JobFolder(Path(job_folder))
    request = job.read_request()
    name = request.prompt.strip()[:NAME_LENGTH]
    if request.start == "texture":
        *_, uvs = _read_arrays(job.result / "mesh.npz")
        painted, remark = import_paint(job, request, name, uvs, context)
        if remark:
            say(remark)
        _select_only([painted], context)
        return [painted]
    # Everything that can fail comes before the first object, so that a failure leaves nothing behind.
    has_placement = request.start == "object" and (job.root / PLACEMENT).is_file()
    placement = Placement.read(job) if has_placement else None
    folders = [job.result, *sorted(job.result.glob("particle-*"), key=lambda path: int(path.name[9:]))]
    arrays = [_read_arrays(folder / "mesh.npz") for folder in folders]
    materials = build_materials(name, folders)

    results, right, scale, is_new = [], 0.0, 1 / metres_per_unit(context.scene), False
    for index, ((verts, faces, uvs), material) in enumerate(zip(arrays, materials, strict=True)):
        mesh = _build_mesh(name, verts, faces, uvs)
        mesh.materials.append(material)
        result = find_imported(job.root.name, context.scene, index)
        if result is not None:
            _replace_mesh(result, mesh)
            # The old datablocks are gone now, so the new ones can have their names.
            mesh.name = material.name = name
        else:
            result = bpy.data.objects.new(name, mesh)
            _place(result, placement, scale, context)
            result.location.x += right * scale
            context.collection.objects.link(result)
            is_new = True
        right += _GAP * float(np.ptp(verts[:, 0]))
        _stamp(result, job.root.name, index, request)
        results.append(result)
    if placement is not None and hide_start and is_new:
        _hide_start(placement, context, say)
    if request.start == "object" and placement is None and is_new:
        say("This job does not know where its object stood, so the result is at the 3D cursor")
    _select_only(results, context)
    return results


def _place(
    result: bpy.types.Object, placement: Placement | None, scale: float, context: bpy.types.Context
) -> None:
    """At the 3D cursor, or where the object stood that it started from, turned as that was."""
    result.scale = (scale,) * 3
    if placement is None:
        result.location = context.scene.cursor.location
    else:
        result.location = [scale * value for value in placement.place_m]
        result.rotation_euler.z = math.radians(placement.front_deg)


def _hide_start(placement: Placement, context: bpy.types.Context, say: Callable[[str], None]) -> None:
    """The result stands in the same place."""
    start = find_start(placement.object, placement.object_id, context.scene)
    others = [context.scene.objects.get(name) for name in placement.children]
    hidden = [obj for obj in (start, *others) if obj is not None and obj.name in context.view_layer.objects]
    for obj in hidden:
        hide(obj)
    if hidden:
        say(f"{hidden[0].name!r} is hidden now, in renders too, because the result stands in its place")


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`verts` (verts 3), `faces` (faces 3) and `uvs` (faces 3 2, v up), checked."""
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


def _build_mesh(name: str, verts: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> bpy.types.Mesh:
    """One welded, smooth mesh; UVs are per corner, so seams need no split vertices."""
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(verts))
    mesh.vertices.foreach_set("co", verts.ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.uv_layers.new(name="UVMap").uv.foreach_set("vector", uvs.ravel())
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    mesh.validate()
    return mesh


def _replace_mesh(obj: bpy.types.Object, mesh: bpy.types.Mesh) -> None:
    """Swap the data and drop the old mesh, material and image that nothing else uses."""
    old_mesh = obj.data
    old_materials = [material for material in old_mesh.materials if material is not None]
    obj.data = mesh
    if old_mesh.users == 0:
        bpy.data.meshes.remove(old_mesh)
    for material in old_materials:
        remove_material(material)


def _stamp(obj: bpy.types.Object, job_id: str, particle: int, request: JobRequest) -> None:
    """Write down on the object how it was made."""
    obj[JOB_KEY] = job_id
    obj[PARTICLE_KEY] = particle
    obj["recdreamer_prompt"] = request.prompt
    obj["recdreamer_method"] = request.method
    # Custom properties hold 32-bit integers; a larger seed is kept as text.
    obj["recdreamer_seed"] = request.seed if abs(request.seed) < 2**31 else str(request.seed)
    obj["recdreamer_settings"] = json.dumps(asdict(request), ensure_ascii=False)


def _select_only(objects: list[bpy.types.Object], context: bpy.types.Context) -> None:
    # A view layer learns of new objects when it is next updated.
    context.view_layer.update()
    visible = [obj for obj in objects if obj.name in context.view_layer.objects]
    if not visible:
        return
    for other in context.view_layer.objects:
        other.select_set(other in visible)
    context.view_layer.objects.active = visible[0]
