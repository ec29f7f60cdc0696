"""Operators on jobs: generate, stop, resume, redo, import, show, delete."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR, START_MESH, JobRequest, RequestError
from ..jobs.model_tasks import EXTRACTOR
from ..jobs.registry import Job
from ..language.translation import hint, say
from ..preference_access import get_preferences
from ..properties import metres_per_unit
from ..result import live_mesh, scene_import, viewing
from ..session import session, start_next
from ..trouble import Reason
from . import start_files, use_settings
from .capture import renew_turntable
from .guarded import GuardedOperator, open_outside, why_not

REPEATED = (
    ("geometry", "Geometry", "Refine the surface and paint it again, with a new seed"),
    ("texture", "Texture", "Paint the surface again, with a new seed"),
)
REDO = {"geometry": "Redo Geometry", "texture": "Redo Texture"}
REPLACED = "The current result is replaced when the new one is finished. Import then updates the object"


REPLACES = (
    (
        "EARLIER",
        "Earlier Version",
        "The draft that was refined, or the result of the job that was retried. Without one, a new object is added",
    ),
    ("ACTIVE", "Active Object", "The active object, which may be the result of any other job"),
    ("NOTHING", "Nothing", "A new object is added, unless that of this job is in the scene"),
)


NOT_OBJECT_MODE = Reason("Switch to Object Mode first.", "mode")
NO_ACTIVE_RESULT = "Make an imported result the active object first."
JOB_IS_RUNNING = Reason("A job is running. Pause or stop it first.", "running")
OVERRIDES_HINT = 'Write them like {"optimize.num_steps": 40}.'


def why_not_start() -> Reason:
    """Why no job can be started, now or when its turn comes; empty if one can."""
    return get_preferences().why_no_backend


def why_not_generate(context: bpy.types.Context) -> Reason:
    """Why Generate is grayed out, in one sentence with a remedy; empty if it is not."""
    reason = why_not_start()
    if reason:
        return reason
    try:
        request = context.scene.recdreamer.to_request()
    except RequestError as error:
        return Reason.of(error)
    return why_not_models_of(request)


def why_not_models_of(request: JobRequest) -> Reason:
    """Why a model that a job needs cannot be used; empty if all can, or as long as nothing is known of them."""
    models = session.models
    reason = models.why_not(request.prior, "prior")
    if not reason and request.prior != BUILTIN_PRIOR and request.method == "usd":
        reason = models.why_not(request.overrides.get("extractor", EXTRACTOR), "extractor")
        decoder = request.overrides.get("rectifier.tiny_decoder", "")
        reason = reason or (models.why_not(decoder, "decoder") if decoder else Reason())
    return reason


def start_or_wait(operator: bpy.types.Operator, job: Job, again: str = "", seed: int = 0) -> None:
    """Start a job, or let it wait until its device is free. Raises RequestError if it cannot be started."""
    session.registry.enqueue(job, again, seed)
    session.shown_id = job.id
    start_next(job.id)
    if job.is_waiting:
        place = 1 + [turn.job_id for turn in session.registry.queue.turns].index(job.id)
        operator.tell("INFO", f"The job waits for its turn: it is number {place} in the queue.")


def random_seed() -> int:
    return secrets.randbelow(10**6)


def prepared_request(
    context: bpy.types.Context,
    overrides: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
) -> tuple[JobRequest, dict[str, bytes]]:
    """The request of the panel, with other values for some `fields`, and the files of its start.

    Raises RequestError, before anything is written.
    """
    get_preferences().find_interpreter()
    settings, fields = context.scene.recdreamer, fields or {}
    request = settings.to_request(overrides, prompt_if_empty=fields.get("prompt", ""))
    unknown = fields.keys() - {field.name for field in dataclasses.fields(JobRequest)}
    if unknown:
        raise RequestError(
            f"A job has no setting {min(unknown)!r}.", "See docs/scripting.md for those it has."
        )
    request = dataclasses.replace(request, **fields)
    request.validate()
    request, files = start_files.prepare(context, request, metres_per_unit(context.scene))
    if settings.wants_turntable and renew_turntable(context, settings.start.objects, files[START_MESH]):
        # Generate itself has no undo step, so the new templates need one.
        bpy.ops.ed.undo_push(message="Turntable")
        templates = settings.to_request(overrides, prompt_if_empty=request.prompt).templates
        request = dataclasses.replace(request, templates=templates)
    return request, files


def parse_overrides(text: str) -> dict[str, Any]:
    """Settings of the backend from JSON; empty for no text. Raises RequestError."""
    try:
        overrides = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The overrides are not JSON ({error}).", OVERRIDES_HINT) from error
    if not isinstance(overrides, dict):
        raise RequestError("The overrides are no JSON object.", OVERRIDES_HINT)
    return overrides


def images_of(context: bpy.types.Context) -> list[Path]:
    """The pictures of the templates that a job of the panel gets."""
    return [template.path for template in context.scene.recdreamer.enabled_templates]


class JobOperator(GuardedOperator):
    """Base of operators on one job: finds it, and reports why it is missing or the action is refused."""

    job_id: StringProperty(
        name="Job", description="ID of the job. Empty: the job in the panel", options={"SKIP_SAVE"}
    )

    def run(self, context):
        job = session.registry.find(self.job_id) if self.job_id else session.shown
        if job is not None:
            return self.act(context, job)
        return f"There is no job {self.job_id}." if self.job_id else "There is no job yet."

    def act(self, context: bpy.types.Context, job: Job) -> str:
        """Returns why the job refuses the action, or an empty string. May raise RequestError."""
        raise NotImplementedError


class RECDREAMER_OT_generate(GuardedOperator, bpy.types.Operator):
    """Create or paint a 3D object from the prompt, in the background"""

    bl_idname = "recdreamer.generate"
    bl_label = "Generate"

    overrides: StringProperty(
        name="Overrides",
        description='Advanced settings of the backend as JSON, e.g. {"optimize.num_steps": 40}',
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_generate(context))

    def run(self, context):
        request, files = prepared_request(context, parse_overrides(self.overrides))
        job = session.registry.create(request, images_of(context), files)
        start_or_wait(self, job)


class RECDREAMER_OT_resume(JobOperator, bpy.types.Operator):
    """Continue from the newest checkpoint"""

    bl_idname = "recdreamer.resume"
    bl_label = "Resume"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_start())

    def act(self, context, job):
        start_or_wait(self, job)
        return ""


class RECDREAMER_OT_repeat_stage(JobOperator, bpy.types.Operator):
    """Run this stage and all later ones again, with a new seed"""

    bl_idname = "recdreamer.repeat_stage"
    bl_label = "Redo Stage"

    stage: EnumProperty(name="Stage", items=REPEATED)

    @classmethod
    def description(cls, context, properties):
        text = next(text for stage, _, text in REPEATED if stage == properties.stage)
        return f"{hint(text)}. {hint(REPLACED)}"

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_start())

    def invoke(self, context, event):
        title = say(REDO[self.stage])
        return context.window_manager.invoke_confirm(
            self, event, title=title, message=f"{say(REPLACED)}.", confirm_text=title
        )

    def act(self, context, job):
        if self.stage not in job.stages_to_repeat:
            return job.why_not_repeat or f"This job did not run the {self.stage} stage."
        start_or_wait(self, job, self.stage, random_seed())
        return ""


class RECDREAMER_OT_import_result(JobOperator, bpy.types.Operator):
    """Add the finished object to the scene or update it, or apply the texture to the painted object"""

    bl_idname = "recdreamer.import_result"
    bl_label = "Import"
    bl_options = {"REGISTER", "UNDO"}

    hide_start: BoolProperty(
        name="Hide Start Object",
        description="Hide the object that the job started from, because the result takes its place",
        default=True,
    )

    replaces: EnumProperty(
        name="Replace",
        description="What the result takes the place of",
        items=REPLACES,
        options={"SKIP_SAVE"},
    )
    frame: BoolProperty(name="Frame", description="Move the view so that a new object is seen", default=True)
    show_texture: BoolProperty(
        name="Show Texture",
        description="Let Solid shading show textures, unless its color is set to something else already",
        default=True,
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if context.mode == "OBJECT" else NOT_OBJECT_MODE)

    def act(self, context, job):
        if job.why_not_import:
            return job.why_not_import
        live_mesh.remove()
        before = {obj.session_uid for obj in context.scene.objects}
        objects = scene_import.import_result(
            job.folder.root,
            context,
            hide_start=self.hide_start,
            replaces=self.replaces,
            say=lambda text: self.tell("INFO", text),
        )
        is_new = any(obj.session_uid not in before for obj in objects)
        if self.show_texture:
            viewing.show_textures(context)
        if is_new and self.frame:
            viewing.frame_selected(context)
        names = ", ".join(obj.name for obj in objects)
        self.tell("INFO", f"{'Imported' if is_new else 'Updated'}: {names}")
        return ""


class RECDREAMER_OT_show_job(JobOperator, bpy.types.Operator):
    """Show this job in the panel"""

    bl_idname = "recdreamer.show_job"
    bl_label = "Show Job"

    def act(self, context, job):
        session.shown_id = job.id
        return ""


class RECDREAMER_OT_use_settings(JobOperator, bpy.types.Operator):
    """Restore the prompt, settings and templates of this job in the panel. Other templates are disabled"""

    bl_idname = "recdreamer.use_settings"
    bl_label = "Use Settings"
    bl_options = {"REGISTER", "UNDO"}

    def act(self, context, job):
        if job.request is None:
            return job.problem
        for problem in use_settings.use_settings(job.folder, job.request, context.scene.recdreamer):
            self.tell("WARNING", problem)
        return ""


class RECDREAMER_OT_open_folder(JobOperator, bpy.types.Operator):
    """Open the folder of this job with its previews, result and log"""

    bl_idname = "recdreamer.open_folder"
    bl_label = "Open Folder"

    def act(self, context, job):
        if job.folder.root.suffix:
            # Ours have none. A folder "x.app" would be started as a program by macOS.
            return "The name of this folder looks like that of a program. Rename it without a dot first."
        return open_outside(job.folder.root)


class RECDREAMER_OT_random_seed(GuardedOperator, bpy.types.Operator):
    """Pick a random seed"""

    bl_idname = "recdreamer.random_seed"
    bl_label = "Random Seed"
    bl_options = {"REGISTER", "UNDO"}

    def run(self, context):
        context.scene.recdreamer.seed = random_seed()


CLASSES = (
    RECDREAMER_OT_generate,
    RECDREAMER_OT_resume,
    RECDREAMER_OT_repeat_stage,
    RECDREAMER_OT_import_result,
    RECDREAMER_OT_show_job,
    RECDREAMER_OT_use_settings,
    RECDREAMER_OT_open_folder,
    RECDREAMER_OT_random_seed,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
