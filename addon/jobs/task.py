"""Background commands with output for the panel. No bpy here."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .child_process import ChildProcess

BACKEND = Path(__file__).resolve().parents[2] / "backend"
"""The bundled package. Workers import it from here, so that add-on and backend always match."""
CANCELED = "Canceled."
"""`Task.problem` after the artist canceled the task."""
LOOK_S = 0.01
"""Time between two looks at a task that is waited for."""
GIVE_UP_S = 5.0
"""Time for a canceled task to end; one that hangs in a driver does not."""
MAX_READ = 1 << 16
"""Bytes of output that a poll reads: of the longest of our lines, some milliseconds' worth."""


@dataclass(frozen=True)
class Step:
    """One command of a task and its title in the panel."""

    title: str
    command: Sequence[str]


class Task:
    """Commands that run one after another in the background; the panel shows their newest output line."""

    def __init__(
        self, steps: Sequence[Step], data_folder: Path | None = None, *, ends_with_us: bool = True
    ) -> None:
        """The commands find the models of `data_folder`; `ends_with_us` as for ChildProcess."""
        self.steps = steps
        self._data_folder = data_folder
        self._ends_with_us = ends_with_us
        self.index = 0
        self.line = ""
        """The newest line of output."""
        self.problem = ""
        """Why it failed; empty while it runs and after success."""
        self.is_running = True
        self._is_cancelled = False
        self._process: ChildProcess | None = None
        self._not_started = ""
        """Why the command of the step could not be started, which the next poll tells."""
        self._last, self._reason = "", ""
        """The last line of the running command that says something, and its first error."""
        self._start()

    @property
    def title(self) -> str:
        return self.steps[self.index].title

    @property
    def has_succeeded(self) -> bool:
        return not self.is_running and not self.problem

    def poll(self) -> bool:
        """Read what the running command has said, and start the next one after its end. True if something changed."""
        if not self.is_running:
            return False
        if self._process is None:
            self._end(self._not_started)
            return True
        text = self._process.read(MAX_READ)
        for line in filter(None, map(str.strip, text.decode("utf-8", "replace").split("\n"))):
            self._last = line
            self._reason = self._reason or error_in(line)
            self._hear(line)
        if not self._process.has_ended:
            return bool(text)
        code = self._process.code
        if self._is_cancelled:
            self._end(CANCELED)
        elif code:
            self._end(self._why_failed(self.steps[self.index], self._reason or self._last, code))
        elif self.index + 1 == len(self.steps):
            self._end()
        else:
            self.index += 1
            self._start()
        return True

    def cancel(self) -> None:
        """Kill the running command and all that it has started."""
        self._is_cancelled = True
        if self._process is not None:
            self._process.kill()

    def join(self) -> None:
        """Wait for the end; used when the add-on is disabled, and by tests."""
        give_up_s = time.monotonic() + GIVE_UP_S
        while self.is_running:
            self.poll()
            if self._is_cancelled and self._process is not None and time.monotonic() > give_up_s:
                self._process.let_go()
                self._end(CANCELED)
            time.sleep(LOOK_S)

    def _start(self) -> None:
        """Start the command of the step."""
        step = self.steps[self.index]
        self._last = self._reason = ""
        try:
            self._process = ChildProcess(
                step.command, BACKEND, self._data_folder, ends_with_us=self._ends_with_us
            )
        except OSError as error:
            self._process = None
            self._not_started = f"{step.title} failed: {error.strerror or error}."

    def _end(self, problem: str = "") -> None:
        self.problem = problem
        self.is_running = False

    def _hear(self, line: str) -> None:
        """A line of the running command."""
        self.line = line

    def _why_failed(self, step: Step, line: str, code: int) -> str:
        """Why a step failed; `line` is its first error, or else its last line."""
        return f"{step.title} failed: {line.rstrip('.') or f'code {code}'}."


def error_in(line: str) -> str:
    """The reason in a line of output that tells of an error; empty in others.

    The first such line names the cause, the last one often only that there was one.

    >>> error_in("ERROR: No matching distribution found for torch")
    'No matching distribution found for torch'
    """
    found = re.match(r"(?:ERROR|(?:\w+\.)*\w+(?:Error|Exception)): (.+)", line)
    return found[1] if found else ""
