"""Jobs that run and wait, and drafts to choose from, in the sidebar."""

from __future__ import annotations

import bpy

from .. import describe
from ..jobs.registry import Job
from ..layout import draw_text, shortened
from ..operators.queue import siblings, why_not_refine
from ..pictures import previews
from ..session import session
from .job_progress import name_of
from .jobs import CONDITION_ICONS, SidebarPanel

ROW_OTHER_PX = 130
"""What a row of the queue has beside the name."""
PREVIEW_SCALE = 5.5
MOVES = (("TRIA_UP", -1), ("TRIA_DOWN", 1))


class RECDREAMER_PT_queue(SidebarPanel, bpy.types.Panel):
    bl_label = "Queue"
    bl_order = 1

    @classmethod
    def poll(cls, context):
        registry = session.registry
        return bool(registry.queue.turns) or registry.running not in (None, session.shown)

    def draw(self, context):
        registry, layout = session.registry, self.layout
        column = layout.column(align=True)
        for job in registry.working:
            row = column.row(align=True)
            self._draw_name(row, job, context)
            if job is not session.shown:
                row.operator("recdreamer.show_running", text="Show Job")
        for turn in registry.queue.turns:
            job = registry.find(turn.job_id)
            if job is None:
                continue
            row = column.row(align=True)
            self._draw_name(row, job, context)
            for icon, by in MOVES:
                move = row.operator("recdreamer.move_in_queue", text="", icon=icon)
                move.job_id, move.by = job.id, by
            row.operator("recdreamer.leave_queue", text="", icon="X").job_id = job.id
        if session.queue_problem:
            draw_text(layout, session.queue_problem, context, "ERROR")
        if registry.queue.turns:
            is_held = registry.queue.is_held
            text, icon = ("Start Waiting Jobs", "PLAY") if is_held else ("Hold Queue", "PAUSE")
            layout.operator("recdreamer.hold_queue", text=text, icon=icon).hold = not is_held

    def _draw_name(self, row, job: Job, context) -> None:
        device = job.request.device if job.request else "auto"
        words = name_of(job) if device == "auto" else f"{name_of(job)} · {device.upper()}"
        words = shortened(words, context, ROW_OTHER_PX)
        select = row.operator("recdreamer.show_job", text=words, icon=CONDITION_ICONS[job.condition])
        select.job_id = job.id


class RECDREAMER_PT_variations(SidebarPanel, bpy.types.Panel):
    bl_label = "Variations"
    bl_order = 1

    @classmethod
    def poll(cls, context):
        return session.shown is not None and len(siblings(session.shown)) > 1

    def draw(self, context):
        grid = self.layout.grid_flow(row_major=True, columns=2, even_columns=True, align=True)
        for job in siblings(session.shown):
            cell = grid.box().column(align=True)
            if job.preview is not None:
                cell.template_icon(icon_value=previews.icon(job.preview), scale=PREVIEW_SCALE)
            row = cell.row(align=True)
            seed = str(job.request.seed) if job.request else job.id
            show = row.operator(
                "recdreamer.show_job",
                text=describe.one_line(seed, 8),
                icon=CONDITION_ICONS[job.condition],
                depress=job is session.shown,
            )
            show.job_id = job.id
            if not why_not_refine(job):
                cell.operator("recdreamer.refine").job_id = job.id


CLASSES = (RECDREAMER_PT_queue, RECDREAMER_PT_variations)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
