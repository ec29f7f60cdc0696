"""The start of the next job and actions on imported results, in the sidebar."""

from __future__ import annotations

from typing import get_args

import bpy

from ...backend.recdreamer.protocol import Stage
from ..layout import draw_text
from ..objects.object_keys import job_of
from ..operators.quads import NO_TEXTURE, QUADS_KEY
from ..properties import RecDreamerSettings
from ..result.paint_import import is_painted
from ..session import CATEGORY
from ..start.properties import RecDreamerStart


def draw_start(layout, settings: RecDreamerSettings, context):
    """Draw the kind of start and its options; the layout must use property split."""
    start = settings.start
    column = layout.column()
    column.prop(start, "kind")
    if start.needs_object:
        column.prop(start, "object")
    if start.kind == "object" and start.object is not None and start.object.children:
        column.prop(start, "use_children")
    if start.kind == "continue":
        row = column.row(align=True)
        row.prop(start, "job")
        row.operator("recdreamer.continue_selected", text="", icon="RESTRICT_SELECT_OFF")
        if start.source_job is not None and start.source_job.request is not None:
            column.label(text=start.source_job.request.prompt, icon="CHECKMARK")
    if start.kind in ("object", "continue"):
        column.prop(start, "strength")
    _draw_region(column, start, context)
    if start.needs_object and not settings.has_own_templates and settings.method == "usd":
        column.prop(start, "auto_turntable")
    if start.kind == "texture":
        _draw_uv_hint(column, start, context)
    else:
        row = column.row(align=True)
        row.use_property_split = False  # The three labels need the full width.
        for stage in get_args(Stage):
            row.prop(start, f"run_{stage}", toggle=True)


def draw_height(layout, settings: RecDreamerSettings):
    """Draw the height, unless painting or a region fixes the size; other starts may keep theirs."""
    start = settings.start
    if start.kind == "texture" or start.region_name:
        return
    if start.kind in ("object", "continue"):
        layout.prop(start, "keep_size")
    row = layout.row()
    row.enabled = not start.keeps_size
    row.prop(settings, "height")


def _draw_region(column, start: RecDreamerStart, context):
    obj = start.region_object
    if obj is not None:
        column.prop(start, "region_item")
    elif start.kind == "continue" and start.source_job is not None:
        draw_text(
            column,
            "Import the result to limit changes to a vertex group or a painted mask.",
            context,
            "INFO",
        )


def _draw_uv_hint(column, start: RecDreamerStart, context):
    obj = start.object
    if obj is not None and obj.type == "MESH" and not obj.data.uv_layers:
        draw_text(column, f"{obj.name!r} has no UV map. Importing the texture adds one.", context, "INFO")


class RECDREAMER_PT_result(bpy.types.Panel):
    """Actions for an object that a job made or painted"""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label = "Result"
    bl_order = 1

    @classmethod
    def poll(cls, context):
        obj = context.object
        return obj is not None and (job_of(obj) or QUADS_KEY in obj)

    def draw(self, context):
        layout = self.layout
        obj = context.object
        if job_of(obj):
            layout.operator("recdreamer.continue_selected", text="Use as Start", icon="LOOP_FORWARDS")
            # The operator asks for its settings first.
            layout.operator_context = "INVOKE_DEFAULT"
            layout.operator("recdreamer.make_quads", icon="MOD_REMESH")
        if is_painted(obj):
            layout.operator("recdreamer.restore_materials", icon="LOOP_BACK")
        if QUADS_KEY in obj and not obj.data.materials:
            draw_text(layout, NO_TEXTURE, context, "INFO")
            layout.operator("recdreamer.bake_quads", icon="RENDER_STILL")


CLASSES = (RECDREAMER_PT_result,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
