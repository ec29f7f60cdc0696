"""The buttons that cure a trouble and are nothing else's; the table is in addon/cures.py."""

from __future__ import annotations

import dataclasses
import re

import bpy
from bpy.props import EnumProperty, StringProperty

from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR, JobRequest
from ...backend.recdreamer.shared.safe_files import confined
from ..jobs.origin import ORIGIN, Origin
from ..jobs.placement import start_files_of
from ..jobs.registry import Job
from ..jobs.retry import config_of, smaller
from ..language.translation import hint
from ..preference_access import get_preferences
from ..properties import RecDreamerSettings
from ..session import session
from .guarded import GuardedOperator, open_outside, why_not
from .jobs import JobOperator, random_seed, start_or_wait, why_not_start

EXAMPLES = {True: "a red bear", False: "a wooden chair"}
"""A prompt that the image model can draw: the built-in one, another one."""
CHANGES = (
    ("smaller", "Smaller", "With less need of memory: fewer and smaller pictures per step"),
    ("seed", "New Seed", "With another random seed"),
)


class RECDREAMER_OT_example_prompt(GuardedOperator, bpy.types.Operator):
    """Write an example into the prompt that the image model can draw"""

    bl_idname = "recdreamer.example_prompt"
    bl_label = "Use an Example"
    bl_options = {"REGISTER", "UNDO"}

    prompt: StringProperty(name="Prompt", description="Empty: an example", options={"SKIP_SAVE"})

    @classmethod
    def description(cls, context, properties):
        return hint(f"Set the prompt to “{properties.prompt}”" if properties.prompt else cls.__doc__)

    def run(self, context):
        is_builtin = get_preferences().image_model == BUILTIN_PRIOR
        context.scene.recdreamer.prompt = self.prompt or EXAMPLES[is_builtin]


class RECDREAMER_OT_show_template(GuardedOperator, bpy.types.Operator):
    """Show the template that causes this, right here"""

    bl_idname = "recdreamer.show_template"
    bl_label = "Show Template"

    @classmethod
    def poll(cls, context):
        has_some = len(context.scene.recdreamer.templates) > 0
        return why_not(cls, "" if has_some else "There is no template in this scene.")

    def run(self, context):
        job = session.shown
        message = job.state.message if job is not None and job.state.kind == "template" else ""
        session.shown_template = template_at_fault(context.scene.recdreamer, message)


def template_at_fault(settings: RecDreamerSettings, message: str = "") -> str:
    """Image of the card that keeps a job from starting, or that a message of the backend names by its number."""
    for card in settings.enabled_templates:
        if not card.label.strip() or card.is_missing:
            return card.image
    number = re.search(r"'(\d+)\.\w+'", message)
    enabled = settings.enabled_templates or list(settings.templates)
    return enabled[int(number[1]) if number and int(number[1]) < len(enabled) else 0].image


class RECDREAMER_OT_start_from_active(GuardedOperator, bpy.types.Operator):
    """Start from the active object"""

    bl_idname = "recdreamer.start_from_active"
    bl_label = "Use Active Object"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if context.object is not None else "Select an object first.")

    def run(self, context):
        start = context.scene.recdreamer.start
        if start.kind == "continue":
            bpy.ops.recdreamer.continue_selected()
        else:
            start.object = context.object


class RECDREAMER_OT_show_running(GuardedOperator, bpy.types.Operator):
    """Show the job that is running"""

    bl_idname = "recdreamer.show_running"
    bl_label = "Show Job"

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if session.registry.running is not None else "No job is running.")

    def run(self, context):
        session.shown_id = session.registry.running.id


class RECDREAMER_OT_open_job_log(JobOperator, bpy.types.Operator):
    """Open the log of this job"""

    bl_idname = "recdreamer.open_log"
    bl_label = "Open Log"

    def act(self, context, job):
        path = confined(job.folder.root, job.folder.log.name)
        if not path.is_file():
            return "This job has no log yet."
        return open_outside(path)


class RECDREAMER_OT_retry(JobOperator, bpy.types.Operator):
    """Run this job again as a new one, with one change"""

    bl_idname = "recdreamer.retry"
    bl_label = "Retry"

    change: EnumProperty(name="Change", items=CHANGES)

    @classmethod
    def description(cls, context, properties):
        text = next(text for change, _, text in CHANGES if change == properties.change)
        return f"{hint('Run this job again as a new one')}. {hint(text)}"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_start())

    def act(self, context, job):
        if job.request is None:
            return job.problem
        request = changed(job, job.request, self.change)
        files = start_files_of(job.folder) | {ORIGIN: Origin("retry", job.id).to_json().encode()}
        again = session.registry.create(request, job.pictures, files)
        start_or_wait(self, again)
        return ""


def changed(job: Job, request: JobRequest, change: str) -> JobRequest:
    """The request of a job with one change. Raises RequestError."""
    if change == "seed":
        return dataclasses.replace(request, seed=random_seed())
    decoder = next((row.id for row in session.models.choices("decoder") if row.is_here), "")
    return smaller(request, config_of(job.folder.root), decoder)


CLASSES = (
    RECDREAMER_OT_example_prompt,
    RECDREAMER_OT_show_template,
    RECDREAMER_OT_start_from_active,
    RECDREAMER_OT_show_running,
    RECDREAMER_OT_open_job_log,
    RECDREAMER_OT_retry,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
