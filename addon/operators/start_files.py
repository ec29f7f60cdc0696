"""Files in the folder of a job that starts from an object: its mesh, and how to place the result."""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from dataclasses import replace

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import START_MESH, JobFolder, JobRequest, RequestError
from ...backend.recdreamer.shared.safe_files import confined, read_npz
from ..jobs.placement import PLACEMENT, START_FACES, StartPlacement, start_job_id
from ..objects.object_keys import OBJECT_KEY
from ..objects.rest_positions import world_of_job
from ..properties import RecDreamerSettings
from ..result.mesh import read_arrays
from ..start.fingerprint import digest, fingerprint
from ..start.fitness import check_captured, moves_uvs
from ..start.mesh_capture import CapturedMesh, capture_mesh, is_flat, uv_map_of
from ..start.properties import RecDreamerStart
from ..start.regions import faces_in
from ..start.unwrap import smart_uvs


def prepare(
    context: bpy.types.Context, request: JobRequest, metres_per_unit: float
) -> tuple[JobRequest, dict[str, bytes]]:
    """The request and the files that its start needs in the job folder. Raises RequestError."""
    settings = context.scene.recdreamer
    start = settings.start
    if request.start == "continue":
        return _prepare_continue(context, request, start)
    if not request.start_mesh:
        return request, {}
    captured = capture_mesh(
        start.objects,
        context,
        metres_per_unit=metres_per_unit,
        front_deg=settings.front_deg,
        region=start.region_name,
    )
    files, uv_map = {}, uv_map_of(start.objects[0])
    check_captured(captured, start.object, request.start)
    if request.start == "texture":
        if moves_uvs(captured.arrays):
            uv_map = ""  # The result brings a UV map of its own.
        files[START_FACES] = _npz(_faces(captured, start, uv_map))
        if not uv_map_of(start.object) and (uvs := smart_uvs(start.object, context)) is not None:
            captured.arrays["uvs"] = uvs[captured.triangle_loops]
            check_captured(captured, start.object, request.start)
    elif start.keeps_size:
        if is_flat(captured):
            raise RequestError(
                f"{start.object.name!r} is flat.",
                "Give it some thickness, disable Keep Size, or use Paint Only.",
            )
        request = replace(request, height_m=captured.height_m)
    files[PLACEMENT] = _placement(settings, captured, uv_map).to_json().encode()
    if start.left_out:
        captured.arrays["notes"] = np.frombuffer(start.left_out.encode(), np.uint8)
    return request, files | {START_MESH: _npz(captured.arrays)}


def _prepare_continue(
    context: bpy.types.Context, request: JobRequest, start: RecDreamerStart
) -> tuple[JobRequest, dict[str, bytes]]:
    """With a region the result keeps the space of the earlier job; otherwise its base becomes the origin.

    A job keeps the region of the earlier one unless it gets a mesh; a mesh without a region clears it.
    """
    files, place_m = {}, (0.0, 0.0, 0.0)
    if start.region_name:
        captured = capture_mesh([start.region_object], context, region=start.region_name, is_local=True)
        files[START_MESH] = _npz(captured.arrays)
    else:
        verts, faces, _ = read_arrays(start.source_job.folder)
        if has_region(start.source_job.folder):
            files[START_MESH] = _npz({"verts": verts, "faces": faces})
            request = replace(request, start_mesh=START_MESH)
        low, high = verts.min(0).astype(float), verts.max(0).astype(float)
        place_m = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2])
        if start.keeps_size:
            request = replace(request, height_m=float(high[2] - low[2]))
    earlier = start.earlier_result
    placement = StartPlacement(
        object="" if earlier is None else earlier.name,
        place_m=place_m,
        region=start.region_name,
        keep_size=start.keeps_size,
        world=[] if earlier is None else world_of_job(earlier, context).tolist(),
    )
    return request, files | {PLACEMENT: placement.to_json().encode()}


def has_region(job: JobFolder) -> bool:
    """True if only a region of the result could change, in this job or in one beside it that it continued."""
    seen: set[str] = set()
    while job.root.name not in seen:
        seen.add(job.root.name)
        try:
            request = job.read_request()
            if request.start_mesh:
                region = read_npz(confined(job.root, request.start_mesh), ("region",)).get("region")
                return region is not None and region.size > 0 and bool(region.min() < 1)
            if not request.start_job:
                return False
            job = JobFolder(confined(job.root.parent, start_job_id(request)))
        except RequestError:
            return False
    return False  # It continues itself.


def _placement(settings: RecDreamerSettings, captured: CapturedMesh, uv_map: str) -> StartPlacement:
    """`uv_map` is the one that the texture will use; empty if the result brings its own."""
    start = settings.start
    first, *children = start.objects
    object_id, *children_ids = _object_ids(start.objects)
    return StartPlacement(
        object=first.name,
        object_id=object_id,
        children=[obj.name for obj in children],
        children_ids=children_ids,
        place_m=captured.place_m,
        front_deg=settings.front_deg,
        uv_map=uv_map,
        region=start.region_name,
        keep_size=start.keep_size,
        use_children=start.use_children,
        taken_of=_taken_of(settings, captured),
        fingerprint=fingerprint(first.data, uv_map) if start.kind == "texture" else {},
    )


def _taken_of(settings: RecDreamerSettings, captured: CapturedMesh) -> str:
    """Digest of the mesh in the automatic templates, which Generate has captured or is about to."""
    if settings.wants_turntable:
        return digest(captured.arrays["verts"], captured.arrays["faces"])
    taken_of = {card.taken_of for card in settings.enabled_templates}
    return taken_of.pop() if len(taken_of) == 1 else ""


def _faces(captured: CapturedMesh, start: RecDreamerStart, uv_map: str) -> dict[str, np.ndarray]:
    """How the texture maps to the faces of the artist's mesh: faces in the region, and corners for new UVs.

    Those are needed unless the texture uses the artist's `uv_map`. Raises RequestError.
    """
    obj, arrays = start.object, {}
    if start.region_name:
        arrays["is_painted"] = faces_in(obj, start.region_name)
    if not uv_map:
        if captured.triangle_loops is None:
            raise RequestError(
                f"{obj.name!r} has no UV map, and its modifiers change its faces.",
                "Unwrap it first (UV › Smart UV Project), or apply the modifiers.",
            )
        arrays["triangle_loops"] = captured.triangle_loops
    return arrays


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _object_ids(objects: Sequence[bpy.types.Object]) -> list[str]:
    """IDs that survive renaming of the objects; empty for linked objects."""
    new = [obj for obj in objects if obj.is_editable and (OBJECT_KEY not in obj or _is_copy(obj))]
    for obj in new:
        obj[OBJECT_KEY] = secrets.token_hex(8)
    if new:
        # Generate has no undo step, so undoing the previous step would remove the IDs.
        bpy.ops.ed.undo_push(message="Set Start Object")
    return [str(obj.get(OBJECT_KEY, "")) for obj in objects]


def _is_copy(obj: bpy.types.Object) -> bool:
    """True if an older object has the same ID; duplicating an object copies it."""
    same = (other for other in bpy.data.objects if other.get(OBJECT_KEY) == obj[OBJECT_KEY])
    return min(same, key=lambda other: other.session_uid) != obj
