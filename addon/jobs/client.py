"""One background process of one job: started, listened to, and never left behind. No bpy here.

The process is `python -m recdreamer run <job folder>`. Its standard output carries JSON lines, a thread
puts them into a queue, and `poll` (called by Blender's timer, or by a test) works the queue off.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...backend.recdreamer.protocol import PROTOCOL_VERSION, JobFolder, JobState, write_atomically

HELLO_TIMEOUT_S = 180.0
"""A cold start imports torch from a slow disk; longer than this nobody wants to wait."""
STOP_GRACE_S = 60.0
"""Time a worker has to save and leave after `cancel` or `pause`; checkpoints bear a kill at any moment."""
LINES_PER_POLL = 500
"""A flood of events must not freeze the user interface."""
ENDED = ("paused", "done", "failed", "cancelled")


def worker_environment(backend: Path) -> dict[str, str]:
    """Environment of a worker: nothing of Blender's Python leaks in, the bundled backend comes first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return environment | {"PYTHONPATH": str(backend), "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1"}


def start_process(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """A process in a group of its own, without a console window, so that its whole tree can be ended."""
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, creationflags=flags, **options)
    return subprocess.Popen(command, start_new_session=True, **options)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """End a process that `start_process` made, and its children, and wait for it."""
    if process.poll() is None:
        if sys.platform == "win32":
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False
            )
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class JobClient:
    """The worker of one job, seen from Blender. `state` is where the job stands."""

    def __init__(
        self, folder: JobFolder, command: Sequence[str], backend: Path, options: Sequence[str] = ()
    ) -> None:
        """Start `[*command, "run", folder, *options]`. Raises OSError when it cannot be started."""
        self.folder = folder
        self._before = folder.read_state()
        # What an earlier run of the folder showed stays in view; its status and trouble do not.
        self.state = replace(
            self._before, status="queued", stage="starting", message="", hint="", updated_s=time.time()
        )
        self._announced = replace(self.state)
        self._repeats = bool(options)
        self.stopping = ""
        """The stop that was asked for: "cancel", "pause" or nothing."""
        self._deadline = time.monotonic() + HELLO_TIMEOUT_S
        self.is_settled = False
        """True once the process is gone and the state is final."""
        self._said_hello = False
        self._failure: tuple[str, str] | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with folder.log.open("ab") as log:
            # Before the worker has a say of its own.
            self._write_state()
            try:
                self._process = start_process(
                    [*command, "run", str(folder.root), *options],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder.root,
                    env=worker_environment(backend),
                )
            except OSError:
                self.state = self._before
                self._write_state()
                raise
        threading.Thread(target=self._read, name=f"recdreamer {folder.root.name}", daemon=True).start()

    def poll(self) -> bool:
        """Work off what the worker said. True when something changed."""
        changed = False
        for _ in range(LINES_PER_POLL):
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            changed = True
            if line is None:
                self._finish()
                return True
            self._apply(line)
        return self._watch_clock() or changed

    def cancel(self) -> None:
        """Ask the worker to stop for good."""
        self._ask("cancel")

    def pause(self) -> None:
        """Ask the worker to save, to free the GPU and to leave; `run` on the folder goes on later."""
        self._ask("pause")

    def stop(self, timeout_s: float) -> None:
        """Let go of the worker: it saves and leaves, and is killed when it takes longer than `timeout_s`."""
        self._close_stdin()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_process(self._process)
        self._finish(lost_status="paused")

    def let_go(self) -> None:
        """Leave the worker running on its own, as its request asked."""
        self._close_stdin()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._process.wait()  # Here, so that a worker that was let go is waited for as well.
        self._lines.put(None)

    def _ask(self, command: str) -> None:
        assert self._process.stdin is not None
        self.stopping = command
        self._deadline = time.monotonic() + STOP_GRACE_S
        with suppress(OSError, ValueError):  # It may be gone already; the reader thread tells.
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # A broken pipe cannot be flushed, and need not be.
            self._process.stdin.close()

    def _apply(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event["type"]
        except (ValueError, TypeError, KeyError):
            return  # Stray output of a library; protocol lines are objects with a type.
        if kind == "hello":
            self._meet(event.get("protocol"))
        else:
            apply_event(self.state, event)
        self.state.updated_s = time.time()

    def _meet(self, protocol: object) -> None:
        if protocol != PROTOCOL_VERSION:
            self._fail(
                f"The backend uses protocol {protocol}, but this add-on needs {PROTOCOL_VERSION}.",
                "Install the add-on and the backend from the same release.",
            )
            return
        self._said_hello = True
        self.state.status = "running"

    def _watch_clock(self) -> bool:
        """End a worker that does not answer in time."""
        if (self._said_hello and not self.stopping) or time.monotonic() < self._deadline or self._failure:
            return False
        if self.stopping:
            kill_process(self._process)
        else:
            self._fail(
                f"The backend did not answer within {HELLO_TIMEOUT_S:.0f} seconds.",
                "Press Run Diagnostics in the RecDreamer preferences.",
            )
        return True

    def _fail(self, message: str, hint: str) -> None:
        self._failure = (message, hint)
        kill_process(self._process)

    def _finish(self, lost_status: str = "failed") -> None:
        """Settle the state once the process is gone; the folder gets the last word, or is given it."""
        self._close_stdin()
        code = self._process.wait()
        self.is_settled = True
        on_disk = self.folder.read_state()
        if self._failure is None and on_disk.status in ENDED:
            self.state = on_disk
            return
        if self._repeats and on_disk == self._announced:
            # Nothing was set aside, so the job is what it was.
            told = (self.state.message, self.state.hint) if self.state.status == "failed" else None
            self.state = replace(self._before)
            if self._failure or told or not self.stopping:
                self.state.message, self.state.hint = self._failure or told or self._explain_death(code)
            with suppress(OSError):
                self._write_state()
            return
        if self._failure is not None:
            self.state.status, (self.state.message, self.state.hint) = "failed", self._failure
        elif self.stopping:
            self.state.status = "cancelled" if self.stopping == "cancel" else "paused"
        elif self.state.status not in ENDED:
            self.state.status = lost_status
            if lost_status == "failed":
                self.state.message, self.state.hint = self._explain_death(code)
        self.state.updated_s = time.time()
        with suppress(OSError):  # A full or vanished disk; the state in memory still tells the artist.
            self._write_state()

    def _write_state(self) -> None:
        write_atomically(self.folder.state, json.dumps(asdict(self.state), indent=2))

    def _explain_death(self, code: int) -> tuple[str, str]:
        """One sentence on a worker that left without a word, and what to do."""
        last_line = read_last_line(self.folder.log)
        if not self._said_hello:
            return (
                f"The backend did not start: {last_line or f'it exited with code {code}'}.",
                "Check the Python interpreter, or install the backend, in the RecDreamer preferences.",
            )
        if code == -9:
            return (
                "The background process was killed, probably because the computer ran out of memory.",
                "Close other programs and press Resume.",
            )
        return (
            f"The background process ended unexpectedly (code {code}{': ' + last_line if last_line else ''}).",
            "Press Resume to continue from the newest checkpoint; log.txt in the job folder has details.",
        )


def apply_event(state: JobState, event: dict[str, Any]) -> None:
    """Bring the state up to date with one event; unknown types and fields are ignored."""
    match event:
        case {"type": "stage", "name": str(name)}:
            state.stage, state.step, state.total = name, 0, 0
        case {"type": "progress", "step": int(step), "total": int(total)}:
            state.step, state.total = step, total
            state.it_per_s = float(event.get("it_per_s") or 0.0)
            eta_s = event.get("eta_s")
            state.eta_s = None if eta_s is None else float(eta_s)
        case {"type": "preview", "path": str(path)}:
            state.preview = path
        case {"type": "pose_distribution", "probs": dict(probs)}:
            state.pose_distribution = probs
        case {"type": "warning", "message": str(message)}:
            state.message = message
        case {"type": "result"}:
            state.status, state.eta_s = "done", None
        case {"type": "error", "message": str(message)}:
            state.status, state.message, state.hint = "failed", message, str(event.get("hint", ""))
        case {"type": "cancelled" | "paused" as status}:
            state.status = status


def read_last_line(path: Path, limit: int = 200) -> str:
    """Last line of a log that holds text, without its final full stop; empty when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:limit].rstrip(".") for line in reversed(lines) if line.strip()), "")
