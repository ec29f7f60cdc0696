"""Actions on an imported result, in the sidebar."""

from __future__ import annotations

import bpy

from ..layout import draw_text
from ..objects.object_keys import job_of
from ..operators.quads import NO_TEXTURE, QUADS_KEY
from ..result.paint_import import is_painted
from .jobs import SidebarPanel


class RECDREAMER_PT_result(SidebarPanel, bpy.types.Panel):
    """Actions for an object that a job made or painted"""

    bl_label = "Selected Result"
    bl_order = 2

    @classmethod
    def poll(cls, context):
        obj = context.object
        return obj is not None and (job_of(obj) or QUADS_KEY in obj)

    def draw(self, context):
        layout = self.layout
        obj = context.object
        if job_of(obj):
            layout.operator("recdreamer.continue_selected", icon="LOOP_FORWARDS")
            # The operator asks for its settings first.
            layout.operator_context = "INVOKE_DEFAULT"
            layout.operator("recdreamer.make_quads", icon="MOD_REMESH")
            layout.operator("recdreamer.make_lods", icon="MOD_DECIM")
            layout.operator("recdreamer.inspect", icon="VIEWZOOM")
            layout.operator("recdreamer.mark_asset", icon="ASSET_MANAGER")
        if is_painted(obj):
            layout.operator("recdreamer.restore_materials", icon="LOOP_BACK")
        if QUADS_KEY in obj and not obj.data.materials:
            draw_text(layout, NO_TEXTURE, context, "INFO")
            layout.operator("recdreamer.bake_quads", icon="RENDER_STILL")


CLASSES = (RECDREAMER_PT_result,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
