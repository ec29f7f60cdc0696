"""The sidebar tab in the order of an artist's thought: what is wanted, the result, History, Advanced.

The template shelf, which is between result and History, is in shelf.py.
"""

from __future__ import annotations

import socket

import bpy

from .. import compat, describe
from ..jobs.registry import Job
from ..language.translation import CONTEXT, say
from ..layout import draw_text
from ..objects.object_keys import JOB_KEY
from ..operators.jobs import NOT_OBJECT_MODE, REDO, why_not_generate
from ..operators.presets import RECDREAMER_MT_presets
from ..preference_access import get_preferences
from ..session import CATEGORY, session
from .backend import draw_card_of_backend
from .cure_buttons import draw_cure
from .job_progress import draw_poses, draw_preview, draw_progress, name_of, why_waiting
from .prompt import draw_model_and_words
from .start import draw_height, draw_stages, draw_start

CONDITION_ICONS = {
    "starting": "PLAY",
    "running": "PLAY",
    "running elsewhere": "PLAY",
    "cancelling": "PLAY",
    "pausing": "PLAY",
    "stopping": "PLAY",
    "queued": "TIME",
    "waiting": "TIME",
    "paused": "PAUSE",
    "interrupted": "PAUSE",
    "done": "CHECKMARK",
    "failed": "ERROR",
    "damaged": "ERROR",
    "cancelled": "X",
}
CONDITION_WORDS = {
    "running elsewhere": "running in the background",
    "queued": "not started",
    "waiting": "waiting for its turn",
    "cancelling": "saving…",
    "pausing": "saving…",
    "stopping": "saving…",
    "cancelled": "stopped",
}
"""Conditions that the panel shows in other words."""


class SidebarPanel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_translation_context = CONTEXT


class RECDREAMER_PT_request(SidebarPanel, bpy.types.Panel):
    """What is asked for: prompt, start, quality with its cost, Generate"""

    bl_label = "RecDreamer"
    bl_order = 0

    def draw(self, context):
        settings = context.scene.recdreamer
        layout = self.layout
        if get_preferences().why_no_backend:
            draw_card_of_backend(layout, context)
            return
        compat.draw_prompt(layout, settings, "prompt", "A red bear")
        draw_model_and_words(layout, settings, context)
        layout.use_property_split = True
        layout.use_property_decorate = False
        draw_start(layout, settings, context)
        draw_height(layout.column(), settings)
        layout.use_property_split = False
        self._draw_presets(layout, settings)
        self._draw_generate(layout, context)

    def _draw_presets(self, layout, settings):
        row = layout.row(align=True)
        # Blender remembers the last preset by this label; in a new scene it is that of another one.
        chosen = RECDREAMER_MT_presets.bl_label
        changed = "Presets" if chosen == "Standard" else chosen
        row.menu("RECDREAMER_MT_presets", text=changed if settings.changes else "Standard")
        row.operator("recdreamer.add_preset", text="", icon="ADD")
        row.operator("recdreamer.add_preset", text="", icon="REMOVE").remove_active = True

    def _draw_generate(self, layout, context):
        reason = why_not_generate(context)
        if not reason or reason.kind == "running":
            draw_text(layout, describe.cost(session.cost_of(context.scene)), context, "TIME")
        changes = context.scene.recdreamer.changes
        if changes:
            draw_text(layout, ", ".join(changes), context, "PRESET")
        button = layout.split(factor=0.7, align=True)
        button.scale_y = 1.5
        button.operator("recdreamer.generate", icon="SHADERFX")
        button.operator("recdreamer.vary")
        running = session.registry.running
        if reason and (running is None or running is not session.shown):
            draw_text(layout, reason, context, "INFO")
            draw_cure(layout, reason.kind)


class RECDREAMER_PT_job(SidebarPanel, bpy.types.Panel):
    """The running or finished job"""

    bl_label = "Result"
    bl_order = 1

    @classmethod
    def poll(cls, context):
        return session.shown is not None and not get_preferences().why_no_backend

    def draw(self, context):
        draw_job(self.layout, session.shown, context)


