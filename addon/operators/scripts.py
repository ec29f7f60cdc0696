"""Operators for scripts: a job with settings of its own, waiting for jobs, and a job as a command."""

from __future__ import annotations

import time

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from ..jobs.command_line import python_command, shell_command
from ..preference_access import DEVICES
from ..properties import METHODS, QUALITIES
from ..session import pump, session
from .guarded import GuardedOperator, why_not
from .jobs import JobOperator, images_of, parse_overrides, prepared_request, start_or_wait, why_not_start

PANEL = ("PANEL", "As in the Panel", "The value that the panel has")
LANGUAGES = (
    ("SHELL", "Shell", "A command of recdreamer for a terminal"),
    ("PYTHON", "Python", "A call for Blender's Python Console"),
)
POLL_S = 0.1


class RECDREAMER_OT_generate_job(GuardedOperator, bpy.types.Operator):
    """Generate with the settings of the panel, but for those that are given here; for scripts"""

    bl_idname = "recdreamer.generate_job"
    bl_label = "Generate with Settings"

    prompt: StringProperty(name="Prompt", description="Empty: that of the panel", options={"SKIP_SAVE"})
    method: EnumProperty(
        name="Method", description="How the job optimizes", items=(PANEL, *METHODS), options={"SKIP_SAVE"}
    )
    quality: EnumProperty(
        name="Quality", description="How long it works", items=(PANEL, *QUALITIES), options={"SKIP_SAVE"}
    )
    device: EnumProperty(
        name="Device", description="Which device runs the job", items=(PANEL, *DEVICES), options={"SKIP_SAVE"}
    )
    seed: IntProperty(
        name="Seed", description="-1: that of the panel", default=-1, min=-1, options={"SKIP_SAVE"}
    )
    height_m: FloatProperty(
        name="Height", description="Height in meters. 0: that of the panel", min=0.0, options={"SKIP_SAVE"}
    )
    overrides: StringProperty(
        name="Overrides", description="Settings of the backend as JSON", options={"SKIP_SAVE"}
    )
    wait: BoolProperty(
        name="Wait",
        description="Return when the job has ended. Blender freezes meanwhile",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_start())

    def run(self, context):
        fields = {"prompt": self.prompt} if self.prompt else {}
        chosen = {"method": self.method, "quality": self.quality, "device": self.device}
        fields |= {name: value for name, value in chosen.items() if value != "PANEL"}
        fields |= {"seed": self.seed} if self.seed >= 0 else {}
        fields |= {"height_m": self.height_m} if self.height_m > 0 else {}
        request, files = prepared_request(context, parse_overrides(self.overrides), fields)
        job = session.registry.create(request, images_of(context), files)
        start_or_wait(self, job)
        return wait_for(job.id) if self.wait else ""


class RECDREAMER_OT_wait_for_job(JobOperator, bpy.types.Operator):
    """Return when this job has ended; for scripts. Blender freezes meanwhile"""

    bl_idname = "recdreamer.wait_for_job"
    bl_label = "Wait for Job"

    def act(self, context, job):
        return wait_for(job.id)


def wait_for(job_id: str) -> str:
    """Wait until a job has ended. Returns why it has no result, or an empty string."""
    while (job := session.registry.find(job_id)) is not None:
        if not job.is_busy:
            return "" if job.condition == "done" else job.state.message or f"The job is {job.condition}."
        if job.is_waiting and session.registry.queue.is_held:
            return session.queue_problem or "The queue is held."
        pump()
        time.sleep(POLL_S)
    return "The job was deleted."


class RECDREAMER_OT_copy_command(JobOperator, bpy.types.Operator):
    """Copy a command that makes a job with these settings"""

    bl_idname = "recdreamer.copy_command"
    bl_label = "Copy as Command"

    language: EnumProperty(name="Language", description="Where the command runs", items=LANGUAGES)

    def act(self, context, job):
        if job.request is None:
            return job.problem
        if self.language == "PYTHON":
            text = python_command(job.request, __package__.rpartition(".")[0])
        else:
            text = shell_command(job.request, str(job.folder.root), f"{job.id}-again")
        context.window_manager.clipboard = text
        left = len(job.request.templates)
        if left:
            self.tell("WARNING", f"The {left} templates are not in the command; the panel can restore them.")
        return ""


CLASSES = (RECDREAMER_OT_generate_job, RECDREAMER_OT_wait_for_job, RECDREAMER_OT_copy_command)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
