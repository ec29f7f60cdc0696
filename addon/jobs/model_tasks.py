"""Pretrained models, seen from Blender: which there are, getting them, adding one's own. No bpy here.

`recdreamer models` does the work in a process of its own; its events are in docs/models.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...backend.recdreamer.shared.json_values import parse_json
from ...backend.recdreamer.shared.protocol import BUILTIN_PRIOR
from ...backend.recdreamer.shared.worlds import DEFAULT_WORLD
from .. import describe
from ..trouble import Reason
from .child_process import models_folder
from .environment import run_command
from .task import Step, Task

RECOMMENDED = "stable-diffusion"
"""Name of the recommended image model; getting it brings what USD needs with it."""
RECOMMENDED_TITLE = "Stable Diffusion"
EXTRACTOR = "dinov2-small"
"""What tells poses apart with any image model but the built-in one, unless another is chosen."""
KINDS = {"prior": "image model", "extractor": "pose extractor", "decoder": "tiny decoder"}
"""What the artist chooses among, by kind of model."""
CANCEL_GRACE_S = 3.0
"""Time for a download to end by itself. What was fetched is safe at any moment."""


@dataclass(frozen=True)
class ModelRow:
    """A model that can be fetched, or that is on this computer."""

    id: str
    """Name in the catalog, or the path."""
    title: str
    kind: str = ""
    state: str = ""
    """installed, found, added; available, incomplete; refused."""
    about: str = ""
    bytes: int = 0
    path: str = ""
    reason: str = ""
    """Why it is refused."""
    license: str = ""
    accepted: bool = True
    """Its license is accepted, or need not be."""
    is_recommended: bool = False

    @property
    def is_here(self) -> bool:
        return self.state in ("installed", "found", "added")

    @staticmethod
    def of(message: dict[str, Any]) -> ModelRow:
        texts = ("id", "title", "kind", "state", "about", "path", "reason", "license")
        values = {name: str(message.get(name, "")) for name in texts}
        return ModelRow(
            **values,
            bytes=int(message.get("bytes", 0)),
            accepted=bool(message.get("accepted", True)),
            is_recommended=bool(message.get("recommended", False)),
        )


@dataclass(frozen=True)
class License:
    """A license that is to be accepted before anything is fetched."""

    title: str
    url: str
    text: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a download will fetch."""

    models: tuple[str, ...]
    bytes: int
    present_bytes: int
    free_bytes: int

    @property
    def left_bytes(self) -> int:
        return self.bytes - self.present_bytes


class ModelTask(Task):
    """One command of `recdreamer models`, with its events."""

    def __init__(self, interpreter: Path, data_folder: Path, do: Sequence[str], title: str) -> None:
        self.do = tuple(do)
        """The command and its arguments, such as ("get", "taesd")."""
        self.rows: tuple[ModelRow, ...] = ()
        self.licenses: tuple[License, ...] = ()
        self.plan: Plan | None = None
        self.factor = 0.0
        """How far it is, 0 to 1."""
        self.kind = ""
        """The ErrorKind of `problem`."""
        self.fetched: tuple[tuple[str, str], ...] = ()
        """ID and kind of each model that is complete now."""
        self.told: tuple[str, ...] = ()
        """Sentences about what was done."""
        self._error = ""
        self._kill_at_s: float | None = None
        """When a canceled download is killed that has not ended by itself."""
        name, *arguments = do
        options = ["--json", "--folder", str(models_folder(data_folder))]
        command = [*run_command(interpreter), "models", name, *options, *arguments]
        # A download listens to what it is told, and to the end of that, by itself.
        super().__init__([Step(title, command)], data_folder, ends_with_us=name != "get")

    @property
    def is_dry(self) -> bool:
        """It only asked how much it would be."""
        return "--dry-run" in self.do

    def cancel(self) -> None:
        """Ask the download to stop; it is killed if it does not."""
        self._is_cancelled = True
        if self._process is not None:
            self._process.say(b"cancel")
            self._kill_at_s = time.monotonic() + CANCEL_GRACE_S

    def poll(self) -> bool:
        if self._kill_at_s is not None and time.monotonic() > self._kill_at_s and self._process is not None:
            self._process.kill()
        return super().poll()

    def _hear(self, line: str) -> None:
        try:
            message = parse_json(line.encode())
        except ValueError:
            return  # A library's own.
        match message:
            case {"type": "model", "state": str()}:
                self.rows = (*self.rows, ModelRow.of(message))
            case {"type": "model" | "here", "id": str(name), "kind": str(kind)}:
                self.fetched = (*self.fetched, (name, kind))
            case {"type": "license", "title": str(title), "url": str(url), "text": str(text)}:
                found = License(title, url, text, tuple(map(str, message["models"])))
                self.licenses = (*self.licenses, found)
            case {"type": "plan", "models": list(models)}:
                numbers = (int(message[name]) for name in ("bytes", "present_bytes", "free_bytes"))
                plan = Plan(tuple(str(model["title"]) for model in models), *numbers)
                self.plan = plan
                self.factor = plan.present_bytes / max(1, plan.bytes)
            case {"type": "progress", "bytes": int(done), "total": int(total)}:
                self.factor = min(1.0, done / max(1, total))
                self.line = describe.download(done, total, message.get("eta_s"))
            case {"type": "checking", "file": str(file)}:
                self.line = f"Checking {file}"
            case {"type": "warning", "message": str(text)}:
                self.told = (*self.told, text)
            case {"type": "verified", "id": str(name), "wrong": list(wrong)}:
                files = f"{len(wrong)} damaged {'file was' if len(wrong) == 1 else 'files were'}"
                bad = f"{name}: {files} removed. Get it again to repair it."
                self.told = (*self.told, bad if wrong else f"{name}: every byte is right.")
            case {"type": "error", "message": str(text)}:
                self._error = f"{text} {message.get('hint', '')}".strip()
                self.kind = str(message.get("kind", ""))

    def _why_failed(self, step: Step, line: str, code: int) -> str:
        if self._error or line.startswith("{"):
            return self._error  # Damaged files are told one by one.
        return super()._why_failed(step, line, code)


