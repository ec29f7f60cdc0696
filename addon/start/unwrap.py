"""UVs for an object without any, from Blender's Smart UV Project, which does not split n-gons."""

from __future__ import annotations

import math

import bpy
import numpy as np
from mathutils import Matrix

from ..objects.mesh_data import read_property

ANGLE_DEG = 66.0
ISLAND_MARGIN = 0.003


def smart_uvs(obj: bpy.types.Object, context: bpy.types.Context) -> np.ndarray | None:
    """UVs `loops 2` for the object at its world scale, so that no texel is stretched.

    None if it cannot be unwrapped, for example outside Object Mode.
    """
    if context.mode != "OBJECT":
        return None
    view_layer = context.view_layer
    active, selected = view_layer.objects.active, list(context.selected_objects)
    copy = bpy.data.objects.new("RecDreamer", obj.data.copy())
    copy.data.transform(Matrix.Diagonal([abs(scale) for scale in obj.matrix_world.to_scale()]).to_4x4())
    context.scene.collection.objects.link(copy)
    try:
        # Edit Mode would include all selected objects.
        for other in selected:
            other.select_set(False)
        view_layer.objects.active = copy
        copy.select_set(True)
        bpy.ops.object.mode_set(mode="EDIT")
        bpy.ops.mesh.reveal(select=False)
        bpy.ops.mesh.select_all(action="SELECT")
        bpy.ops.uv.smart_project(angle_limit=math.radians(ANGLE_DEG), island_margin=ISLAND_MARGIN)
        bpy.ops.object.mode_set(mode="OBJECT")
        return read_property(copy.data.uv_layers.active.uv, "vector", width=2)
    except RuntimeError:
        return None
    finally:
        copied = copy.data
        bpy.data.objects.remove(copy)
        bpy.data.meshes.remove(copied)
        for other in selected:
            other.select_set(True)
        view_layer.objects.active = active
