"""The start of the next job, in the sidebar."""

from __future__ import annotations

from typing import get_args

from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR, Stage
from ...backend.recdreamer.shared.start_check import seen_px
from .. import describe
from ..layout import draw_text
from ..preference_access import get_preferences
from ..properties import RecDreamerSettings, metres_per_unit
from ..start.fitness import is_unread, said_of_size, verdict_of
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
            column.label(text=describe.one_line(start.source_job.request.prompt), icon="CHECKMARK")
    if start.kind in ("object", "continue"):
        column.prop(start, "strength")
    _draw_region(column, start, context)
    if start.needs_object and not settings.has_own_templates and settings.rectifies_poses:
        column.prop(start, "auto_turntable")
    if start.needs_object:
        _draw_hints(column, settings, context)


def draw_stages(layout, settings: RecDreamerSettings):
    """Draw which stages run; painting is one by itself."""
    if settings.start.kind == "texture":
        return
    column = layout.column(heading="Stages")
    for stage in get_args(Stage):
        column.prop(settings.start, f"run_{stage}")


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


def _draw_hints(column, settings: RecDreamerSettings, context):
    """What the worker will say of the object, too."""
    start = settings.start
    if not start.has_usable_object:
        return
    obj, kind = start.object, start.kind
    if kind == "texture" and not obj.data.uv_layers:
        draw_text(column, f"{obj.name!r} has no UV map. Importing the texture adds one.", context, "INFO")
    sizes = []
    if not start.region_name:
        sizes = said_of_size(
            start.objects,
            kind,
            metres_per_unit=metres_per_unit(context.scene),
            front_deg=settings.front_deg,
            seen_px=seen_px(get_preferences().image_model or BUILTIN_PRIOR, settings.method, kind),
            height_m=None if start.keeps_size else settings.height * metres_per_unit(context.scene),
        )
    if is_unread(start.objects, kind):
        draw_text(
            column, "Not checked yet: it has Geometry Nodes, instances or very many faces.", context, "INFO"
        )
        column.operator("recdreamer.check_start")
    for text in (*verdict_of(start.objects, kind).warnings, *sizes, start.left_out):
        if text:
            draw_text(column, text, context, "ERROR")
