"""A process in the background whose output is read between two redraws. No bpy here.

Nothing in the add-on waits in a thread, because Blender may crash then: up to 5.0, with Python 3.11, it looks up what
`temp_override` has set without the interpreter's lock while an operator runs and another thread holds it. So a process
writes to a file, which takes whatever it says, on every system, however long nobody reads. On Linux that is in memory, so
that it can still say that the disk is full. As such a file never breaks, the end of its standard input is what tells a
process that Blender has ended.
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
from ...backend.recdreamer.shared.parent_process import ENDS_WITH_PARENT

FOREIGN = ("PYTHON", "PIP_", "CONDA", "VIRTUAL_ENV", "UV_")
"""Prefixes of variables that would change where Python looks and where pip installs to."""
NETWORK = ("PIP_CERT", "PIP_PROXY", "PIP_CLIENT_CERT")
MODELS = "RECDREAMER_MODELS"
"""Variable of the backend with the folder of installed models."""
MAX_READ = 1 << 22
"""Bytes of output that are read at once; what is left is read the next time."""
KILL_S = 1.0
"""Time for a process that was killed to be gone; one that hangs in a driver stays."""
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
        ends_with_us: bool = True,
    ) -> None:
        """`stderr` as for subprocess.Popen; `ends_with_us` is for commands of ours that are not told anything
        (`end_with_parent`). Raises OSError if it cannot be started.
        """
        environment = worker_environment(backend)
        if data_folder:
            environment |= {
                MODELS: str(models_folder(data_folder)),
                DEVICES: str(devices_folder(data_folder)),
            }
        if ends_with_us:
            environment[ENDS_WITH_PARENT] = "1"
        options: dict[str, Any] = {"cwd": backend, "env": environment}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["start_new_session"] = True
        self.command = [*command]
        self.has_ended = False
        """Whether it has ended and `read` has returned all of its output."""
        self._rest = b""
        """The beginning of a line that is not complete yet."""
        self._grace_s = KILL_S
        written, self._output = _new_file()
        with written:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=written, stderr=stderr, **options
                )
            except OSError:
                self._output.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def read(self, most: int = MAX_READ) -> bytes:
        """The lines that are new and complete, of `most` bytes; when the process has ended, all that is left."""
        if self._output.closed:
            return b""
        has_ended = self.code is not None  # Asked first: what it says at its end is then in the file.
        new = self._output.read(most)
        text = self._rest + new
        if has_ended and len(new) < most:
            self.has_ended = True
            self._close()
            return text
        end = text.rfind(b"\n") + 1
        self._rest = text[end:][-MAX_READ:]
        return text[:end]

    def say(self, line: bytes) -> None:
        """Write a line to its standard input, if it still reads that."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def let_go(self) -> None:
        """Neither talk nor listen to it any more, whatever it does then."""
        self._close()
        _let_go[:] = [process for process in (*_let_go, self._process) if process.poll() is None]

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, after at most `timeout_s`; None if it still runs then."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def kill(self) -> int | None:
        """End it and its children. Its exit status; None if the system cannot end it, and only the first time waits."""
        if self.code is None:
            # What has ended since then is not there any more, or macOS does not permit it.
            with suppress(OSError, subprocess.TimeoutExpired):
                if sys.platform == "win32":
                    # By its full path: Windows would search the working folder first.
                    taskkill = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "taskkill.exe")
                    null = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
                    command = [taskkill, "/F", "/T", "/PID", str(self._process.pid)]
                    subprocess.run(command, timeout=KILL_S, check=False, **null)
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)
        grace_s, self._grace_s = self._grace_s, 0.0
        return self.wait(grace_s)

    def _close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # A broken pipe cannot be flushed.
            self._process.stdin.close()
        self._output.close()


def _new_file() -> tuple[IO[bytes], IO[bytes]]:
    """A new file to write, and to read from its beginning, which goes when nobody has it open any more."""
    with suppress(AttributeError, OSError):  # Another system; or without /proc, or it is not permitted.
        written = os.fdopen(os.memfd_create("recdreamer"), "wb", buffering=0)
        try:
            return written, Path(f"/proc/self/fd/{written.fileno()}").open("rb", buffering=0)
        except OSError:
            written.close()
            raise
    written = tempfile.NamedTemporaryFile(prefix="recdreamer-", buffering=0)  # noqa: SIM115
    return written, open(written.name, "rb", buffering=0, opener=_open_temporary)


def _open_temporary(path: str, flags: int) -> int:
    """Windows opens no temporary file a second time but as one."""
    return os.open(path, flags | getattr(os, "O_TEMPORARY", 0))
