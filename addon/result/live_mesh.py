"""The coarse mesh of the running job in the scene: one object at the place of the result, renewed in place.

It is no asset: it is not rendered, not captured, not selectable, not saved, and it goes when the job ends. Whoever wants
to keep it renames it.
"""

from __future__ import annotations

from contextlib import nullcontext

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...backend.recdreamer.shared.protocol import COARSE_MESH, RequestError
from .. import compat
from ..jobs.coarse_mesh import read_coarse
from ..jobs.origin import earlier_versions
from ..jobs.placement import PLACEMENT, StartPlacement, start_job_id
from ..jobs.registry import Job
from ..objects.object_keys import LIVE_KEY, find_imported
from ..objects.rest_positions import world_of_job
from ..preference_access import get_preferences
from ..session import session
from .target import MAX_NEIGHBORS, boxes_of, place_of

NAME, COLOR = "RecDreamer Preview", "Color"
PLAYING = {"SCREEN_OT_animation_step", "SCREEN_OT_animation_play"}
"""Modal operators that hold no objects."""
_shown: tuple[str, int] = ("", 0)
"""The job of the mesh that is shown, and the time stamp of its file."""
_damaged: tuple[str, int] = ("", 0)
"""The same of one that cannot be shown."""
_read: tuple[str, int, dict[str, np.ndarray]] | None = None
"""The same of one that is read, but not shown yet, and its arrays."""


def update() -> bool:
    """Show the coarse mesh of the running job, if there is a new one, or none. True if something changed.

    Called by the timer: without news it costs a look at a file and at a name; the mesh is read by one call and shown by
    the next, so that neither takes long.
    """
    global _shown, _damaged, _read
    job, scene, obj = _job(), _scene(), live_object()
    if scene is None or _is_modal():
        return False
    if job is None or (obj is not None and obj[LIVE_KEY] != job.id):
        return remove()
    now = job.id, _stamp(job)
    if _read is not None and _read[0] == job.id:
        job_id, stamp, arrays = _read
        _show(job, arrays, scene)
        _read, _shown = None, (job_id, stamp)
        return True
    is_there = obj is not None and scene.objects.get(NAME) == obj
    if now[1] and now != _damaged and not (now == _shown and is_there):
        try:
            _read = (*now, read_coarse(job))
        except RequestError:
            _damaged = now  # There will be another one.
    return False


def live_object() -> bpy.types.Object | None:
    """The object that shows a running job; one that the artist has renamed is the artist's."""
    obj = bpy.data.objects.get(NAME)
    return obj if obj is not None and LIVE_KEY in obj and obj.library is None else None


def remove() -> bool:
    """Remove the object with its data. True if it was there."""
    obj = live_object()
    if obj is None:
        return False
    mesh = obj.data
    bpy.data.objects.remove(obj)
    if mesh is not None and mesh.users == 0:
        materials = list(mesh.materials)
        bpy.data.meshes.remove(mesh)
        bpy.data.batch_remove([material for material in materials if material and not material.users])
    return True


def _job() -> Job | None:
    """The job whose mesh is shown, if the artist wants to see it: not one that paints, and not of a region."""
    job = session.registry.running
    if job is None or not get_preferences().live_mesh or job.state.status != "running":
        return None
    request = job.request
    if request is None or request.start == "texture" or (request.start == "continue" and request.start_mesh):
        return None
    return job


def _scene() -> bpy.types.Scene | None:
    """That of the first window, if something can be added to it now."""
    windows = bpy.context.window_manager.windows
    scene = windows[0].scene if windows else bpy.context.scene
    is_free = scene.is_editable and not bpy.app.is_job_running("RENDER")
    return scene if is_free else None


def _is_modal() -> bool:
    """Whether a tool such as Move is in the middle of its work, which may hold what it works on."""
    return any(
        operator.bl_idname not in PLAYING
        for window in bpy.context.window_manager.windows
        for operator in window.modal_operators
    )


