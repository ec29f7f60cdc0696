"""What a job that starts from an object needs in its folder: the mesh, and how to put the result back."""

from __future__ import annotations

import io
import secrets
from dataclasses import replace

import bpy
import numpy as np

from ..backend.recdreamer.protocol import JobRequest, RequestError
from .mesh_capture import CapturedMesh, capture_mesh, is_flat, uv_map_of
from .placement import PLACEMENT, START_LOOPS, START_MESH, Placement
from .properties import RecDreamerSettings
from .tags import OBJECT_KEY
from .unwrap import smart_uvs


def prepare(
    context: bpy.types.Context, request: JobRequest, metres_per_unit: float
) -> tuple[JobRequest, dict[str, bytes]]:
    """The request and the files that its start needs in the job folder. Raises RequestError."""
    settings = context.scene.recdreamer
    start = settings.start
    if not request.start_mesh:
        return request, {}
    if request.start == "continue":
        captured = capture_mesh([start.region_object], context, group=start.region_name, is_local=True)
        return request, {START_MESH: _npz(captured.arrays)}
    captured = capture_mesh(
        start.objects,
        context,
        metres_per_unit=metres_per_unit,
        front_deg=settings.front_deg,
        group=start.region_name,
    )
    files = {PLACEMENT: _placement(settings, captured).to_json().encode()}
    if request.start == "texture" and not uv_map_of(start.object):
        files[START_LOOPS] = _npz(_loops(captured, start.object))
        uvs = smart_uvs(start.object.data, context)
        if uvs is not None:
            captured.arrays["uvs"] = uvs[captured.triangle_loops]
    if request.start == "object" and start.keep_size:
        if is_flat(captured):
            raise RequestError(
                f"{start.object.name!r} is flat.",
                "Give it some thickness, switch Keep Size off, or paint it.",
            )
        request = replace(request, height_m=captured.height_m)
    return request, files | {START_MESH: _npz(captured.arrays)}


def _placement(settings: RecDreamerSettings, captured: CapturedMesh) -> Placement:
    start = settings.start
    return Placement(
        object=start.object.name,
        object_id=_object_id(start.object),
        children=[obj.name for obj in start.objects[1:]],
        place_m=captured.place_m,
        front_deg=settings.front_deg,
        uv_map=uv_map_of(start.object),
        region=start.region_name,
    )


def _loops(captured: CapturedMesh, obj: bpy.types.Object) -> dict[str, np.ndarray]:
    """What takes the result's UVs back to the artist's mesh."""
    if captured.triangle_loops is None or captured.loop_verts is None:
        raise RequestError(
            f"{obj.name!r} has no UV map, and its modifiers make other faces than it has.",
            "Unwrap it first (UV › Smart UV Project), or apply the modifiers.",
        )
    return {"triangle_loops": captured.triangle_loops, "loop_verts": captured.loop_verts}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _object_id(obj: bpy.types.Object) -> str:
    """A name that stays with the object when it is renamed; none for an object of another file."""
    if obj.is_editable and (OBJECT_KEY not in obj or _is_copy(obj)):
        obj[OBJECT_KEY] = secrets.token_hex(8)
        # Else undoing the step before would take it away: Generate leaves no step of its own.
        bpy.ops.ed.undo_push(message="Object to Start From")
    return str(obj.get(OBJECT_KEY, ""))


def _is_copy(obj: bpy.types.Object) -> bool:
    """True when an older object has the same id: a duplicate takes it along."""
    same = (other for other in bpy.data.objects if other.get(OBJECT_KEY) == obj[OBJECT_KEY])
    return min(same, key=lambda other: other.session_uid) != obj
