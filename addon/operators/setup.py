"""Set-up and check of the backend's environment, from the preferences."""

from __future__ import annotations

import bpy

from ... import __package__ as base_package
from ...backend.recdreamer.protocol import RequestError
from ..jobs import environment
from ..jobs.registry import writable_folder
from ..preference_access import get_preferences
from ..session import session
from .jobs import why_not


def _why_busy() -> str:
    return "Wait for the end, or cancel it." if session.task is not None and session.task.is_running else ""


def why_not_set_up() -> str:
    """Why Set Up is grey; empty when it is not."""
    if not bpy.app.online_access:
        return "Set Up downloads the backend: allow Online Access in Preferences > System first."
    if session.registry.running is not None:
        return "A job is running. Pause or cancel it first."
    return _why_busy()


class RECDREAMER_OT_set_up_backend(bpy.types.Operator):
    """Make a Python environment for the backend in the data folder and download what it needs"""

    bl_idname = "recdreamer.set_up_backend"
    bl_label = "Set Up"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_set_up())

    def execute(self, context):
        preferences = get_preferences()
        try:
            session.task = environment.set_up(writable_folder(preferences.folder), preferences.build)
        except RequestError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class RECDREAMER_OT_check_backend(bpy.types.Operator):
    """Ask the backend whether everything it needs is there"""

    bl_idname = "recdreamer.check_backend"
    bl_label = "Check"

    @classmethod
    def poll(cls, context):
        return why_not(cls, _why_busy())

    def execute(self, context):
        try:
            session.task = environment.check(get_preferences().find_interpreter())
        except RequestError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class RECDREAMER_OT_cancel_backend_task(bpy.types.Operator):
    """Stop the set-up"""

    bl_idname = "recdreamer.cancel_backend_task"
    bl_label = "Cancel Set-Up"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if _why_busy() else "Nothing is being set up.")

    def execute(self, context):
        session.task.cancel()
        return {"FINISHED"}


class RECDREAMER_OT_open_preferences(bpy.types.Operator):
    """Open the preferences of RecDreamer"""

    bl_idname = "recdreamer.open_preferences"
    bl_label = "Open Preferences"

    def execute(self, context):
        return bpy.ops.preferences.addon_show(module=base_package)


CLASSES = (
    RECDREAMER_OT_set_up_backend,
    RECDREAMER_OT_check_backend,
    RECDREAMER_OT_cancel_backend_task,
    RECDREAMER_OT_open_preferences,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
