"""The background process of one job, from start to end. No bpy here.

The process is `python -m recdreamer run <job folder>`. It writes JSON lines to its standard output; a thread
keeps the newest event of each type, and `poll` (called by Blender's timer or by a test) applies them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ...backend.recdreamer.shared.device_lock import DEVICES
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

HELLO_TIMEOUT_S = 180.0
"""A cold start imports torch from a slow disk, but nobody waits longer than this."""
STOP_GRACE_S = 60.0
"""Time for a worker to save and exit after `cancel` or `pause`. Checkpoints survive a kill at any moment."""
EVENTS = (
    "hello", "stage", "progress", "preview", "pose_distribution", "warning", "result", "error", "cancelled", "paused"
)  # fmt: skip
"""Types of events that say something to us. Of each, the newest counts, so a poll has no more work than this."""
TYPE = re.compile(rb'"type": ?"(\w{1,40})"', re.ASCII)
FOREIGN = ("PYTHON", "PIP_", "CONDA", "VIRTUAL_ENV", "UV_")
"""Prefixes of variables that would change where Python looks and where pip installs to."""
NETWORK = ("PIP_CERT", "PIP_PROXY", "PIP_CLIENT_CERT")
ENDED = ("paused", "done", "failed", "cancelled")
CHECK_BACKEND = "Check the Python interpreter, or install the backend, in the RecDreamer preferences."
"""Remedy if the backend cannot be started."""


MODELS = "RECDREAMER_MODELS"
"""Variable of the backend with the folder of installed models."""


def models_folder(data_folder: Path) -> Path:
    """The folder of installed models: that of the environment variable, or `models` in the data folder."""
    return Path(os.environ.get(MODELS) or data_folder / "models")


def devices_folder(data_folder: Path) -> Path:
    """The folder with the locks of the devices, see device_lock.py."""
    return data_folder / "devices"


def worker_environment(backend: Path) -> dict[str, str]:
    """Environment variables of a child process: no settings of other Pythons, and the bundled backend first.

    PYTHONSAFEPATH keeps the working folder out of the import path, where `-m` and `-c` would put it first. How the
    network is reached stays: proxies and certificates.
    """
    environment = {
        name: value for name, value in os.environ.items() if name in NETWORK or not name.startswith(FOREIGN)
    } | {"PIP_CONFIG_FILE": os.devnull}
    ours = {"PYTHONPATH": str(backend), "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
    return environment | ours


def start_process(
    command: Sequence[str], backend: Path, data_folder: Path | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process in its own group, so that its whole tree can be killed, without a console window.

    It works in the bundled backend: nobody else's files are there, neither a job's nor those beside a .blend file. It
    finds the models of `data_folder`, and the locks of the devices.
    """
    ours = {}
    if data_folder:
        ours = {MODELS: str(models_folder(data_folder)), DEVICES: str(devices_folder(data_folder))}
    options = {"cwd": backend, "env": worker_environment(backend) | ours} | options
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, creationflags=flags, **options)
    return subprocess.Popen(command, start_new_session=True, **options)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process from `start_process` and its children, and wait for it."""
    if process.poll() is None:
        if sys.platform == "win32":
            # By its full path: Windows would search the working folder first.
            taskkill = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "taskkill.exe")
            subprocess.run([taskkill, "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
        self._events: dict[str, bytes] = {}
        """Lines with events since the last poll, the newest of each type, in their order. The thread does not parse them:
        where it works, Blender waits."""
        self._lock = threading.Lock()
        self._has_ended = False
        with os.fdopen(open_regular(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            # Written before the worker can write its own state.
            self._write_state()
            try:
                self._process = start_process(
                    [*command, "run", str(folder.root.absolute()), *options],
                    backend,
                    data_folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            except OSError:
                self.state = self._before
                self._write_state()
                raise
        threading.Thread(target=self._read, name=f"recdreamer {folder.root.name}", daemon=True).start()

    def poll(self) -> bool:
        """Process the events from the worker. True if something changed."""
        with self._lock:
            events, self._events = self._events, {}
            has_ended = self._has_ended
        for line in events.values():
            self._apply(line)
        if has_ended:
            self._finish()
            return True
        return self._watch_clock() or bool(events)

    def ask_to_stop(self, command: Command) -> None:
        """Ask the worker to save and exit, as paused or as cancelled. Either job can be resumed."""
        self.stopping = command
        self._deadline = time.monotonic() + STOP_GRACE_S
        self._say(command)

    def _say(self, command: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # The process may have ended; the reader thread notices.
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()

    def keep_running(self, keeps: bool) -> None:
        """Choose what the worker does when Blender closes: go on, or save and exit."""
        self.keeps_running = keeps
        self._say(STAY if keeps else LEAVE)

    def shut_down(self, timeout_s: float, *, kill: bool = True) -> bool:
        """Make the worker save and exit; the job is paused. True if it has ended within `timeout_s`, or was killed then.

        One that is left alone saves and exits by itself.
        """
        self._close_stdin()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            if not kill:
                return False
            kill_process(self._process)
        self._finish(lost_status="paused")
        return True

    def let_go(self) -> None:
        """Close the pipe, so that the worker continues alone if that was chosen, else saves and exits."""
        self._close_stdin()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                kind = kind_of(line)
                if kind in EVENTS:
                    with self._lock:
                        self._events.pop(kind, None)  # The newest comes last.
                        self._events[kind] = line
        self._process.wait()  # In this thread, so that a detached worker is reaped, too.
        with self._lock:
            self._has_ended = True

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # A broken pipe cannot be flushed.
            self._process.stdin.close()

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
            kill_process(self._process)
        else:
            self._fail(
                f"The backend did not answer within {HELLO_TIMEOUT_S:.0f} seconds.",
                "Press Run Diagnostics in the RecDreamer preferences.",
                "install",
            )
        return True

    def _fail(self, message: str, hint: str, kind: ErrorKind) -> None:
        self._failure = (message, hint, kind)
        kill_process(self._process)

    def _finish(self, lost_status: str = "failed") -> None:
        """Determine the final state after the process has ended, and write it if the worker did not."""
        self._close_stdin()
        code = self._process.wait()
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
        if code == -9:
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


def kind_of(line: bytes) -> str:
    """The type of the event in a line from a worker; empty if it has none.

    >>> kind_of(b'{"type": "result", "path": "result"}'), kind_of(b"Loading weights")
    ('result', '')
    """
    found = TYPE.search(line)
    return found[1].decode() if found else ""


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
