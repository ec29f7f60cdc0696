"""Operators of the preferences that install, check and remove the backend."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty

from ... import __package__ as base_package
from ...backend.recdreamer.shared.protocol import RequestError
from ..jobs import environment
from ..jobs.registry import writable_folder
from ..preference_access import get_preferences
from ..session import session
from ..setup import builds, installation, locks, report, storage
from ..setup.remedies import SetupError
from ..trouble import Reason
from .guarded import GuardedOperator, open_outside, why_not
from .jobs import JOB_IS_RUNNING


def _why_task_busy() -> Reason:
    is_running = session.task is not None and session.task.is_running
    return Reason("The backend is being installed or checked. Wait, or cancel it." if is_running else "")


def why_not_install() -> Reason:
    """Why Install Backend is grayed out; empty if it is not."""
    is_forced = getattr(bpy.app, "online_access_override", False)
    reason = environment.why_offline(bpy.app.online_access, is_forced, get_preferences().wheels)
    if reason:
        return Reason(reason, "internal" if is_forced else "offline")
    if session.registry.running is not None:
        return JOB_IS_RUNNING
    return _why_task_busy()


class RECDREAMER_OT_set_up_backend(GuardedOperator, bpy.types.Operator):
    """Download the backend into the data folder and install it there. What an earlier try has fetched is used"""

    bl_idname = "recdreamer.set_up_backend"
    bl_label = "Install Backend"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_install())

    def run(self, context):
        preferences = get_preferences()
        folder = writable_folder(preferences.folder)
        choice = environment.choose(session.hardware.wait(), preferences.build)
        session.task = environment.install(folder, choice, preferences.wheels)


class RECDREAMER_OT_check_backend(GuardedOperator, bpy.types.Operator):
    """Check whether the backend has everything it needs, and run a small job on the chosen device"""

    bl_idname = "recdreamer.check_backend"
    bl_label = "Run Diagnostics"

    @classmethod
    def poll(cls, context):
        return why_not(cls, _why_task_busy())

    def run(self, context):
        preferences = get_preferences()
        interpreter = preferences.find_interpreter()
        session.task = environment.Diagnosis(interpreter, preferences.folder, preferences.device)


class RECDREAMER_OT_copy_report(GuardedOperator, bpy.types.Operator):
    """Copy the result of the diagnostics to the clipboard, without names of your folders"""

    bl_idname = "recdreamer.copy_report"
    bl_label = "Copy Report"

    @classmethod
    def poll(cls, context):
        has_rows = bool(getattr(session.task, "rows", ()))
        return why_not(cls, "" if has_rows else "Run the diagnostics first.")

    def run(self, context):
        folder = get_preferences().folder
        status = installation.read_status(folder, builds.BUILDS)
        facts = {
            "Blender": bpy.app.version_string,
            "Build": "none"
            if status is None
            else f"{status.build}, {'current' if status.is_current else 'old'}",
            "uv": locks.UV_VERSION,
        }
        context.window_manager.clipboard = report.compose(
            session.task.rows, session.hardware.machine, facts, {"data folder": folder}
        )


class RECDREAMER_OT_look_again(GuardedOperator, bpy.types.Operator):
    """Look again which graphics cards and drivers this computer has"""

    bl_idname = "recdreamer.look_again"
    bl_label = "Look Again"

    def run(self, context):
        session.hardware.forget()
        session.hardware.ask()


class RECDREAMER_OT_cancel_backend_task(GuardedOperator, bpy.types.Operator):
    """Cancel the running installation or diagnostics. What was downloaded is kept for the next try"""

    bl_idname = "recdreamer.cancel_backend_task"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if _why_task_busy() else "Nothing is being installed or checked.")

    def run(self, context):
        session.task.cancel()


PARTS = (
    ("environment", "Backend", "The Python environment and what was downloaded for it"),
    ("models", "Image Models", "Image models that were downloaded"),
    ("caches", "Caches", "Compiled kernels and features of templates, which are made again when needed"),
)


class RECDREAMER_OT_remove_backend(GuardedOperator, bpy.types.Operator):
    """Delete this from the disk. Jobs and their results stay"""

    bl_idname = "recdreamer.remove_backend"
    bl_label = "Remove"

    part: EnumProperty(name="Part", items=PARTS)

    @classmethod
    def poll(cls, context):
        return why_not(cls, JOB_IS_RUNNING if session.registry.running is not None else _why_task_busy())

    def invoke(self, context, event):
        return context.window_manager.invoke_confirm(self, event)

    def run(self, context):
        wanted = storage.parts(get_preferences().folder)
        try:
            storage.remove(next(part for part in wanted if part.name == self.part))
        except SetupError as error:
            raise RequestError(error.sentence, error.cure) from error
        finally:
            session.sizes.measure_parts(wanted)
        session.task = None


class RECDREAMER_OT_measure_backend(GuardedOperator, bpy.types.Operator):
    """Measure what the backend takes on the disk"""

    bl_idname = "recdreamer.measure_backend"
    bl_label = "Show Sizes"

    def run(self, context):
        session.sizes.measure_parts(storage.parts(get_preferences().folder))


class RECDREAMER_OT_open_log(GuardedOperator, bpy.types.Operator):
    """Open the log of the last installation"""

    bl_idname = "recdreamer.open_install_log"
    bl_label = "Open Log"

    @classmethod
    def poll(cls, context):
        is_there = installation.Places(get_preferences().folder).log.is_file()
        return why_not(cls, "" if is_there else "Nothing was installed yet.")

    def run(self, context):
        return open_outside(installation.Places(get_preferences().folder).log)


class RECDREAMER_OT_open_preferences(GuardedOperator, bpy.types.Operator):
    """Open the RecDreamer preferences"""

    bl_idname = "recdreamer.open_preferences"
    bl_label = "Open Preferences"

    def run(self, context):
        bpy.ops.preferences.addon_show(module=base_package)


CLASSES = (
    RECDREAMER_OT_set_up_backend,
    RECDREAMER_OT_check_backend,
    RECDREAMER_OT_copy_report,
    RECDREAMER_OT_look_again,
    RECDREAMER_OT_cancel_backend_task,
    RECDREAMER_OT_remove_backend,
    RECDREAMER_OT_measure_backend,
    RECDREAMER_OT_open_log,
    RECDREAMER_OT_open_preferences,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
