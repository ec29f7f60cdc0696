"""The background process of one job, from start to end. No bpy here.

The process is `python -m recdreamer run <job folder>`. It writes JSON lines to its standard output; `poll`, called by
Blender's timer or by a test, applies the newest event of each type.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ...backend.recdreamer.shared.folder_lock import LEAVE, STAY, Command
from ...backend.recdreamer.shared.json_values import parse_json
from ...backend.recdreamer.shared.protocol import (
    PROTOCOL_VERSION,
    ErrorKind,
    JobFolder,
    JobState,
    RequestError,
    write_atomically,
)
from ...backend.recdreamer.shared.safe_files import open_regular, printable
from .child_process import ChildProcess

HELLO_TIMEOUT_S = 180.0
"""A cold start imports torch from a slow disk, but nobody waits longer than this."""
STOP_GRACE_S = 60.0
"""Time for a worker to save and exit after `cancel` or `pause`. Checkpoints survive a kill at any moment."""
EVENTS = (
    "hello", "stage", "progress", "preview", "pose_distribution", "warning", "result", "error", "cancelled", "paused"
)  # fmt: skip
"""Types of events that say something to us. Of each, the newest counts, so a poll has no more work than this."""
ENDED = ("paused", "done", "failed", "cancelled")
KILLED = -9
"""Exit status of a process that was killed, where there are signals."""
CHECK_BACKEND = "Check the Python interpreter, or install the backend, in the RecDreamer preferences."
"""Remedy if the backend cannot be started."""


class JobClient:
    """The worker of one job, seen from Blender. `state` is the current state of the job."""

    def __init__(
        self,
        folder: JobFolder,
        command: Sequence[str],
        backend: Path,
        options: Sequence[str] = (),
        data_folder: Path | None = None,
        keeps_running: bool = False,
    ) -> None:
        """Start `[*command, "run", folder, *options]` with the models of `data_folder`. Raises OSError if it cannot be
        started, RequestError if the folder has something else where its log belongs."""
        self.folder = folder
        self.keeps_running = keeps_running
        """Whether the worker goes on when Blender closes; at first as its request says."""
        self._before = folder.read_state()
        # Keep the preview and the poses of an earlier run, but not its status, message and count of steps.
        self.state = replace(
            self._before,
            status="queued",
            stage="starting",
            step=0,
            total=0,
            it_per_s=0.0,
            eta_s=None,
            message="",
            hint="",
            kind="",
            updated_s=time.time(),
            host="",
        )
        self._announced = replace(self.state)
        self._repeats = "--again" in options
        self.stopping: Command | Literal[""] = ""
        """What the worker was asked for; empty: nothing."""
        self._deadline = time.monotonic() + HELLO_TIMEOUT_S
        self.is_settled = False
        """True once the process has ended and the state is final."""
        self._said_hello = False
        self._failure: tuple[str, str, ErrorKind] | None = None
        with os.fdopen(open_regular(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            # Written before the worker can write its own state.
            self._write_state()
            try:
                run = [*command, "run", str(folder.root.absolute()), *options]
                self._process = ChildProcess(run, backend, data_folder, stderr=log, ends_with_us=False)
            except OSError:
                self.state = self._before
                self._write_state()
                raise

    def poll(self) -> bool:
        """Process the events from the worker. True if something changed."""
        events = newest_events(self._process.read())
        for line in events:
            self._apply(line)
        if self._process.has_ended:
            self._finish()
            return True
        return self._watch_clock() or bool(events)

    def ask_to_stop(self, command: Command) -> None:
        """Ask the worker to save and exit, as paused or as cancelled. Either job can be resumed."""
        self.stopping = command
        self._deadline = time.monotonic() + STOP_GRACE_S
        self._process.say(command.encode())

    def keep_running(self, keeps: bool) -> None:
        """Choose what the worker does when Blender closes: go on, or save and exit."""
        self.keeps_running = keeps
        self._process.say((STAY if keeps else LEAVE).encode())

    def shut_down(self, timeout_s: float, *, kill: bool = True) -> bool:
        """Make the worker save and exit; the job is paused. True if it has ended within `timeout_s`, or was killed then.

        One that is left alone saves and exits by itself.
        """
        self.let_go()
        if self._process.wait(timeout_s) is None:
            if not kill:
                return False
            self._process.kill()
        self._finish(lost_status="paused")
        return True

    def let_go(self) -> None:
        """Close the pipe, so that the worker continues alone if that was chosen, else saves and exits."""
        self._process.let_go()

    def _apply(self, line: bytes) -> None:
        try:
            event = parse_json(line)
            kind = event["type"]
        except (ValueError, TypeError, KeyError):
            return  # Stray output of a library: protocol lines are objects with a type.
        if kind == "hello":
            self._meet(event.get("protocol"))
        else:
            apply_event(self.state, event)
        self.state.updated_s = time.time()

    def _meet(self, protocol: object) -> None:
        if protocol != PROTOCOL_VERSION:
            self._fail(
                f"The backend uses protocol {printable(protocol)[:40]}, but this add-on needs {PROTOCOL_VERSION}.",
                "Install the add-on and the backend from the same release.",
                "outdated",
            )
            return
        self._said_hello = True
        self.state.status = "running"

    def _watch_clock(self) -> bool:
        """Kill a worker that does not answer in time."""
        if (self._said_hello and not self.stopping) or time.monotonic() < self._deadline or self._failure:
            return False
        if self.stopping:
            self._process.kill()
        else:
            self._fail(
                f"The backend did not answer within {HELLO_TIMEOUT_S:.0f} seconds.",
                "Press Run Diagnostics in the RecDreamer preferences.",
                "install",
            )
        return True

    def _fail(self, message: str, hint: str, kind: ErrorKind) -> None:
        self._failure = (message, hint, kind)
        self._process.kill()

    def _finish(self, lost_status: str = "failed") -> None:
        """Determine the final state after the process has ended, and write it if the worker did not."""
        code = self._process.code
        if code is None:
            code = KILLED  # It hangs in a driver, and will not come back.
        self.is_settled = True
        on_disk = self.folder.read_state()
        if self._failure is None and on_disk.status in ENDED:
            self.state = on_disk
            return
        if self._repeats and on_disk == self._announced:
            # The worker never began to redo a stage, so the job keeps its earlier state.
            state, self.state = self.state, replace(self._before)
            error = (state.message, state.hint, state.kind) if state.status == "failed" else None
            if self._failure or error or not self.stopping:
                self._tell(self._failure or error or self._explain_death(code))
            with suppress(OSError):
                self._write_state()
            return
        if self._failure is not None:
            self.state.status = "failed"
            self._tell(self._failure)
        elif self.stopping:
            self.state.status = "cancelled" if self.stopping == "cancel" else "paused"
        elif self.state.status not in ENDED:
            self.state.status = lost_status
            if lost_status == "failed":
                self._tell(self._explain_death(code))
        self.state.updated_s = time.time()
        with suppress(OSError):  # The disk may be full or gone; the panel still shows the state in memory.
            self._write_state()

    def _tell(self, error: tuple[str, str, str]) -> None:
        self.state.message, self.state.hint, self.state.kind = error

    def _write_state(self) -> None:
        write_atomically(self.folder.state, json.dumps(asdict(self.state), indent=2))

    def _explain_death(self, code: int) -> tuple[str, str, ErrorKind]:
        """One sentence on why a worker ended unexpectedly, what to do, and which kind of error it is."""
        if code == KILLED:
            return (
                "The background process was killed, probably because the computer ran out of memory.",
                "Close other programs and press Resume.",
                "out_of_memory",
            )
        last_line = read_last_line(self.folder.log)
        if not self._said_hello:
            return (
                f"The backend did not start: {last_line or f'it exited with code {code}'}.",
                CHECK_BACKEND,
                "install",
            )
        return (
            f"The background process ended unexpectedly (code {code}{': ' + last_line if last_line else ''}).",
            "Press Resume to continue from the newest checkpoint; log.txt in the job folder has details.",
            "internal",
        )


def newest_events(text: bytes) -> list[bytes]:
    """The last line of each type of event among the lines of a worker, in their order.

    >>> newest_events(b'{"type": "hello"}\n{"type": "stage"}\nLoading\n{"type": "hello"}\n')
    [b'{"type": "stage"}', b'{"type": "hello"}']
    """
    found = []
    for kind in EVENTS:
        # To look at each of thousands of lines would take milliseconds.
        begin = text.rfind(b'\n{"type": "%s"' % kind.encode()) + 1
        if begin or text.startswith(b'{"type": "%s"' % kind.encode()):
            end = text.find(b"\n", begin)
            found.append((begin, text[begin:end] if end > 0 else text[begin:]))
    return [line for _, line in sorted(found)]


def apply_event(state: JobState, event: dict[str, Any]) -> None:
    """Update the state with one event; unknown types and fields are ignored."""
    match event:
        case {"type": "stage", "name": str(name)}:
            state.stage, state.step, state.total = name, 0, 0
        case {"type": "progress", "step": int(step), "total": int(total)}:
            state.step, state.total = step, total
            state.it_per_s = number_or_none(event.get("it_per_s")) or 0.0
            state.eta_s = number_or_none(event.get("eta_s"))
        case {"type": "preview", "path": str(path)}:
            state.preview = path
        case {"type": "pose_distribution", "probs": dict(probs)}:
            state.pose_distribution = {
                label: share for label, prob in probs.items() if (share := number_or_none(prob)) is not None
            }
        case {"type": "warning", "message": str(message)}:
            state.message, state.kind = printable(message), ""
        case {"type": "result"}:
            state.status, state.eta_s = "done", None
        case {"type": "error", "message": str(message)}:
            state.status, state.message = "failed", printable(message)
            state.hint = printable(event.get("hint", ""))
            state.kind = str(event.get("kind", ""))
        case {"type": "cancelled" | "paused" as status}:
            state.status = status


def number_or_none(value: object) -> float | None:
    """A number of a JSON value; None if it is none."""
    return float(value) if isinstance(value, int | float) else None


def read_last_line(path: Path, limit: int = 200) -> str:
    """Last non-empty line of a log without its final period; empty if there is none."""
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            lines = stream.read(4096).decode("utf-8", "replace").splitlines()
    except (OSError, RequestError):
        return ""
    return next((line.strip()[:limit].rstrip(".") for line in reversed(lines) if line.strip()), "")