class RECDREAMER_PT_advanced(SidebarPanel, bpy.types.Panel):
    """How the job works: method, stages, model, seed"""

    bl_label = "Advanced"
    bl_order = 5
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context):
        return not get_preferences().why_no_backend

    def draw(self, context):
        layout, settings = self.layout, context.scene.recdreamer
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(settings, "quality")
        column.prop(settings, "texture_px")
        column.prop(settings, "face_count")
        column.prop(settings, "method")
        if settings.rectifies_poses:
            column.prop(settings, "pose_mode")
        draw_stages(column, settings)
        row = column.row(align=True)
        row.prop(settings, "seed")
        row.operator("recdreamer.random_seed", text="", icon="FILE_REFRESH")
        column.prop(get_preferences(), "device")
        column.prop(get_preferences(), "place")
        if get_preferences().place == "cluster":
            column.prop(get_preferences(), "cluster")
        layout.use_property_split = False
        layout.prop(settings, "keep_running")


def draw_job(layout, job: Job, context):
    """Draw the progress, preview and actions of a job."""
    name = name_of(job)
    condition = CONDITION_WORDS.get(job.condition, job.condition)
    if job.running_on not in ("", socket.gethostname()):
        condition = f"running on {describe.one_line(job.running_on, 40)}"
    draw_text(layout, f"{name} · {say(condition)}", context, CONDITION_ICONS[job.condition])
    is_idle = job.condition in ("paused", "interrupted") and job.state.total
    if job.client is not None or job.condition == "running elsewhere" or is_idle:
        draw_progress(layout, job)
    if job.condition == "waiting":
        draw_text(layout, why_waiting(job), context, "INFO")
    trouble = job.problem or " ".join(filter(None, (job.state.message, job.state.hint)))
    if trouble:
        icon = "ERROR" if job.condition in ("failed", "damaged") else "INFO"
        draw_text(layout, trouble, context, icon)
        if job.condition == "failed":
            draw_cure(layout, job.state.kind, job.id)
    # Above the preview, which is so large that in a small window all below it has to be scrolled to.
    _draw_actions(layout, job, context)
    if job.has_result and context.mode != "OBJECT":
        draw_text(layout, NOT_OBJECT_MODE, context, "INFO")
        draw_cure(layout, NOT_OBJECT_MODE.kind)
    draw_preview(layout, job, context)
    draw_poses(layout, job, context)


def _draw_actions(layout, job: Job, context):
    row = layout.row(align=True)
    if job.has_result:
        row.scale_y = 1.3
        row.operator("recdreamer.import_result", icon="IMPORT").job_id = job.id
        if not job.why_not_continue:
            row.operator("recdreamer.continue_job", icon="LOOP_FORWARDS").job_id = job.id
        if job.stages_to_repeat:
            row = layout.row(align=True)
            for stage in job.stages_to_repeat:
                repeat = row.operator("recdreamer.repeat_stage", text=REDO[stage], icon="FILE_REFRESH")
                repeat.job_id, repeat.stage = job.id, stage
        row = layout.row(align=True)
        again = row.operator("recdreamer.retry", text="New Seed", icon="FILE_REFRESH")
        again.job_id, again.change = job.id, "seed"
        if context.object is not None and context.object.get(JOB_KEY, job.id) != job.id:
            put = row.operator("recdreamer.import_result", text="Replace Selected", icon="FILE_REFRESH")
            put.job_id, put.replaces = job.id, "ACTIVE"
        row = layout.row(align=True)
    if job.condition == "waiting":
        row.operator("recdreamer.leave_queue", icon="X").job_id = job.id
    elif not job.why_not_resume:
        row.operator("recdreamer.resume", icon="PLAY").job_id = job.id
    elif job.condition not in ("damaged", "done"):
        row.enabled = not job.why_not_stop
        row.operator("recdreamer.pause", icon="PAUSE").job_id = job.id
        row.operator("recdreamer.cancel", icon="X").job_id = job.id
    if job.client is not None and job.condition in ("starting", "running"):
        keeps = job.client.keeps_running
        choice = layout.operator(
            "recdreamer.keep_running", icon="CHECKBOX_HLT" if keeps else "CHECKBOX_DEHLT", emboss=False
        )
        choice.job_id, choice.keep = job.id, not keeps


CLASSES = (
    RECDREAMER_PT_request,
    RECDREAMER_PT_job,
    RECDREAMER_PT_advanced,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
