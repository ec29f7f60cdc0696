"""Remesh a result to quads with Blender's own remeshers. The result itself is kept, but hidden."""

from __future__ import annotations

import math

import bpy
from bpy.props import EnumProperty, IntProperty

from ...backend.recdreamer.shared.protocol import RequestError
from ..objects.hiding import HIDDEN_KEY, hide, is_left_out
from ..objects.object_keys import JOB_KEY, OBJECT_KEY, PAINTED_KEY, job_of
from ..objects.rest_positions import REST
from ..result.paint_import import FORMER
from .guarded import GuardedOperator, why_not
from .jobs import NO_ACTIVE_RESULT, NOT_OBJECT_MODE

QUADS_KEY = "recdreamer_quads_of"
"""The job whose result was remeshed."""
ORIGINAL_KEY = "recdreamer_original"
"""The object that was remeshed."""
REMESHERS = (
    ("QUADRIFLOW", "QuadriFlow", "Even quads that follow the shape; needs a clean surface"),
    ("VOXEL", "Voxel", "Quads on a grid; works with any closed surface"),
)
NO_TEXTURE = "The quads have no texture yet. Bake it from the original, or paint them (Start › Paint Only)."


class ResultOperator(GuardedOperator):
    """Base of operators on the active result that ask for their options first."""

    @classmethod
    def poll(cls, context):
        if context.mode != "OBJECT":
            return why_not(cls, NOT_OBJECT_MODE)
        return why_not(cls, "" if is_result(context.object) else NO_ACTIVE_RESULT)

    def invoke(self, context, event):
        return context.window_manager.invoke_props_dialog(self)


class RECDREAMER_OT_make_quads(ResultOperator, bpy.types.Operator):
    """Add a copy of the active object made of quads, and hide the original. The copy has no texture yet"""

    bl_idname = "recdreamer.make_quads"
    bl_label = "Make Quads"
    bl_options = {"REGISTER", "UNDO"}

    target_faces: IntProperty(
        name="Faces", description="Approximate number of quads", default=5000, min=50, soft_max=100_000
    )
    remesher: EnumProperty(name="Remesher", items=REMESHERS)

    def run(self, context):
        original, done = context.object, False
        copy = add_bare_copy(original, " quads", context)
        try:
            remesh(copy, self.target_faces, self.remesher, context)
            done = True
        finally:
            if not done:
                copy.select_set(False)
                original.select_set(True)
                context.view_layer.objects.active = original
        hide(original)
        self.tell("INFO", NO_TEXTURE)


def is_result(obj: bpy.types.Object | None) -> bool:
    """True if a job made or painted the mesh of this object."""
    return obj is not None and obj.type == "MESH" and bool(job_of(obj))


def add_bare_copy(original: bpy.types.Object, ending: str, context: bpy.types.Context) -> bpy.types.Object:
    """Copy the evaluated surface without UV map, material and job; the copy is active and selected.

    `ending` is that of its name.
    """
    evaluated = original.evaluated_get(context.evaluated_depsgraph_get())
    copy = original.copy()
    copy.data = bpy.data.meshes.new_from_object(evaluated)
    copy.name = copy.data.name = f"{original.name}{ending}"
    copy.modifiers.clear()
    copy.data.materials.clear()
    for layer in list(copy.data.uv_layers):
        copy.data.uv_layers.remove(layer)
    # These attributes refer to the original's materials and its job.
    for name in (FORMER, REST):
        if name in copy.data.attributes:
            copy.data.attributes.remove(copy.data.attributes[name])
    copy[QUADS_KEY], copy[ORIGINAL_KEY] = job_of(original), original
    copy.hide_render = is_left_out(original)
    for key in (JOB_KEY, PAINTED_KEY, OBJECT_KEY, HIDDEN_KEY):
        if key in copy:
            del copy[key]
    for collection in original.users_collection:
        collection.objects.link(copy)
    for obj in context.selected_objects:
        obj.select_set(False)
    copy.select_set(True)
    context.view_layer.objects.active = copy
    return copy


def remesh(obj: bpy.types.Object, target_faces: int, remesher: str, context: bpy.types.Context) -> None:
    """Remesh the active object to quads. Raises RequestError if the remesher fails."""
    before = [tuple(vertex.co) for vertex in obj.data.vertices[:3]]
    count = len(obj.data.polygons)
    try:
        if remesher == "VOXEL":
            area = sum(polygon.area for polygon in obj.data.polygons)
            obj.data.remesh_voxel_size = max(math.sqrt(area / target_faces), 1e-4)
            bpy.ops.object.voxel_remesh()
        else:
            bpy.ops.object.quadriflow_remesh(mode="FACES", target_faces=target_faces, use_mesh_symmetry=False)
    except RuntimeError as error:
        raise _refusal(remesher) from error
    after = [tuple(vertex.co) for vertex in obj.data.vertices[:3]]
    if not obj.data.polygons or (len(obj.data.polygons) == count and before == after):
        raise _refusal(remesher)
    obj.data.shade_smooth()


def _refusal(remesher: str) -> RequestError:
    if remesher == "VOXEL":
        return RequestError("Blender cannot remesh this surface.", "Increase the number of faces.")
    return RequestError(
        "QuadriFlow cannot remesh this surface: an edge has more than two faces, or normals are inconsistent.",
        "Choose Voxel.",
    )


CLASSES = (RECDREAMER_OT_make_quads,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