class Models:
    """What `recdreamer models` has told, and its running command."""

    def __init__(self) -> None:
        self.rows: tuple[ModelRow, ...] = ()
        self.is_known = False
        """The list was read."""
        self.problem = ""
        """Why the list cannot be read."""
        self.task: ModelTask | None = None
        """What the artist has asked for: the running command or the last one."""
        self.done: ModelTask | None = None
        """A command that has ended since `poll` was called last, with success."""
        self._list: ModelTask | None = None
        self._asked: tuple[Path, Path] | None = None

    @property
    def is_busy(self) -> bool:
        return self.task is not None and self.task.is_running

    @property
    def is_listing(self) -> bool:
        return self._list is not None

    def ask(self, interpreter: Path, data_folder: Path) -> None:
        """Read the list in the background, unless it is known for this backend and folder."""
        if self._asked != (interpreter, data_folder) and self._list is None:
            self._asked = (interpreter, data_folder)
            self._list = ModelTask(interpreter, data_folder, ["list"], "Looking for models")

    def forget(self) -> None:
        """Read the list again the next time, because a model has come or gone."""
        self._asked = None

    def poll(self) -> bool:
        """Process news. True if something changed."""
        self.done = None
        changed = False
        if self._list is not None and (changed := self._list.poll()) and not self._list.is_running:
            self.problem = self._list.problem
            if self._list.has_succeeded:
                self.rows, self.is_known = self._list.rows, True
            self._list = None
        if self.task is not None and self.task.poll():
            changed = True
            if not self.task.is_running and not self.task.is_dry:
                self.forget()
            if self.task.has_succeeded:
                self.done = self.task
                self._note(self.task)
        return changed

    def _note(self, task: ModelTask) -> None:
        """What has come is here, before the list is read again."""
        names = {name for name, _ in task.fetched} if task.do[0] == "get" and not task.is_dry else set()
        self.rows = tuple(
            replace(row, state="installed") if row.id in names and not row.is_here else row
            for row in self.rows
        )

    def stop(self) -> None:
        for task in (self.task, self._list):
            if task is not None:
                task.cancel()
                task.join()

    def find(self, name: str) -> ModelRow | None:
        if name == RECOMMENDED:
            return next((row for row in self.rows if row.is_recommended), None)
        return next((row for row in self.rows if name in (row.id, row.path)), None)

    def choices(self, kind: str) -> list[ModelRow]:
        """Models of a kind on this computer, those that cannot be used last."""
        rows = [row for row in self.rows if row.kind == kind and (row.is_here or row.state == "refused")]
        return sorted(rows, key=lambda row: row.state == "refused")

    def title_of(self, name: str) -> str:
        """How the panel calls a model."""
        if name == BUILTIN_PRIOR:
            return DEFAULT_WORLD.title
        row = self.find(name)
        return row.title if row is not None else describe.one_line(Path(name).name or name, 40)

    def why_not(self, name: str, kind: str) -> Reason:
        """Why a model cannot be used; empty if it can, or as long as nothing is known."""
        if name == BUILTIN_PRIOR or not self.is_known:
            return Reason()
        row = self.find(name)
        if row is None:
            if Path(name).exists():
                return Reason()  # The backend looks at it before the job.
            return Reason(f"The {KINDS[kind]} {name} is not on this computer.", "model_missing")
        if row.state == "refused":
            return Reason(row.reason, kind)
        if not row.is_here:
            return Reason(f"{row.title} is not on this computer yet.", "model_missing")
        return Reason()
