"""Commands in the background, with their output for the panel. No bpy here."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .client import kill_process, start_process, worker_environment

BACKEND = Path(__file__).resolve().parents[2] / "backend"
"""The package bundled with the extension; workers import it from here, so both are of one release."""
CANCELED = "Canceled."
"""The problem of a task that the artist ended."""


@dataclass(frozen=True)
class Step:
    """One command of a task, and what the artist reads meanwhile."""

    title: str
    command: Sequence[str]


class Task:
    """Commands run one after the other in the background, each line of output kept for the panel."""

    def __init__(
        self, steps: Sequence[Step], marker: Path | None = None, clean_up: Path | None = None
    ) -> None:
        """`marker` is written when all went well; `clean_up` is a folder that is removed in any case."""
        self.steps = steps
        self.index = 0
        self.line = ""
        """The newest line of output."""
        self.problem = ""
        """Why it failed; empty while it runs and when it went well."""
        self.is_running = True
        self._marker = marker
        self._clean_up = clean_up
        self._is_cancelled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[tuple[str, str | int]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recdreamer backend", daemon=True)
        self._thread.start()

    @property
    def title(self) -> str:
        return self.steps[self.index].title

    @property
    def has_succeeded(self) -> bool:
        return not self.is_running and not self.problem

    def poll(self) -> bool:
        """Take over what the thread has to tell. True when something changed."""
        changed = False
        while True:
            try:
                name, value = self._news.get_nowait()
            except queue.Empty:
                return changed
            setattr(self, name, value)
            changed = True

    def cancel(self) -> None:
        """End the running command; what was made so far is replaced by the next set-up."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                kill_process(self._process)

    def join(self) -> None:
        """Wait for the end; for the add-on going away, and for tests."""
        self._thread.join()
        self.poll()

    def _run(self) -> None:
        try:
            for index, step in enumerate(self.steps):
                self._news.put(("index", index))
                if not self._run_step(step):
                    return
            if self._marker is not None:
                self._marker.touch()
        finally:
            if self._clean_up is not None:
                shutil.rmtree(self._clean_up, ignore_errors=True)
            self._news.put(("is_running", False))

    def _run_step(self, step: Step) -> bool:
        with self._lock:
            if self._is_cancelled:
                self._news.put(("problem", CANCELED))
                return False
            try:
                self._process = start_process(
                    step.command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=worker_environment(BACKEND),
                )
            except OSError as error:
                self._news.put(("problem", f"{step.title} failed: {error.strerror or error}."))
                return False
        assert self._process.stdout is not None
        line = ""
        with self._process.stdout as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").strip() or line
                self._news.put(("line", line))
        code = self._process.wait()
        if self._is_cancelled:
            self._news.put(("problem", CANCELED))
        elif code:
            self._news.put(("problem", f"{step.title} failed: {line.rstrip('.') or f'code {code}'}."))
        return code == 0 and not self._is_cancelled
