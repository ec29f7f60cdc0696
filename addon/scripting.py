"""RecDreamer in scripts, with a window or in `blender -b`. docs/scripting.md has examples.

from bl_ext.user_default.recdreamer.addon import scripting
job = scripting.generate("a red bear", quality="quick", seed=3)
bear, = job.wait().import_result()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from ..backend.recdreamer.shared.protocol import JobState, RequestError
from .jobs.adopt import adopt
from .jobs.job import Job
from .operators.jobs import images_of, prepared_request
from .result import scene_import
from .session import pump, session, start_next

POLL_S = 0.1


class Handle:
    """A job of History, by its ID: it stays valid when another file is opened, and after a restart of Blender."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id

    @property
    def _job(self) -> Job:
        job = session.registry.find(self.id)
        if job is None:
            raise RequestError(f"There is no job {self.id}.", "It was deleted.")
        return job

    @property
    def folder(self) -> Path:
        """The job folder; the result is in `folder / "result"`."""
        return self._job.folder.root

    @property
    def condition(self) -> str:
        """One word: waiting, starting, running, done, failed, paused, cancelled …"""
        return self._job.condition

    @property
    def state(self) -> JobState:
        """Stage, step, remaining time, pose distribution, and the message of an error."""
        return self._job.state

    def wait(
        self, timeout_s: float | None = None, progress: Callable[[JobState], object] | None = None
    ) -> Handle:
        """Wait until the job has ended, also in `blender -b`, where no timer runs. `progress` is called after news.

        Raises RequestError if it ends without a result, or is held in the queue; TimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._job.is_busy:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"The job {self.id} has not ended within {timeout_s:g} s.")
            if self._job.condition == "waiting" and session.registry.queue.is_held:
                raise RequestError(session.queue_problem or "The queue is held.", "Let it go on.")
            if pump() and progress is not None:
                progress(self._job.state)
            time.sleep(POLL_S)
        if self._job.condition != "done":
            state = self._job.state
            message = state.message or f"The job is {self._job.condition}."
            raise RequestError(message, state.hint or "Resume it.")
        return self

    def stop(self) -> None:
        """Save the job and end its worker; it can be resumed. A job that waits leaves the queue."""
        if self._job.is_waiting:
            session.registry.leave_queue(self._job)
        elif not self._job.why_not_stop:
            session.registry.ask_to_stop(self._job, "pause")

    def import_result(
        self, *, hide_start: bool = True, replaces: scene_import.Replaces = "EARLIER"
    ) -> list[bpy.types.Object]:
        """Import the result, or update the objects that it has in the scene, or that it replaces. Returns them.

        Raises RequestError.
        """
        if self._job.why_not_import:
            raise RequestError(self._job.why_not_import, "Wait for it.")
        return scene_import.import_result(self.folder, hide_start=hide_start, replaces=replaces)


def generate(prompt: str = "", *, overrides: dict[str, Any] | None = None, **fields: Any) -> Handle:
    """Start a job, or let it wait for its turn, and return at once. Raises RequestError if it cannot be run.

    The settings are those of the scene's panel, templates and start among them, with other values for the `fields` of
    JobRequest that are named: method, pose_mode, quality, seed, device, height_m, stages, strength … `overrides` are
    settings of the backend, such as {"optimize.num_steps": 300}.
    """
    if prompt:
        fields["prompt"] = prompt
    request, files = prepared_request(bpy.context, overrides, fields)
    job = session.registry.create(request, images_of(bpy.context), files)
    session.registry.enqueue(job)
    session.shown_id = job.id
    start_next(job.id)
    return Handle(job.id)


def jobs() -> list[Handle]:
    """All jobs of History, newest first."""
    return [Handle(job.id) for job in session.registry.jobs]


def import_result(job_folder: str | Path) -> list[bpy.types.Object]:
    """Import the result of any finished job folder, wherever it is. Raises RequestError."""
    return scene_import.import_result(Path(job_folder))


def open_job(job_folder: str | Path) -> Handle:
    """Copy a job folder from elsewhere into History. Raises RequestError."""
    job_id = adopt(Path(job_folder), session.registry)
    session.registry.refresh()
    return Handle(job_id)
