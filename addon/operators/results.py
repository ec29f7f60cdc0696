"""Start from an earlier result, and undo a painted texture."""

from __future__ import annotations

import bpy

from ..objects.object_keys import job_of
from ..result import paint_import
from ..session import session
from .guarded import GuardedOperator, why_not
from .jobs import NO_ACTIVE_RESULT, NOT_OBJECT_MODE, JobOperator


class RECDREAMER_OT_continue_job(JobOperator, bpy.types.Operator):
    """Start the next job from this result, with the prompt and settings of the panel"""

    bl_idname = "recdreamer.continue_job"
    bl_label = "Use as Start"
    bl_options = {"REGISTER", "UNDO"}

    def act(self, context, job):
        if job.why_not_continue:
            return job.why_not_continue
        start = context.scene.recdreamer.start
        if start.job != job.id:
            # The old region belongs to another object.
            start.region = ""
        start.kind, start.job = "continue", job.id
        return ""


class RECDREAMER_OT_continue_selected(GuardedOperator, bpy.types.Operator):
    """Start the next job from the result that the active object shows"""

    bl_idname = "recdreamer.continue_selected"
    bl_label = "Start from Selected"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        job_id = job_of(context.object)
        if not job_id:
            return why_not(cls, NO_ACTIVE_RESULT)
        job = session.registry.find(job_id)
        return why_not(cls, job.why_not_continue if job else "The job of this object was deleted.")

    def run(self, context):
        bpy.ops.recdreamer.continue_job(job_id=job_of(context.object))


class RECDREAMER_OT_restore_materials(GuardedOperator, bpy.types.Operator):
    """Assign the materials that the faces had before painting. The painted materials stay in their slots"""

    bl_idname = "recdreamer.restore_materials"
    bl_label = "Restore Materials"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if context.mode != "OBJECT":
            return why_not(cls, NOT_OBJECT_MODE)
        is_painted = paint_import.is_painted(context.object)
        return why_not(cls, "" if is_painted else "The active object was not painted by RecDreamer.")

    def run(self, context):
        paint_import.restore_materials(context.object)


CLASSES = (
    RECDREAMER_OT_continue_job,
    RECDREAMER_OT_continue_selected,
    RECDREAMER_OT_restore_materials,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
