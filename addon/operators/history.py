"""Actions on earlier jobs: pin, compare, show one result or the other, open from elsewhere, clean up, delete."""

from __future__ import annotations

import time
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from .. import describe
from ..jobs.adopt import adopt
from ..jobs.job import Job
from ..language.translation import say
from ..objects.object_keys import JOB_KEY
from ..result import scene_import, viewing
from ..session import session
from ..setup.tree_sizes import tree_size
from .guarded import STATES, GuardedOperator, switched, why_not
from .jobs import NOT_OBJECT_MODE, JobOperator

KINDS = (
    ("UNFINISHED", "Without a Result", "Jobs that failed, were stopped or never ran"),
    ("DRAFTS", "Drafts", "Also drafts that have a result"),
    ("ALL", "All", "Everything that is not pinned"),
)
NOTHING_TO_COMPARE = "Mark another job to compare with first."


class RECDREAMER_OT_pin_job(JobOperator, bpy.types.Operator):
    """Keep this job at the top of History. Clean Up leaves it alone"""

    bl_idname = "recdreamer.pin_job"
    bl_label = "Pin"

    pin: BoolProperty(name="Pin", description="Whether the job is pinned", default=True)

    def act(self, context, job):
        job.pin(self.pin)
        return ""


class RECDREAMER_OT_compare_job(JobOperator, bpy.types.Operator):
    """Compare this job with the one that is selected next"""

    bl_idname = "recdreamer.compare_job"
    bl_label = "Compare"

    state: EnumProperty(name="State", items=STATES, options={"SKIP_SAVE"})

    def act(self, context, job):
        is_marked = session.compared_id == job.id
        if switched(self.state, is_marked) != is_marked:
            session.compared_id = "" if is_marked else job.id
        return ""


class RECDREAMER_OT_show_other(JobOperator, bpy.types.Operator):
    """Show the result of one of the two compared jobs in the viewport and hide the other, and back"""

    bl_idname = "recdreamer.show_other"
    bl_label = "A / B"
    bl_options = {"REGISTER", "UNDO"}

    other_id: StringProperty(
        name="Other", description="ID of the other job. Empty: the one marked to compare"
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if context.mode == "OBJECT" else NOT_OBJECT_MODE)

    def act(self, context, job):
        other = session.registry.find(self.other_id or session.compared_id)
        if other is None or other is job:
            return NOTHING_TO_COMPARE
        for one in (job, other):
            if one.why_not_import:
                return one.why_not_import
        here, there = objects_of(job, context), objects_of(other, context)
        if not here or not there:
            self._import_missing(context, job, other)
            here, there = objects_of(job, context), objects_of(other, context)
        shows_here = any(obj.visible_get() for obj in here)
        for obj in here:
            obj.hide_set(shows_here)
        for obj in there:
            obj.hide_set(not shows_here)
        context.view_layer.objects.active = (there if shows_here else here)[0]
        return ""

    def _import_missing(self, context, *jobs: Job) -> None:
        """Import results that are not in the scene, at the place of the one that is, and show them as Import does.

        Raises RequestError.
        """
        place = next(
            (objects_of(job, context)[0].matrix_world.copy() for job in jobs if objects_of(job, context)),
            None,
        )
        are_new = place is None
        for job in reversed(jobs):
            if objects_of(job, context):
                continue
            made = scene_import.import_result(
                job.folder.root, context, replaces="NOTHING", say=lambda text: self.tell("INFO", text)
            )
            if place is None:
                place = made[0].matrix_world.copy()
            elif len(made) == 1:
                made[0].matrix_world = place
        viewing.show_textures(context)
        if are_new:
            viewing.frame_selected(context)


def objects_of(job: Job, context: bpy.types.Context) -> list[bpy.types.Object]:
    """What the result of a job is in the view layer."""
    return [obj for obj in context.view_layer.objects if obj.get(JOB_KEY) == job.id]


class RECDREAMER_OT_open_job(GuardedOperator, bpy.types.Operator):
    """Copy a job folder from elsewhere, such as another computer or a backup, into History"""

    bl_idname = "recdreamer.open_job"
    bl_label = "Open Job Folder"

    directory: StringProperty(
        name="Folder", description="Folder that has a job.json", subtype="DIR_PATH", options={"SKIP_SAVE"}
    )

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context):
        if not self.directory:
            return "Choose the folder of a job."
        job_id = adopt(Path(bpy.path.abspath(self.directory)), session.registry)
        session.registry.refresh()
        session.shown_id = job_id
        return ""


