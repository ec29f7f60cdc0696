"""Levels of detail of a result: meshes of fewer and fewer triangles, with its color and normals baked onto them."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty

from ..objects.hiding import hide
from ..objects.new_data import removed_on_error
from .quads import ResultOperator, add_bare_copy
from .quads_bake import bake_textures

MAX_LEVELS, MIN_FACES = 6, 12
LOD_KEY = "recdreamer_lod"
"""On a level of detail: its number; the result itself is number 0."""


class RECDREAMER_OT_make_lods(ResultOperator, bpy.types.Operator):
    """Add hidden copies with fewer and fewer triangles, which shade like the active object. Blender freezes meanwhile"""

    bl_idname = "recdreamer.make_lods"
    bl_label = "Make LODs"
    bl_options = {"REGISTER", "UNDO"}

    levels: IntProperty(
        name="Levels", description="Number of copies", default=3, min=1, max=MAX_LEVELS, options={"SKIP_SAVE"}
    )
    ratio: FloatProperty(
        name="Ratio",
        description="Triangles of a level, relative to those of the level before",
        default=0.5,
        min=0.05,
        max=0.95,
    )
    bake: BoolProperty(
        name="Bake",
        description="Give each level a texture and a normal map of its own, baked from the original with Cycles",
        default=True,
    )
    size_px: IntProperty(
        name="Size", description="Width and height of the textures in pixels", default=1024, min=64, max=8192
    )

    def run(self, context):
        original = context.object
        made: list[bpy.types.Object] = []
        try:
            with removed_on_error():
                for number, share in enumerate(shares(self.levels, self.ratio), 1):
                    made.append(self._add_level(original, number, share, context))
        finally:
            # Also of those that are gone after an error, what was hidden is shown again.
            original.select_set(True)
            context.view_layer.objects.active = original
        for level in made:
            hide(level)
            level.select_set(False)
        counts = ", ".join(f"{len(level.data.polygons):,}" for level in made)
        self.tell("INFO", f"Levels of detail with {counts} triangles were added. They are hidden.")

    def _add_level(
        self, original: bpy.types.Object, number: int, share: float, context: bpy.types.Context
    ) -> bpy.types.Object:
        level = add_bare_copy(original, f"_LOD{number}", context)
        level[LOD_KEY] = number
        decimate(level, share, context)
        if self.bake:
            bake_textures(original, level, self.size_px, context)
        return level


def shares(levels: int, ratio: float) -> list[float]:
    """Triangles of each level, relative to the original.

    >>> shares(3, 0.5)
    [0.5, 0.25, 0.125]
    """
    return [ratio**number for number in range(1, levels + 1)]


def decimate(obj: bpy.types.Object, share: float, context: bpy.types.Context) -> None:
    """Leave a share of the triangles of an object without modifiers, at least MIN_FACES."""
    obj.data.calc_loop_triangles()
    modifier = obj.modifiers.new("Decimate", "DECIMATE")
    modifier.ratio = min(1.0, max(share, MIN_FACES / max(1, len(obj.data.loop_triangles))))
    modifier.use_collapse_triangulate = True
    old, name = obj.data, obj.data.name
    obj.data = bpy.data.meshes.new_from_object(obj.evaluated_get(context.evaluated_depsgraph_get()))
    obj.modifiers.clear()
    bpy.data.meshes.remove(old)
    obj.data.name = name


CLASSES = (RECDREAMER_OT_make_lods,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
