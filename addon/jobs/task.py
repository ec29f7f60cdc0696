"""Background commands with output for the panel. No bpy here."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .client import kill_process, start_process

BACKEND = Path(__file__).resolve().parents[2] / "backend"
"""The bundled package. Workers import it from here, so that add-on and backend always match."""
CANCELED = "Canceled."
"""`Task.problem` after the artist canceled the task."""


@dataclass(frozen=True)
class Step:
    """One command of a task and its title in the panel."""

    title: str
    command: Sequence[str]


class Task:
    """Commands that run one after another in the background; the panel shows their newest output line."""

    def __init__(
        self, steps: Sequence[Step], data_folder: Path | None = None, stdin: int = subprocess.DEVNULL
    ) -> None:
        """The commands find the models of `data_folder`; `stdin` is what they read, as for subprocess.Popen."""
        self.steps = steps
        self._data_folder = data_folder
        self._stdin = stdin
        self.index = 0
        self.line = ""
        """The newest line of output."""
        self.problem = ""
        """Why it failed; empty while it runs and after success."""
        self.is_running = True
        self._is_cancelled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recdreamer backend", daemon=True)
        self._thread.start()

    @property
    def title(self) -> str:
        return self.steps[self.index].title

    @property
    def has_succeeded(self) -> bool:
        return not self.is_running and not self.problem

    def poll(self) -> bool:
        """Process news from the thread. True if something changed."""
        changed = False
        while True:
            try:
                name, value = self._news.get_nowait()
            except queue.Empty:
                return changed
            setattr(self, name, value)
            changed = True

    def cancel(self) -> None:
        """Kill the running command and all that it has started."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                kill_process(self._process)

    def join(self) -> None:
        """Wait for the end; used when the add-on is disabled, and by tests."""
        self._thread.join()
        self.poll()

    def _run(self) -> None:
        try:
            for index, step in enumerate(self.steps):
                self._news.put(("index", index))
                if not self._run_step(step):
                    return
        finally:
            self._news.put(("is_running", False))

    def _run_step(self, step: Step) -> bool:
        with self._lock:
            if self._is_cancelled:
                self._news.put(("problem", CANCELED))
                return False
            try:
                self._process = start_process(
                    step.command,
                    BACKEND,
                    self._data_folder,
                    stdin=self._stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                self._news.put(("problem", f"{step.title} failed: {error.strerror or error}."))
                return False
        assert self._process.stdout is not None
        line, reason = "", ""
        with self._process.stdout as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").strip() or line
                reason = reason or error_in(line)
                self._hear(line)
        code = self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):  # What was written there last was not read.
                self._process.stdin.close()
        if self._is_cancelled:
            self._news.put(("problem", CANCELED))
        elif code:
            self._news.put(("problem", self._why_failed(step, reason or line, code)))
        return code == 0 and not self._is_cancelled

    def _hear(self, line: str) -> None:
        """A line of the running command."""
        self._news.put(("line", line))

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
