"""Stop a job, of this Blender or of another one: what becomes of it is asked, and done when its worker has ended."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty

from ..jobs.finish import can_finish
from ..jobs.registry import Job
from ..language.translation import hint, say
from ..session import session
from .jobs import JobOperator

CHOICES = (
    ("KEEP", "Keep for Later", "Stop and save. Resume continues it", "PAUSE", 0),
    ("IMPORT", "Import What Is There", "Stop, make a mesh of what is there now, and import it", "IMPORT", 1),
    ("DELETE", "Delete", "Stop, and delete this job and its files permanently", "TRASH", 2),
)


class RECDREAMER_OT_pause(JobOperator, bpy.types.Operator):
    """Save the job and free the GPU. Resume continues it later"""

    bl_idname = "recdreamer.pause"
    bl_label = "Pause"

    def act(self, context, job):
        if job.why_not_stop:
            return job.why_not_stop
        session.registry.ask_to_stop(job, "pause")
        return ""


class RECDREAMER_OT_cancel(JobOperator, bpy.types.Operator):
    """Stop this job: import what is there, keep it for later, or delete it"""

    bl_idname = "recdreamer.cancel"
    bl_label = "Stop"

    then: EnumProperty(
        name="Then", description="What becomes of the job", items=CHOICES, options={"SKIP_SAVE"}
    )

    @classmethod
    def description(cls, context, properties):
        if not properties.is_property_set("then"):
            return hint(cls.__doc__)
        return hint(next(text for name, _, text, *_ in CHOICES if name == properties.then))

    def invoke(self, context, event):
        if self.properties.is_property_set("then"):
            return self.execute(context)
        job_id = self.job_id

        def draw(menu, context) -> None:
            for name, label, _, icon, _ in CHOICES:
                choice = menu.layout.operator(self.bl_idname, text=label, icon=icon)
                choice.job_id, choice.then = job_id, name

        context.window_manager.popup_menu(draw, title=say("Stop This Job?"))
        return {"FINISHED"}

    def act(self, context, job):
        if job.why_not_stop:
            return job.why_not_stop
        if self.then == "IMPORT" and (reason := why_nothing_to_import(job)):
            return reason
        session.registry.ask_to_stop(job, "cancel")
        if self.then != "KEEP":
            session.after_stop[job.id] = self.then
        return ""


class RECDREAMER_OT_keep_running(JobOperator, bpy.types.Operator):
    """Choose what this job does when Blender closes: continue, or save so that Resume continues it later"""

    bl_idname = "recdreamer.keep_running"
    bl_label = "Continue After Closing Blender"

    keep: BoolProperty(name="Continue", description="Whether the job continues", default=True)

    def act(self, context, job):
        if job.client is None:
            return "This job is not run by this Blender."
        job.client.keep_running(self.keep)
        return ""


def why_nothing_to_import(job: Job) -> str:
    """Why there is nothing to make a mesh of; empty if there is."""
    if job.has_result or can_finish(job):
        return ""
    return "There is nothing to import yet. Wait until the first stage has begun, or keep the job for later."


CLASSES = (RECDREAMER_OT_pause, RECDREAMER_OT_cancel, RECDREAMER_OT_keep_running)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
