"""Jobs that wait: their order, several seeds at once, and a pause while Blender renders."""

from __future__ import annotations

import dataclasses

import bpy
from bpy.app.handlers import persistent
from bpy.props import BoolProperty, FloatProperty, IntProperty

from ...backend.recdreamer.shared.protocol import RequestError
from ..jobs.origin import ORIGIN, Origin, origin_of
from ..jobs.placement import start_files_of
from ..jobs.registry import Job, new_job_id
from ..preference_access import get_preferences
from ..session import session, start_next
from .guarded import GuardedOperator, why_not
from .jobs import (
    JobOperator,
    images_of,
    prepared_request,
    random_seed,
    start_or_wait,
    why_not_generate,
    why_not_start,
)

NOT_WAITING = "This job does not wait for its turn."


class RECDREAMER_OT_leave_queue(JobOperator, bpy.types.Operator):
    """Do not start this job by itself. It stays in History, and Resume starts it"""

    bl_idname = "recdreamer.leave_queue"
    bl_label = "Remove from Queue"

    def act(self, context, job):
        if not job.is_waiting:
            return NOT_WAITING
        session.registry.leave_queue(job)
        return ""


class RECDREAMER_OT_move_in_queue(JobOperator, bpy.types.Operator):
    """Let this job start earlier or later than others that wait"""

    bl_idname = "recdreamer.move_in_queue"
    bl_label = "Move in Queue"

    by: IntProperty(name="By", description="Places to move: negative numbers are earlier", default=-1)

    def act(self, context, job):
        if not job.is_waiting:
            return NOT_WAITING
        session.registry.queue.move(job.id, self.by)
        return ""


class RECDREAMER_OT_hold_queue(GuardedOperator, bpy.types.Operator):
    """Let no waiting job start by itself, or let them start again. A running job goes on"""

    bl_idname = "recdreamer.hold_queue"
    bl_label = "Hold Queue"

    hold: BoolProperty(name="Hold", description="Whether waiting jobs are held back", default=True)

    def run(self, context):
        session.registry.queue.hold(self.hold)
        session.queue_problem = ""
        if not self.hold:
            start_next()


class RECDREAMER_OT_vary(GuardedOperator, bpy.types.Operator):
    """Make quick drafts with different seeds, to choose the one that goes on at full quality"""

    bl_idname = "recdreamer.vary"
    bl_label = "Vary × 4"

    count: IntProperty(name="Count", description="Number of drafts", default=4, min=2, max=8)

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_generate(context))

    def run(self, context):
        request, files = prepared_request(context)
        images = images_of(context)
        ids = tuple(new_job_id(request.prompt) for _ in range(self.count))
        files[ORIGIN] = Origin("vary", "", ids).to_json().encode()
        seeds = different_seeds(request.seed, self.count)
        for job_id, seed in zip(ids, seeds, strict=True):
            draft = dataclasses.replace(request, quality="quick", seed=seed)
            job = session.registry.create(draft, images, files, job_id=job_id)
            session.registry.enqueue(job)
        session.shown_id = ids[0]
        start_next(ids[0])


def different_seeds(first: int, count: int) -> list[int]:
    """That of the panel, and random ones."""
    seeds = [first]
    while len(seeds) < count:
        seeds += [seed for seed in (random_seed(),) if seed not in seeds]
    return seeds


class RECDREAMER_OT_refine(JobOperator, bpy.types.Operator):
    """Go on from this draft at full quality, as a new job with the same seed"""

    bl_idname = "recdreamer.refine"
    bl_label = "Refine"

    strength: FloatProperty(
        name="Strength",
        description="How much the result may differ from the draft: 0 keeps its shape, 1 ignores it",
        default=0.5,
        min=0.0,
        max=1.0,
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, why_not_start())

    def act(self, context, job):
        reason = why_not_refine(job)
        if reason or job.request is None:
            return reason
        request = dataclasses.replace(job.request, quality="standard")
        images = job.pictures
        files = {ORIGIN: Origin("refine", job.id).to_json().encode()}
        if request.start == "texture":
            files |= start_files_of(job.folder)  # It is painted again, on the same object.
        else:
            request = dataclasses.replace(
                request,
                start="continue",
                start_job=str(job.folder.root.absolute()),
                start_mesh="",
                strength=self.strength,
            )
        start_or_wait(self, session.registry.create(request, images, files))
        for other in siblings(job):
            # The others are not needed any more, but what they have made so far is there.
            if other is not job and other.is_waiting:
                session.registry.leave_queue(other)
        return ""


def why_not_refine(job: Job) -> str:
    """Why no better version of a draft can be made; empty if one can. A painting is painted again."""
    is_painting = job.request is not None and job.request.start == "texture"
    return job.why_not_import if is_painting else job.why_not_continue


def siblings(job: Job) -> list[Job]:
    """The jobs that differ from this one only by their seeds, itself among them; none if it is no variation."""
    ids = origin_of(job.folder, job.request).group
    found = (session.registry.find(job_id) for job_id in ids)
    return [one for one in found if one is not None]


@persistent
def before_render(scene, *_) -> None:
    """Pause what runs. A render of our own, of templates, is in a scene that no window shows."""
    shown = [window.scene for window in bpy.context.window_manager.windows]
    if scene not in shown or not get_preferences().pause_while_rendering:
        return
    session.paused_for_render = []
    for job in session.registry.jobs:
        if job.client is not None and not job.why_not_stop:
            session.registry.ask_to_stop(job, "pause")
            session.paused_for_render.append(job.id)


@persistent
def after_render(*_) -> None:
    """Let what was paused be the next to run."""
    paused, session.paused_for_render = session.paused_for_render, None
    for job_id in reversed(paused or []):
        try:
            session.registry.queue.add(job_id, first=True)
        except RequestError as error:
            session.queue_problem = str(error)


CLASSES = (
    RECDREAMER_OT_leave_queue,
    RECDREAMER_OT_move_in_queue,
    RECDREAMER_OT_hold_queue,
    RECDREAMER_OT_vary,
    RECDREAMER_OT_refine,
)
_HANDLERS = (
    ("render_init", before_render),
    ("render_complete", after_render),
    ("render_cancel", after_render),
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for name, function in _HANDLERS:
        getattr(bpy.app.handlers, name).append(function)


def unregister() -> None:
    for name, function in _HANDLERS:
        handlers = getattr(bpy.app.handlers, name)
        if function in handlers:
            handlers.remove(function)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
