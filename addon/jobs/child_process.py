"""A process in the background whose output is read between two redraws. No bpy here.

Nothing in the add-on waits in a thread, because Blender may crash then: up to 5.0, with Python 3.11, it looks up what
`temp_override` has set without the interpreter's lock while an operator runs and another thread holds it. So a process
writes to a file, which takes whatever it says, on every system, however long nobody reads. On Linux that is in memory, so
that it can still say that the disk is full.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ...backend.recdreamer.shared.device_lock import DEVICES

FOREIGN = ("PYTHON", "PIP_", "CONDA", "VIRTUAL_ENV", "UV_")
"""Prefixes of variables that would change where Python looks and where pip installs to."""
NETWORK = ("PIP_CERT", "PIP_PROXY", "PIP_CLIENT_CERT")
MODELS = "RECDREAMER_MODELS"
"""Variable of the backend with the folder of installed models."""
MAX_UNREAD = 1 << 22
"""Bytes of output; of more than that only the newest are read."""
_let_go: list[subprocess.Popen[bytes]] = []
"""Those that nobody waits for, kept until they have ended."""


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


class ChildProcess:
    """A process in its own group, so that its whole tree can be killed, without a console window.

    It works in the bundled backend: nobody else's files are there, neither a job's nor those beside a .blend file. It
    finds the models of `data_folder`, and the locks of the devices.
    """

    def __init__(
        self,
        command: Sequence[str],
        backend: Path,
        data_folder: Path | None = None,
        *,
        stderr: IO[bytes] | int = subprocess.STDOUT,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """`stderr` and `stdin` as for subprocess.Popen. Raises OSError if it cannot be started."""
        options: dict[str, Any] = {"cwd": backend, "env": worker_environment(backend)}
        if data_folder:
            options["env"] |= {
                MODELS: str(models_folder(data_folder)),
                DEVICES: str(devices_folder(data_folder)),
            }
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["start_new_session"] = True
        self.command = [*command]
        self.has_ended = False
        """Whether it has ended and `read` has returned all of its output."""
        self._rest = b""
        """The beginning of a line that is not complete yet."""
        stdout, self._output, self._path = _new_file()
        try:
            self._process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, **options)
        except OSError:
            self._close()
            raise
        finally:
            os.close(stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def read(self) -> bytes:
        """The lines that are new and complete; when the process has ended, all that is left."""
        if self._output.closed:
            return b""
        has_ended = self.code is not None  # Asked first: what it says at its end is then in the file.
        unread = os.fstat(self._output.fileno()).st_size - self._output.tell()
        if unread > MAX_UNREAD:
            self._output.seek(unread - MAX_UNREAD, os.SEEK_CUR)
            self._rest, unread = b"", MAX_UNREAD
        text = self._rest + self._output.read(unread)
        if has_ended:
            self.has_ended = True
            self._close()
            return text
        end = text.rfind(b"\n") + 1
        self._rest = text[end:][-MAX_UNREAD:]
        return text[:end]

    def say(self, line: bytes) -> None:
        """Write a line to its standard input, if it still reads that."""
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.write(line + b"\n")
                self._process.stdin.flush()

    def close_stdin(self) -> None:
        """Nothing more will be said. A broken pipe cannot be flushed."""
        if self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.close()

    def let_go(self) -> None:
        """Neither talk nor listen to it any more, whatever it does then."""
        self.close_stdin()
        self._close()
        _let_go[:] = [process for process in (*_let_go, self._process) if process.poll() is None]

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, after at most `timeout_s`; None if it still runs then."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def kill(self) -> None:
        """End it and its children, and wait for it."""
        if self.code is None:
            if sys.platform == "win32":
                # By its full path: Windows would search the working folder first.
                taskkill = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "taskkill.exe")
                command = [taskkill, "/F", "/T", "/PID", str(self._process.pid)]
                subprocess.run(command, capture_output=True, check=False)
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _close(self) -> None:
        self._output.close()
        if self._path is not None:
            with suppress(OSError):  # One that was let go may still write to it.
                self._path.unlink()


def _new_file() -> tuple[int, IO[bytes], Path | None]:
    """Descriptor of a new file, a stream that reads it from its beginning, and its name if it cannot go without."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("recdreamer")
        with suppress(OSError):  # Without /proc.
            return handle, Path(f"/proc/self/fd/{handle}").open("rb", buffering=0), None
        os.close(handle)
    handle, name = tempfile.mkstemp(prefix="recdreamer-", suffix=".txt")
    path = Path(name)
    stream = path.open("rb", buffering=0)
    if sys.platform == "win32":  # It removes no open file.
        return handle, stream, path
    path.unlink()
    return handle, stream, None
