"""The start of the next job, in the sidebar."""

from __future__ import annotations

import time
from typing import get_args

import bpy

from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR, Stage
from ...backend.recdreamer.shared.start_check import seen_px
from .. import describe
from ..language.translation import CONTEXT, say
from ..layout import draw_text, shortened
from ..preference_access import get_preferences
from ..properties import RecDreamerSettings, metres_per_unit
from ..session import session
from ..start.fitness import is_unread, said_of_size, verdict_of
from ..start.properties import RecDreamerStart
from .job_progress import name_of

LABEL_SHARE, CHOICE_PX, MAX_RESULTS = 0.4, 130, 20
"""Share of the labels with property split; what stands beside the text of the choice; results in the menu."""


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
        _draw_result(column, start, context)
    if start.kind in ("object", "continue"):
        column.prop(start, "strength")
    _draw_region(column, start, context)
    if start.needs_object and not settings.has_own_templates and settings.rectifies_poses:
        column.prop(start, "auto_turntable")
    if start.needs_object:
        _draw_hints(column, settings, context)


def _draw_result(layout, start: RecDreamerStart, context) -> None:
    """The earlier result by its prompt, which says more than the name of its folder."""
    row = layout.split(factor=LABEL_SHARE)
    label = row.row()
    label.alignment = "RIGHT"
    label.label(text="Result")
    row = row.row(align=True)
    job = start.source_job
    text = shortened(name_of(job), context, CHOICE_PX) if job is not None else "Choose Result"
    row.menu("RECDREAMER_MT_start_results", text=text)
    row.operator("recdreamer.continue_selected", text="", icon="RESTRICT_SELECT_OFF")


class RECDREAMER_MT_start_results(bpy.types.Menu):
    """Finished jobs to start from, newest first"""

    bl_label = "Choose Result"
    bl_translation_context = CONTEXT

    def draw(self, context):
        for job in [job for job in session.registry.jobs if not job.why_not_continue][:MAX_RESULTS]:
            age = describe.age(time.time() - job.state.updated_s) if job.state.updated_s else ""
            text = "  ".join(filter(None, (describe.one_line(name_of(job), 40), say(age))))
            self.layout.operator("recdreamer.continue_job", text=text).job_id = job.id


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
    row = layout.row(align=True)
    height = row.row(align=True)
    height.enabled = not start.keeps_size
    height.prop(settings, "height")
    row.prop(settings, "show_target", text="", icon="SHADING_BBOX")


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
            column,
            "Not checked yet: it has Geometry Nodes, instances, very many faces, or UVs that lie upon each other.",
            context,
            "INFO",
        )
        column.operator("recdreamer.check_start")
    for text in (*verdict_of(start.objects, kind).warnings, *sizes, start.left_out):
        if text:
            draw_text(column, text, context, "ERROR")


CLASSES = (RECDREAMER_MT_start_results,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
