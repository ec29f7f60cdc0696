"""The worker as a process: its standard streams, and requests to stop."""

from __future__ import annotations

import io
import os
import queue
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from recdreamer.job.errors import DISK_FULL
from recdreamer.shared.folder_lock import COMMANDS, LEAVE, STAY
from recdreamer.shared.safe_files import open_regular

DRAIN_S = 5.0
"""Time for the reader to take the last events before the worker exits."""
AGAIN_S = 0.5
"""Time until a line is written again that found no room."""
ALONE_S = 120.0
"""Time for a worker to save and exit after its parent has ended: nobody else ends one that hangs on a device."""


def stay_offline() -> None:
    """Keep the libraries of models from asking any server, even for a name: what is local is loaded as local.

    They read these variables once, when they are imported.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def fill_standard_descriptors() -> None:
    """Open those of descriptors 0, 1 and 2 that the caller closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number.


class EventPipe:
    """Lines to the parent process, over the original standard output.

    A thread writes them, so a busy or missing reader never blocks the work.
    """

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Not inherited by child processes, unlike descriptor 1.
        self._handle: int | None = os.dup(1)
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def send(self, line: str) -> None:
        self._lines.put(line.encode("utf-8") + b"\n")

    def close(self) -> None:
        """Wait up to DRAIN_S until everything is written."""
        self._lines.put(None)
        self._thread.join(DRAIN_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            while line and self._handle is not None:
                try:
                    line = line[os.write(self._handle, line) :]
                except OSError as error:
                    if error.errno in DISK_FULL:  # The reader gets a file where there is none in memory.
                        time.sleep(AGAIN_S)
                    else:  # The reader is gone; events.jsonl still has every line.
                        self._handle = None


def send_prints_to(log: Path) -> None:
    """Redirect descriptors 1 and 2 to a file, with all prints of libraries, C code and child processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = open_regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    # The old objects may be tied to a console instead of a descriptor.
    sys.stdout, sys.stderr = _log_stream(1), _log_stream(2)


class _Log(io.FileIO):
    """A file that takes what it can: on a full disk a print must not hide the failure that it tells of."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


def _log_stream(number: int) -> io.TextIOWrapper:
    writer = io.BufferedWriter(_Log(number, "w", closefd=False))
    return io.TextIOWrapper(writer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class StopRequests:
    """Requests to stop from stdin and signals; `asked` is "", "pause" or "cancel"."""

    def __init__(self) -> None:
        self.asked = ""

    def ask(self, command: str) -> None:
        """Cancel overrides pause, in either order."""
        if command == "cancel" or not self.asked:
            self.asked = command

    def listen(self, stop_at_end: bool) -> None:
        """Listen for signals, and for commands on standard input if it is a pipe.

        Only the end of a pipe means that the parent ended: a terminal, a file or /dev/null means nothing.
        `stop_at_end`: pause when the pipe ends, and exit within ALONE_S, unless the parent has said otherwise by then.
        """
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
                number = getattr(signal, name, None)
                # Signals that the shell or nohup ignores stay ignored.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._on_signal)
        mode = os.fstat(0).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            # Libraries and child processes get an empty standard input and cannot swallow a command.
            handle = os.dup(0)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            threading.Thread(
                target=self._follow, args=(handle, stop_at_end), name="stop", daemon=True
            ).start()

    def _on_signal(self, number: int, frame: Any) -> None:
        """The first signal saves and stops; a second one ends the process at once."""
        self.ask("pause")
        signal.signal(number, signal.SIG_DFL)

    def _follow(self, handle: int, stop_at_end: bool) -> None:
        pending = b""
        while True:
            try:
                part = os.read(handle, 4096)
            except OSError:
                part = b""
            if not part:
                break
            *lines, pending = (pending + part).split(b"\n")
            for line in lines:
                command = line.decode("utf-8", "replace").strip()
                if command in COMMANDS:
                    self.ask(command)
                elif command in (STAY, LEAVE):
                    stop_at_end = command == LEAVE
        if stop_at_end:
            self.ask("pause")
            # Checkpoints survive this at any moment, and the folder is found as interrupted.
            time.sleep(ALONE_S)
            os._exit(1)
