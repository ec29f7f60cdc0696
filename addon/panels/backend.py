"""The backend section of the preferences."""

from __future__ import annotations

import bpy

from ..layout import draw_text
from ..operators.setup import why_not_install
from ..session import session


def draw_backend(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences, context) -> None:
    """Draw the state of the backend and its buttons."""
    row = layout.row()
    row.label(text="Backend", icon="CONSOLE")
    row.operator("recdreamer.check_backend", icon="CHECKMARK")
    layout.prop(preferences, "backend_python", placeholder="created by Install Backend")
    row = layout.row()
    row.prop(preferences, "build", expand=True)
    layout.operator("recdreamer.set_up_backend", icon="IMPORT")

    task = session.task
    reason = why_not_install()
    if reason and not (task is not None and task.is_running):
        draw_text(layout, reason, context, "INFO")
    if task is None:
        problem = preferences.why_no_backend
        text = problem or f"Ready: {preferences.find_interpreter()}"
        icon = "INFO" if problem else "CHECKMARK"
    elif task.is_running:
        row = layout.row(align=True)
        row.progress(
            factor=(task.index + 0.5) / len(task.steps),
            text=f"{task.title} ({task.index + 1}/{len(task.steps)})",
        )
        row.operator("recdreamer.cancel_backend_task", text="", icon="X")
        text, icon = task.line, "NONE"
    elif task.problem:
        text, icon = task.problem, "ERROR"
    else:
        text, icon = task.line or "The backend works.", "CHECKMARK"
    draw_text(layout, text, context, icon)
