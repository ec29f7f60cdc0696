"""A job folder as the panel shows it: what state it is in, and what can be done with it. No bpy here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...backend.recdreamer.shared.protocol import (
    JobFolder,
    JobRequest,
    JobState,
    RequestError,
    write_atomically,
)
from ...backend.recdreamer.shared.safe_files import confined, printable, reason_of
from .client import JobClient

BUSY = ("starting", "running", "running elsewhere", "cancelling", "pausing", "stopping", "waiting")
"""Conditions of a job that is not over."""
PIN = "pinned"
"""File in the job folder."""


@dataclass
class Job:
    """One job folder as shown in the panel."""

    folder: JobFolder
    request: JobRequest | None
    problem: str
    """Why the folder cannot be used; empty if it can."""
    state: JobState = field(default_factory=JobState)
    client: JobClient | None = None
    """The worker, if this Blender started it."""
    running_on: str = ""
    """The computer on which the worker of another Blender runs; empty if there is none."""
    preview: Path | None = None
    """The newest preview picture, if it exists."""
    is_pinned: bool = False
    """Whether the artist has pinned it, by a file in its folder."""
    is_waiting: bool = False
    """Whether it waits for its turn."""

    @cached_property
    def id(self) -> str:
        """The name of the folder, as every text can hold it."""
        return printable(self.folder.root.name)

    @property
    def condition(self) -> str:
        """The status of the job, including a lost worker, which state.json alone cannot show."""
        if self.problem:
            return "damaged"
        if self.client is not None:
            if self.client.stopping:
                return {"cancel": "cancelling", "pause": "pausing"}[self.client.stopping]
            # An announced end is final only when the process has ended; a result can be used before.
            names = {"queued": "starting", "running": "running", "done": "done"}
            return names.get(self.state.status, "stopping")
        if self.running_on:
            return "running elsewhere"
        if self.is_waiting:
            return "waiting"
        return "interrupted" if self.state.status == "running" else self.state.status

    def update(self) -> None:
        """Find out what depends on more than state.json: the worker of another Blender, and the preview."""
        is_ours = self.client is not None
        may_run = not is_ours and self.state.status in ("queued", "running")
        self.running_on = self.folder.running_on(self.state) if may_run else ""
        # Looked for thousands of times, and a link does no harm here.
        self.is_pinned = (self.folder.root / PIN).exists()
        self.preview = None
        if self.state.preview and self._has(self.state.preview):
            self.preview = self.folder.root / self.state.preview

    @property
    def is_busy(self) -> bool:
        """Whether it runs, is ending, or waits for its turn."""
        return self.client is not None or self.condition in BUSY

    @property
    def last_s(self) -> float:
        """When it ran last, or was made, in seconds since 1970."""
        if self.state.updated_s:
            return self.state.updated_s
        try:
            return self.folder.root.stat().st_mtime
        except OSError:
            return 0.0

    def pin(self, is_pinned: bool) -> None:
        """Raises RequestError if the folder cannot be written."""
        try:
            if is_pinned:
                write_atomically(self.folder.root / PIN, "")
            else:
                (self.folder.root / PIN).unlink(missing_ok=True)
        except OSError as error:
            raise RequestError(
                f"The job folder cannot be written ({reason_of(error)}).", "Make it writable."
            ) from error
        self.is_pinned = is_pinned

    def _has(self, name: str) -> bool:
        """Whether a file is in the folder itself, not behind a link or somewhere else."""
        try:
            return confined(self.folder.root, name).is_file()
        except RequestError:
            return False

    @property
    def pictures(self) -> list[Path]:
        """The pictures of the templates, in the folder. Raises RequestError if one is somewhere else."""
        templates = self.request.templates if self.request else ()
        return [confined(self.folder.root, template.image) for template in templates]

    @property
    def why_not_resume(self) -> str:
        match self.condition:
            case "damaged":
                return self.problem
            case "done":
                return "This job is done."
            case "queued" | "paused" | "failed" | "cancelled" | "interrupted":
                return ""
            case "waiting":
                return "This job waits for its turn."
        return "This job is running."

    @property
    def stages_to_repeat(self) -> tuple[str, ...]:
        """Stages that can run again with the output of the stages before them."""
        if self.why_not_repeat or self.request is None:
            return ()
        return tuple(stage for stage in self.request.stages_to_run if stage != "shape")

    @property
    def has_result(self) -> bool:
        """Also True after a failed attempt to redo a stage, because the earlier result is kept."""
        is_idle = not self.why_not_resume or self.condition == "waiting"
        return self.condition == "done" or (is_idle and self._has("result/report.json"))

    @property
    def why_not_repeat(self) -> str:
        return "" if self.has_result else "This job has no result yet."

    @property
    def why_not_import(self) -> str:
        if not self.has_result:
            return "This job has no result yet."
        return "" if self._has("result/mesh.npz") else "The result of this job was deleted."

    @property
    def why_not_continue(self) -> str:
        if self.request is not None and self.request.start == "texture":
            return (
                "This job only painted an object, so it has no shape to start from. Paint the object again."
            )
        return self.why_not_import

    @property
    def why_not_stop(self) -> str:
        match self.condition:
            case "starting" | "running" | "running elsewhere":
                return ""
            case "cancelling" | "pausing" | "stopping":
                return "This job is already stopping."
        return "This job is not running."
