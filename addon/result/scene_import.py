"""Import the result of a finished job into the scene."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.recdreamer.shared.json_values import read_json
from ...backend.recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from ...backend.recdreamer.shared.safe_files import FileMissing, confined
from .. import describe
from ..jobs.origin import earlier_versions
from ..jobs.placement import PLACEMENT, StartPlacement, start_job_id
from ..objects.hiding import hide, show_in_local_view
from ..objects.new_data import removed_on_error
from ..objects.object_keys import JOB_KEY, PARTICLE_KEY, find_imported, find_start, job_of
from . import paint_import
from .material import build_material
from .mesh import build_mesh, read_arrays, read_slots, renew_mesh, slot_materials
from .target import GAP, boxes_of, place_of

NAME_LENGTH = 40
Replaces = Literal["EARLIER", "ACTIVE", "NOTHING"]
"""What a result takes the place of: the result of which it is a better version, the active object, or nothing."""


def import_result(
    job_folder: str | Path,
    context: bpy.types.Context | None = None,
    *,
    hide_start: bool = False,
    replaces: Replaces = "EARLIER",
    say: Callable[[str], None] = print,
) -> list[bpy.types.Object]:
    """Import the result of a finished job: one object per particle, selected, the first one active.

    New objects stand in a row along X from the 3D cursor, beside what is there; or on the selected empty; or at the
    position of the object that the job started from, which `hide_start` hides. An object of the same job that is
    already in the scene gets the new mesh and keeps its transform, modifiers, vertex groups and name; so does the one
    that the result `replaces`, which is then of this job. Meshes are in
    metres and scaled to the scene's unit; the origin is at the base; the front faces -Y, or like that of the start
    object. A job that only paints assigns its material to the artist's object. `say` gets remarks for the artist.
    Raises RequestError if the folder has no complete result.
    """
    with removed_on_error():
        return _import(JobFolder(Path(job_folder)), context or bpy.context, hide_start, replaces, say)


def _import(
    job: JobFolder,
    context: bpy.types.Context,
    hide_start: bool,
    replaces: Replaces,
    say: Callable[[str], None],
) -> list[bpy.types.Object]:
    request = job.read_request()
    name = describe.one_line(request.prompt, NAME_LENGTH) or "RecDreamer"
    has_placement = request.start != "prompt" and confined(job.root, PLACEMENT).is_file()
    placement = StartPlacement.read(job) if has_placement or request.start == "texture" else None
    if placement is not None and request.start == "texture":
        canvas = find_start(placement.object, placement.object_id, context.scene)
        reason = "" if canvas is None else paint_import.why_no_fit(canvas, placement)
        if canvas is None:
            say(
                f"{placement.object!r} is not in this scene, so the texture is on a copy of the original mesh."
            )
        elif reason:
            say(f"{reason}, so the texture is on a copy of the original mesh; {canvas.name!r} is unchanged.")
        else:
            earlier = () if replaces == "NOTHING" else earlier_versions(job, request)
            paint_import.import_paint(job, placement, canvas, name, context.scene, say, earlier)
            _select_only([canvas], context)
            return [canvas]
        hide_start = False
    # Do everything that can fail before changing the first object.
    versions = _versions(job, request, replaces, context)
    folders = _result_folders(job)
    arrays = [read_arrays(job, folder) for folder in folders]
    slots = [
        read_slots(job, folder, len(faces)) for folder, (_, faces, _) in zip(folders, arrays, strict=True)
    ]
    materials = [build_material(name, job, folder) for folder in folders]
    collection, seeds = _collection(context, say), _read_seeds(job, say)

    results, right, is_new = [], 0.0, False
    earlier = find_imported(start_job_id(request), context.scene) if request.start_job else None
    if placement is None and earlier is None:
        placement = _placement_of_draft(job, request)
    for index, (mesh_arrays, material) in enumerate(zip(arrays, materials, strict=True)):
        material[JOB_KEY] = job.root.name
        in_slots = slot_materials(material, name, slots[index])
        result = _in_scene(versions, index, context)
        if result is not None:
            follows = placement is not None and result[JOB_KEY] == start_job_id(request)
            remark = renew_mesh(
                result, mesh_arrays, in_slots, placement.place_m if follows else (0.0, 0.0, 0.0)
            )
            if remark:
                say(remark)
            if not result.visible_get():
                say(f"{result.name!r} is hidden.")
        else:
            result = bpy.data.objects.new(name, build_mesh(name, *mesh_arrays, in_slots, slots[index]))
            _place(result, placement, earlier, context)
            result.location.x += right * result.scale.x
            collection.objects.link(result)
            is_new = True
        right += (1 + GAP) * float(np.ptp(mesh_arrays[0][:, 0]))
        _stamp(result, job.root.name, index, request)
        if seeds:
            result["recdreamer_repeated_seeds"] = seeds
        results.append(result)
    if hide_start and is_new:
        _hide_starts(_starts(placement, earlier, context), context, say)
    if request.start == "object" and placement is None and is_new:
        say("The position of the start object is unknown, so the result is at the 3D cursor.")
    _select_only(results, context)
    return results


def _versions(
    job: JobFolder, request: JobRequest, replaces: Replaces, context: bpy.types.Context
) -> list[str | bpy.types.Object]:
    """The jobs, or the object, whose place in the scene the result takes, best first. Raises RequestError."""
    own = job.root.name
    if replaces == "NOTHING":
        return [own]
    if replaces == "EARLIER":
        return [own, *earlier_versions(job, request)]
    active = context.object
    if active is None or active.type != "MESH" or JOB_KEY not in active:
        raise RequestError("The active object is not an imported result.", "Select the one to replace.")
    if not (active.is_editable and active.data.is_editable):
        raise RequestError(
            f"{active.name!r} is linked from another file.", "Make it local first (Object › Relations)."
        )
    return [active, job_of(active), own]


def _placement_of_draft(job: JobFolder, request: JobRequest) -> StartPlacement | None:
    """Where the object stood from which the draft of *Refine* began, if it began from one."""
    for job_id in earlier_versions(job, request):
        try:
            draft = JobFolder(confined(job.root.parent, job_id))
            if draft.read_request().start == "object":
                return StartPlacement.read(draft)
        except RequestError:
            return None
    return None


def _in_scene(
    versions: list[str | bpy.types.Object], particle: int, context: bpy.types.Context
) -> bpy.types.Object | None:
    """The object of the scene whose place a particle of a result takes, or None."""
    for version in versions:
        if isinstance(version, str):
            version = find_imported(version, context.scene, particle)
        elif version.get(PARTICLE_KEY, 0) != particle:
            continue
        if version is not None and version.is_editable and version.data.is_editable:
            return version
    return None


def _result_folders(job: JobFolder) -> list[str]:
    """The result and those of other particles, by their numbers. Folders with other names are not ours."""
    found = (re.fullmatch(r"particle-(\d{1,4})", path.name) for path in job.result.glob("particle-*"))
    return [
        "result",
        *(f"result/{match[0]}" for match in sorted(filter(None, found), key=lambda m: int(m[1]))),
    ]


def _read_seeds(job: JobFolder, say: Callable[[str], None]) -> str:
    """Seeds of repeated stages, as JSON; empty if there are none, or only a remark."""
    try:
        return json.dumps(read_json(job.seeds))
    except FileMissing:
        pass
    except RequestError as error:
        say(f"The seeds of its repeated stages are not known: {error.message}")
    return ""


def _collection(context: bpy.types.Context, say: Callable[[str], None]) -> bpy.types.Collection:
    """The active collection, or that of the scene if it cannot take objects."""
    # Blender then activates another one instead of one that is hidden.
    context.view_layer.update()
    active, scene = context.collection, context.scene
    if active.library is not None:
        reason = "is linked from another file"
    elif active.override_library is not None:
        reason = "is an override of one in another file"
    else:
        return active
    if scene.library is not None:
        raise RequestError(
            f"The collection {active.name!r} {reason}, and so is the scene.",
            "Switch to a scene of this file.",
        )
    say(f"The collection {active.name!r} {reason}, so the result is in the Scene Collection.")
    return scene.collection


def _place(
    result: bpy.types.Object,
    placement: StartPlacement | None,
    earlier: bpy.types.Object | None,
    context: bpy.types.Context,
) -> None:
    """Place the result like the start object or the earlier result, else on the empty or at the 3D cursor."""
    own = result.data.materials[0].get(JOB_KEY)
    corners = np.array(result.bound_box)

    def neighbors() -> np.ndarray:
        context.view_layer.update()
        return boxes_of(context, lambda obj: obj.get(JOB_KEY) != own)

    box = corners.min(0), corners.max(0)
    result.matrix_world = Matrix(place_of(placement, earlier, box, neighbors, context).tolist())


def _starts(
    placement: StartPlacement | None, earlier: bpy.types.Object | None, context: bpy.types.Context
) -> list[bpy.types.Object]:
    """The objects that the result replaces."""
    if earlier is not None:
        return [earlier]
    if placement is None or placement.world:
        return []
    ids = dict(zip(placement.children, placement.children_ids, strict=False))
    found = [find_start(placement.object, placement.object_id, context.scene)]
    found += [find_start(name, ids.get(name, ""), context.scene) for name in placement.children]
    return [obj for obj in found if obj is not None]


def _hide_starts(
    objects: list[bpy.types.Object], context: bpy.types.Context, say: Callable[[str], None]
) -> None:
    hidden = [obj for obj in objects if obj.name in context.view_layer.objects]
    for obj in hidden:
        hide(obj)
    if hidden:
        say(f"{hidden[0].name!r} is now hidden, also in renders, because the result takes its place.")


def _stamp(obj: bpy.types.Object, job_id: str, particle: int, request: JobRequest) -> None:
    """Store on the object how it was made."""
    obj[JOB_KEY] = job_id
    obj[PARTICLE_KEY] = particle
    obj["recdreamer_prompt"] = request.prompt
    obj["recdreamer_method"] = request.method
    # Custom properties hold 32-bit integers; a larger seed is kept as text.
    obj["recdreamer_seed"] = request.seed if abs(request.seed) < 2**31 else str(request.seed)
    obj["recdreamer_settings"] = json.dumps(asdict(request), ensure_ascii=False)


def _select_only(objects: list[bpy.types.Object], context: bpy.types.Context) -> None:
    # A view layer knows new objects only after an update.
    context.view_layer.update()
    visible = [obj for obj in objects if obj.name in context.view_layer.objects]
    if not visible:
        return
    for obj in visible:
        show_in_local_view(obj, context)
    for other in context.view_layer.objects:
        other.select_set(other in visible)
    context.view_layer.objects.active = visible[0]