class RECDREAMER_OT_clean_up(GuardedOperator, bpy.types.Operator):
    """Delete the files of jobs that are not needed any more. Pinned jobs and imported objects stay"""

    bl_idname = "recdreamer.clean_up"
    bl_label = "Clean Up"

    kind: EnumProperty(name="Jobs", items=KINDS)
    days: IntProperty(name="Older Than", description="Days since the job ran last", default=7, min=0)

    def invoke(self, context, event):
        session.folder_sizes.total(session.registry.jobs)  # Begins to measure.
        return context.window_manager.invoke_props_dialog(self, title="Clean Up", confirm_text="Delete")

    def draw(self, context):
        layout = self.layout
        layout.prop(self, "kind")
        layout.prop(self, "days")
        jobs = to_clean_up(self.kind, self.days)
        if not jobs:
            layout.label(text="There is nothing to delete.", icon="INFO")
            return
        size, is_known = session.folder_sizes.total(jobs)
        text = describe.gigabytes(size) if is_known else "measuring…"
        layout.label(text=say(f"{len(jobs)} jobs, {text}. This cannot be undone."), icon="TRASH")
        for job in jobs[:5]:
            layout.label(text=name_and_size(job), icon="DOT")
        if len(jobs) > 5:
            layout.label(text=say(f"and {len(jobs) - 5} more"))

    def run(self, context):
        jobs, size, kept = to_clean_up(self.kind, self.days), 0, 0
        for job in jobs:
            bytes_of_job = tree_size(job.folder.root)
            try:
                session.registry.delete(job)
                size += bytes_of_job
            except Exception:
                kept += 1  # Another program uses it, or a worker has begun just now.
        text = f"{len(jobs) - kept} jobs were deleted, {describe.gigabytes(size)}."
        self.tell(
            "WARNING" if kept else "INFO",
            " ".join([text, *([f"{kept} cannot be deleted."] if kept else [])]),
        )


def to_clean_up(kind: str, days: int) -> list[Job]:
    """The jobs that Clean Up would delete."""
    before_s = time.time() - 86400 * days
    found = []
    for job in session.registry.jobs:
        is_free = not job.is_busy and not job.is_pinned and job.last_s <= before_s
        is_draft = job.request is not None and job.request.quality == "quick"
        if is_free and (kind == "ALL" or not job.has_result or (kind == "DRAFTS" and is_draft)):
            found.append(job)
    return found


def name_and_size(job: Job) -> str:
    """A job as a question about its deletion names it."""
    name = describe.one_line(job.request.prompt if job.request else job.id, 40)
    size = session.folder_sizes.of(job)
    return f"{name} · {describe.gigabytes(size)}" if size is not None else name


class RECDREAMER_OT_delete_job(JobOperator, bpy.types.Operator):
    """Delete this job and its files permanently. Imported objects stay"""

    bl_idname = "recdreamer.delete_job"
    bl_label = "Delete Job"

    def invoke(self, context, event):
        job = session.registry.find(self.job_id) if self.job_id else session.shown
        if job is None:
            return self.execute(context)
        return context.window_manager.invoke_confirm(
            self, event, title="Delete Job", message=say(question(job)), confirm_text="Delete"
        )

    def act(self, context, job):
        try:
            session.registry.delete(job)
        except OSError as error:
            reason = error.strerror or error
            return (
                f"The job cannot be deleted ({reason}). Close all programs that use its files, and try again."
            )
        return ""


def question(job: Job) -> str:
    """What is asked before a job is deleted."""
    name = describe.one_line(job.request.prompt if job.request else job.id, 60)
    size = describe.gigabytes(tree_size(job.folder.root))
    return f"Delete “{name}” and its {size}? This cannot be undone."


CLASSES = (
    RECDREAMER_OT_pin_job,
    RECDREAMER_OT_compare_job,
    RECDREAMER_OT_show_other,
    RECDREAMER_OT_open_job,
    RECDREAMER_OT_clean_up,
    RECDREAMER_OT_delete_job,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
