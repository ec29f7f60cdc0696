"""Operators of the preferences that install and check the backend."""

from __future__ import annotations

import bpy

from ... import __package__ as base_package
from ..jobs import environment
from ..jobs.registry import writable_folder
from ..preference_access import get_preferences
from ..session import session
from .guarded import GuardedOperator, why_not
from .jobs import JOB_IS_RUNNING


def _why_task_busy() -> str:
    is_running = session.task is not None and session.task.is_running
    return "The backend is being installed or checked. Wait, or cancel it." if is_running else ""


def why_not_install() -> str:
    """Why Install Backend is grayed out; empty if it is not."""
    if not bpy.app.online_access:
        return "Installing the backend needs a download. Allow Online Access in Preferences › System first."
    if session.registry.running is not None:
        return JOB_IS_RUNNING
    return _why_task_busy()


class RECDREAMER_OT_set_up_backend(GuardedOperator, bpy.types.Operator):
    """Create a Python environment for the backend in the data folder and download its dependencies"""

    bl_idname = "recdreamer.set_up_backend"
    bl_label = "Install Backend"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_install())

    def run(self, context):
        preferences = get_preferences()
        session.task = environment.install(writable_folder(preferences.folder), preferences.build)


class RECDREAMER_OT_check_backend(GuardedOperator, bpy.types.Operator):
    """Check whether the backend has everything it needs"""

    bl_idname = "recdreamer.check_backend"
    bl_label = "Run Diagnostics"

    @classmethod
    def poll(cls, context):
        return why_not(cls, _why_task_busy())

    def run(self, context):
        session.task = environment.diagnose(get_preferences().find_interpreter())


class RECDREAMER_OT_cancel_backend_task(GuardedOperator, bpy.types.Operator):
    """Cancel the running installation or diagnostics"""

    bl_idname = "recdreamer.cancel_backend_task"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if _why_task_busy() else "Nothing is being installed or checked.")

    def run(self, context):
        session.task.cancel()


class RECDREAMER_OT_open_preferences(GuardedOperator, bpy.types.Operator):
    """Open the RecDreamer preferences"""

    bl_idname = "recdreamer.open_preferences"
    bl_label = "Open Preferences"

    def run(self, context):
        bpy.ops.preferences.addon_show(module=base_package)


CLASSES = (
    RECDREAMER_OT_set_up_backend,
    RECDREAMER_OT_check_backend,
    RECDREAMER_OT_cancel_backend_task,
    RECDREAMER_OT_open_preferences,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
