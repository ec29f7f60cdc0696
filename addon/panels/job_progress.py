"""How far a job is and what it looks like: bars, preview, shares of the poses; one line of it in the status bar."""

from __future__ import annotations

from dataclasses import replace

import bpy

from ...backend.recdreamer.shared.protocol import MAX_CLASSES
from .. import describe
from ..jobs.registry import Job
from ..jobs.turns import one_before
from ..language.translation import pose, say
from ..layout import draw_text, icon_scale
from ..pictures import previews
from ..preference_access import get_preferences
from ..session import session
from .enlarged import shown_preview


def name_of(job: Job) -> str:
    return describe.one_line(job.request.prompt if job.request else job.id)


def draw_progress(layout, job: Job) -> None:
    """Draw a bar for the whole job and one for its stage; with speed and remaining time while it runs."""
    stages = job.request.stages_to_run if job.request else ()
    is_running = job.client is not None or job.condition == "running elsewhere"
    state = job.state if is_running else replace(job.state, it_per_s=0.0, eta_s=None)
    factor, text = describe.whole_progress(state, stages)
    column = layout.column(align=True)
    column.progress(factor=factor, text=say(text))
    factor, text = describe.progress(state, session.since(job))
    speed = describe.speed(state)
    column.progress(factor=factor, text=say(f"{text}  ·  {speed}" if speed else text))


def why_waiting(job: Job) -> str:
    """What a job waits for that starts by itself, in one sentence."""
    registry = session.registry
    if registry.queue.is_held:
        return "The queue is held."
    if session.paused_for_render is not None:
        return "It starts after the render."
    before = one_before(registry, job)
    if before is not None:
        return f"It starts after “{name_of(before)}”."
    if session.errand is not None and session.errand.task.is_running:
        return f"It starts when this is done: {session.errand.task.title}."
    return "Another Blender uses its device."


def draw_preview(layout, job: Job, context) -> None:
    """Draw the newest preview, or the earlier one that the slider below it chooses."""
    path = shown_preview(job)
    if path is None:
        return
    scale = icon_scale(context, 2 * previews.VIEW_PX)
    layout.template_icon(icon_value=previews.icon(path, is_large=True), scale=scale)
    row = layout.row(align=True)
    row.prop(bpy.context.window_manager, "recdreamer_preview", slider=True)
    if job.client is not None:
        row.prop(get_preferences(), "live_mesh", text="", icon="MESH_MONKEY")
    row.operator("recdreamer.enlarge", text="", icon="FULLSCREEN_ENTER", depress=session.is_enlarged)


def draw_poses(layout, job: Job, context) -> None:
    """Draw the shares of the poses below the share that all would have if no side was neglected."""
    bars = describe.pose_bars(job.state.pose_distribution)[:MAX_CLASSES]
    if not bars:
        return
    target = 1 / len(bars)
    draw_text(layout, "Poses seen; equal shares are best:", context)
    column = layout.column(align=True)
    column.progress(factor=target, text=say(f"target  {100 * target:.0f} %"))
    for label, share in bars:
        column.progress(factor=share, text=f"{describe.one_line(pose(label), 30)}  {100 * share:.0f} %")


def status_line() -> tuple[str, str]:
    """Text and icon for the status bar; an empty text if there is nothing to tell."""
    running = session.registry.running
    if running is not None:
        text = describe.status_line(running.state, session.since(running))
        return f"{describe.one_line(name_of(running), 40)}: {say(text)}", "SHADERFX"
    ended = session.ended
    if ended is None:
        return "", "NONE"
    icon = {"done": "CHECKMARK", "failed": "ERROR"}.get(ended.job.condition, "INFO")
    text = say(describe.end_line(ended.job.condition, ended.job.state.message))
    return describe.one_line(f"{describe.one_line(name_of(ended.job), 40)}: {text}", 120), icon


def draw_status_bar(header, context) -> None:
    text, icon = status_line()
    if text:
        header.layout.separator_spacer()
        header.layout.label(text=text, icon=icon)


def register() -> None:
    bpy.types.STATUSBAR_HT_header.append(draw_status_bar)


def unregister() -> None:
    bpy.types.STATUSBAR_HT_header.remove(draw_status_bar)
