"""The backend section of the preferences: what fits this computer, its installation, its diagnosis, its removal."""

from __future__ import annotations

import bpy

from ..jobs import environment
from ..jobs.task import CANCELED
from ..language.translation import say
from ..layout import draw_text
from ..operators.setup import why_not_install
from ..preference_access import get_preferences
from ..session import session
from ..setup import builds, installation, storage
from .cure_buttons import draw_cure

WHAT = "Jobs run in a program of their own, the backend, which is not on this computer yet."


def draw_backend(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences, context) -> None:
    """Draw the state of the backend and its buttons."""
    row = layout.row()
    row.label(text="Backend", icon="CONSOLE")
    row.operator("recdreamer.check_backend", icon="CHECKMARK")
    layout.prop(preferences, "backend_python", placeholder="created by Install Backend")
    task = session.task
    if task is not None and task.is_running:
        _draw_running(layout, task, context)
    else:
        if not preferences.backend_python:
            _draw_install(layout, preferences, context)
        _draw_state(layout, preferences, context)
    rows = getattr(task, "rows", ())
    if rows:
        _draw_rows(layout.box(), rows, preferences, context)
    _draw_storage(layout, preferences)


def draw_card_of_backend(layout: bpy.types.UILayout, context) -> None:
    """All that the tab shows while there is no backend: what is missing, how large it is, where it goes, one button."""
    preferences, task = get_preferences(), session.task
    layout.label(text="Set Up RecDreamer", icon="TOOL_SETTINGS")
    if task is not None and task.is_running:
        _draw_running(layout, task, context)
        return
    reason = preferences.why_no_backend
    if preferences.backend_python:
        draw_text(layout, reason, context, "ERROR")
        draw_cure(layout, reason.kind)
        return
    draw_text(layout, WHAT if reason.kind == "not_installed" else reason, context)
    machine = session.hardware.ask()
    if machine is None:
        layout.label(text="Looking for graphics cards…", icon="TIME")
        return
    choice = environment.choose(machine, preferences.build)
    draw_text(layout, choice.sentence, context, "INFO")
    if choice.remedy:
        draw_text(layout, choice.remedy, context, "ERROR")
    if choice.build is not None:
        draw_text(layout, f"{installation.describe_size(choice.build)}.", context, "IMPORT")
        draw_text(layout, f"Goes into {preferences.folder}.", context, "FILE_FOLDER")
        _draw_install_button(layout, context, choice.build)
    if task is not None and task.problem:
        draw_text(layout, task.problem, context, "INFO" if task.problem == CANCELED else "ERROR")
        layout.operator("recdreamer.open_install_log", icon="TEXT")
    layout.operator("recdreamer.open_preferences", text="Options", icon="PREFERENCES")


def _draw_install_button(layout: bpy.types.UILayout, context, build: builds.Build) -> None:
    """The button, and if it is grayed out why, and what helps."""
    status = installation.read_status(get_preferences().folder, builds.BUILDS)
    if status is None:
        has_failed = isinstance(session.task, environment.Install) and bool(session.task.problem)
        text = "Try Again" if has_failed else "Install Backend"
    elif not status.is_current:
        text = "Update Backend"
    else:
        text = "Install Again" if status.build == build.name else "Change Build"
    button = layout.column()
    button.scale_y = 1.5
    button.operator("recdreamer.set_up_backend", text=text, icon="IMPORT")
    reason = why_not_install()
    if reason:
        draw_text(layout, reason, context, "ERROR")
        draw_cure(layout, reason.kind)


def _draw_install(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences, context) -> None:
    """What was found here, what will be downloaded, where to, and the button."""
    machine = session.hardware.ask()
    row = layout.row(align=True)
    row.prop(preferences, "build")
    row.operator("recdreamer.look_again", text="", icon="FILE_REFRESH")
    if machine is None:
        layout.label(text="Looking for graphics cards…", icon="TIME")
        return
    choice = environment.choose(machine, preferences.build)
    draw_text(layout, choice.sentence, context, "INFO")
    if choice.remedy:
        draw_text(layout, choice.remedy, context, "ERROR")
    if choice.build is None:
        return
    draw_text(layout, f"{installation.describe_size(choice.build)}.", context, "IMPORT")
    draw_text(layout, f"Goes into {preferences.folder}.", context, "FILE_FOLDER")
    layout.prop(preferences, "wheels_folder", placeholder="optional: installs without network")
    _draw_install_button(layout, context, choice.build)


def _draw_running(layout: bpy.types.UILayout, task, context) -> None:
    row = layout.row(align=True)
    factor = getattr(task, "factor", (task.index + 0.5) / len(task.steps))
    row.progress(factor=factor, text=say(task.title))
    row.operator("recdreamer.cancel_backend_task", text="", icon="X")
    draw_text(layout, task.line, context, "NONE")


def _draw_state(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences, context) -> None:
    task = session.task
    problem = preferences.why_no_backend
    if task is not None and task.problem:
        draw_text(layout, task.problem, context, "INFO" if task.problem == CANCELED else "ERROR")
        if isinstance(task, environment.Install):
            layout.operator("recdreamer.open_install_log", icon="TEXT")
    elif task is not None and getattr(task, "rows", ()):
        draw_text(layout, environment.summary(task.rows), context, "CHECKMARK")
    elif problem:
        draw_text(layout, problem, context, "INFO")
    else:
        draw_text(layout, say("Ready: {0}").format(preferences.find_interpreter()), context, "CHECKMARK")


def _draw_rows(layout: bpy.types.UILayout, rows, preferences: bpy.types.AddonPreferences, context) -> None:
    """Each check with its sentence, and below a failed one what may cure it."""
    for row in rows:
        draw_text(
            layout, f"{say(row.check)}: {say(row.text)}", context, "CHECKMARK" if row.is_ok else "ERROR"
        )
        if row.fix == "install":
            layout.operator("recdreamer.set_up_backend", text="Install Again", icon="IMPORT")
        elif row.fix == "data_folder":
            layout.prop(preferences, "data_folder", text="")
    layout.operator("recdreamer.copy_report", icon="COPYDOWN")


def _draw_storage(layout: bpy.types.UILayout, preferences: bpy.types.AddonPreferences) -> None:
    sizes = session.sizes.bytes_of
    if not sizes:
        layout.operator("recdreamer.measure_backend", icon="DISK_DRIVE")
        return
    for part in storage.parts(preferences.folder):
        if sizes.get(part.name):
            row = layout.row()
            row.label(text=f"{say(part.label)}: {sizes[part.name] / 1e9:.2f} GB", icon="DISK_DRIVE")
            row.operator("recdreamer.remove_backend", icon="TRASH").part = part.name