def _stamp(job: Job) -> int:
    """When the mesh was written; 0 if there is none."""
    try:
        return (job.folder.root / COARSE_MESH).lstat().st_mtime_ns
    except OSError:
        return 0


def _show(job: Job, arrays: dict[str, np.ndarray], scene: bpy.types.Scene) -> None:
    obj = live_object()
    if obj is None:
        mesh = bpy.data.meshes.new(NAME)
        mesh.materials.append(_material())
        obj = bpy.data.objects.new(NAME, mesh)
        obj.hide_render = obj.hide_select = True
    if scene.objects.get(NAME) != obj:
        for collection in obj.users_collection:
            collection.objects.unlink(obj)
        scene.collection.objects.link(obj)
    obj[LIVE_KEY] = job.id
    _fill(obj.data, arrays)
    windows = bpy.context.window_manager.windows
    with bpy.context.temp_override(window=windows[0]) if windows else nullcontext():
        obj.matrix_world = place(job, arrays["verts"], bpy.context).T.tolist()


def place(job: Job, verts: np.ndarray, context: bpy.types.Context) -> np.ndarray:
    """`4 4`, from the space of the job to the world, where its import would be now."""
    assert job.request is not None
    for version in (job.id, *earlier_versions(job.folder, job.request)):
        there = find_imported(version, context.scene)
        if there is not None:
            return world_of_job(there, context)
    earlier = find_imported(start_job_id(job.request), context.scene) if job.request.start_job else None
    placement = None
    if job.request.start != "prompt" and confined(job.folder.root, PLACEMENT).is_file():
        placement = StartPlacement.read(job.folder)
    box = verts.min(0).astype(float), verts.max(0).astype(float)
    return place_of(
        placement, earlier, box, lambda: boxes_of(context, lambda obj: True, MAX_NEIGHBORS), context
    )


def _fill(mesh: bpy.types.Mesh, arrays: dict[str, np.ndarray]) -> None:
    """Exchange the geometry; materials stay."""
    verts, faces, rgb = arrays["verts"], arrays["faces"], arrays["rgb"]
    mesh.clear_geometry()
    mesh.vertices.add(len(verts))
    mesh.vertices.foreach_set("co", verts.ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    colors = mesh.color_attributes.new(COLOR, "BYTE_COLOR", "POINT")
    rgba = np.column_stack((rgb / np.float32(255), np.ones(len(rgb)))).astype(np.float32)
    colors.data.foreach_set("color_srgb", rgba.ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    mesh.shade_smooth()
    if mesh.materials and mesh.materials[0] is not None:
        # Solid shading shows this one.
        mean = (rgba[:, :3].mean(0) ** 2.2).tolist()
        mesh.materials[0].diffuse_color = (*mean, 1.0)


def _material() -> bpy.types.Material:
    """Shows the colors of the vertices."""
    material = compat.new_node_material(NAME)
    nodes = material.node_tree.nodes
    principled, colors = compat.principled_of(material), nodes.new("ShaderNodeVertexColor")
    colors.layer_name = COLOR
    colors.location = (principled.location.x - 220, principled.location.y)
    principled.inputs["Roughness"].default_value = 0.9
    material.node_tree.links.new(colors.outputs["Color"], principled.inputs["Base Color"])
    return material


@persistent
def leave(*_) -> None:
    """Leave the scene; the next tick adds it again. It is not saved, and it is in no undo step: Blender frees what is in
    none, keeps what has not changed from step to step, and would crash where that still points to it."""
    scenes = [scene for scene in bpy.data.scenes if NAME in scene.objects]
    if remove():
        for scene in scenes:
            for view_layer in scene.view_layers:
                view_layer.update()  # So that nothing that Blender has evaluated points to it, either.


HANDLERS = ("save_pre", "undo_pre", "redo_pre")


def register() -> None:
    session.on_tick.append(update)
    for name in HANDLERS:
        getattr(bpy.app.handlers, name).append(leave)


def unregister() -> None:
    for name in HANDLERS:
        getattr(bpy.app.handlers, name).remove(leave)
    session.on_tick.remove(update)
    remove()
