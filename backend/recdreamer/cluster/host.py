"""A job on a node of a cluster: an actor that keeps a copy of its folder, runs a worker on it, and answers for both.

The worker is the same process as on one's own computer, and so are its folder, its events and the ways to stop it. If the
actor dies, however it dies, the pipe to the worker ends, and the worker saves and stops as when Blender ends.
"""

from __future__ import annotations

import os
import platform
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recdreamer import __version__
from recdreamer.cluster import parcel
from recdreamer.job.errors import explain
from recdreamer.report import JobError
from recdreamer.shared.folder_lock import COMMANDS, FolderLock, is_locked
from recdreamer.shared.protocol import (
    PROTOCOL_VERSION,
    TEMPORARY,
    JobFolder,
    JobRequest,
    RequestError,
    write_atomically,
)
from recdreamer.shared.safe_files import is_inside, open_regular

FOLDER = "RECDREAMER_CLUSTER_FOLDER"
"""Variable of the node: where it keeps the copies of job folders. By default in the folder of temporary files."""
JOB, EARLIER_JOB = "job", "earlier-job"
"""Folders of a copy: the job, and the one that it continues."""
CARRIED = (
    "job.json",
    "seeds.json",
    "config.json",
    "templates",
    "start",
    "checkpoints",
    "trace.json",
    "sheets",
)
"""What a worker needs of a job folder."""
RETURNED_MEANWHILE = ("checkpoints", "previews", "templates", "config.json")
"""What comes back while the worker runs: each of these entries is complete as soon as it has its name."""
RETURNED = (
    *RETURNED_MEANWHILE, "seeds.json", "trace.json", "sheets", "particles.png", "marginal.png", "check", "result",
)  # fmt: skip
"""What comes back when the worker has ended. The result last: with it the job is done."""
SINGLY = ("checkpoints", "previews", "templates")
"""Folders whose entries come back one by one."""
SILENCE_S = 90.0
"""Without a question for so long, whoever has submitted the job is gone."""
END_S = 60.0
"""Time for a worker to save after that."""
ABANDONED_S = 120.0
"""A copy that nobody holds is removed by the next job on the node when it is older than this."""
MAX_LOG = 2**16
"""Bytes of the log that one answer carries."""
HOME = Path(__file__).resolve().parents[2]
"""Folder that has this package."""


class JobHost:
    """One job on this node, from its parcel to its result. Methods return plain values and raise nothing."""

    def __init__(self, name: str, program: tuple[str, ...] = (), storage: str = "") -> None:
        self._name, self._storage = name, storage  # The name is that of the attempt, and of no other.
        self._program = program or (sys.executable, "-P", "-m", "recdreamer")
        self._arrived = bytearray()
        self._folder: Path | None = None
        self._lock: FolderLock | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._log_read = 0
        self._packed: dict[str, bytes] = {}
        self._heard_s, self._closed = time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def about(self) -> dict[str, Any]:
        """What has to fit: versions, the clock, and who answers."""
        self._heard_s = time.monotonic()
        return {
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time_s": time.time(),
            "address": self._address(),
        }

    def receive(self, part: bytes) -> None:
        """A part of the parcel of the job folder, in order."""
        self._heard_s = time.monotonic()
        self._arrived += part

    def begin(self, note: dict[str, Any], variables: dict[str, str] | None = None) -> dict[str, Any]:
        """Unpack the parcel of the note and start the worker, with these environment variables besides.

        Returns {"units": ...} or {"failure": ...}.
        """
        self._heard_s = time.monotonic()
        try:
            data, self._arrived = bytes(self._arrived), bytearray()
            data = parcel.take(self._storage, note) if self._storage else parcel.checked(data, note)
            self._folder = self._new_folder()
            self._lock = FolderLock(self._folder)
            parcel.unpack(data, self._folder)
            job = JobFolder(self._folder / JOB)
            job.check()
            write_atomically(job.request, self._as_here(job.read_request()).to_json())
            units = self._units(at_end=True)
            self._start_worker(job, variables or {})
        except Exception as error:
            failure = explain(error, f"the job on {socket.gethostname()}")
            self.close()
            return {"failure": self._told(failure)}
        return {"units": units}

    def news(self, wait_s: float) -> dict[str, Any]:
        """What happened since the last question, after `wait_s` or at the end of the worker.

        lines: events · log: new text of the log · units: what can be fetched, with its stamp · code: the worker's exit
        code, None while it runs.
        """
        self._heard_s = time.monotonic()
        # Not line by line: a question costs the head more than a line.
        self._ended.wait(wait_s)
        lines, has_ended = [], self._ended.is_set()
        with suppress(queue.Empty):
            while True:
                lines.append(self._lines.get_nowait())
        # Nothing is written after the end, which was looked at first.
        code = self._worker.wait() if self._worker is not None and has_ended else None
        return {"lines": lines, "log": self._new_log(), "units": self._units(code is not None), "code": code}

    def pack(self, unit: str) -> dict[str, Any] | None:
        """Pack one unit of `news` to be fetched. None if it is not there any more; {"failure": ...} if that fails."""
        self._heard_s = time.monotonic()
        assert self._folder is not None
        try:
            if not is_inside(unit):
                raise RequestError("The unit is not in the job folder.", parcel.DAMAGED)
            stamp = stamp_of(self._folder / JOB / unit)
            data = parcel.pack((self._folder / JOB, [unit], ""))
            if stamp_of(self._folder / JOB / unit) != stamp:
                return None  # The worker was removing it, and a part of it may be missing.
            if self._storage:
                return parcel.put(self._storage, f"{self._name}/{unit.replace('/', '-')}.parcel", data)
            self._packed = {unit: data}
        except FileNotFoundError:
            return None
        except Exception as error:
            return {"failure": self._told(explain(error))}
        return {"name": unit, "size": len(data), "sha256": parcel.digest(data)}

    def part(self, unit: str, start: int, size: int) -> bytes:
        """Bytes of a packed unit."""
        self._heard_s = time.monotonic()
        return self._packed.get(unit, b"")[start : start + size]

    def ask_to_stop(self, command: str) -> None:
        """Ask the worker to save and exit."""
        self._heard_s = time.monotonic()
        if self._worker is not None and self._worker.stdin is not None and command in COMMANDS:
            with suppress(OSError, ValueError):
                self._worker.stdin.write(command.encode() + b"\n")
                self._worker.stdin.flush()

    def close(self) -> None:
        """End the worker, if it has not ended, and remove the copy."""
        self._closed.set()
        if self._worker is not None:
            if self._worker.poll() is None:
                self._worker.kill()
                self._worker.wait()
            assert self._worker.stdin is not None
            with suppress(OSError):  # A broken pipe cannot be flushed.
                self._worker.stdin.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @staticmethod
    def _told(failure: JobError) -> tuple[str, str, str]:
        """Kind, message and hint of a failure of this node, as plain values."""
        return failure.kind, f"{socket.gethostname()}: {failure.message}", failure.hint

    def _new_folder(self) -> Path:
        base = base_folder()
        sweep_abandoned(base)
        return Path(tempfile.mkdtemp(dir=base, prefix=f"{self._name[-80:]}-"))

    def _as_here(self, request: JobRequest) -> JobRequest:
        """The request of the copy: no parent to outlive, the earlier job beside it, and a GPU has no number here."""
        assert self._folder is not None
        return replace(
            request,
            keep_running=False,
            start_job=str(self._folder / EARLIER_JOB) if request.start_job else "",
            device="cuda" if request.device.startswith("cuda") else request.device,
        )

    @staticmethod
    def _address() -> str:
        """Where other nodes reach this one. Ray knows, whose process this is; without it, there are no others."""
        ray = sys.modules.get("ray")
        return ray.util.get_node_ip_address() if ray is not None and ray.is_initialized() else "127.0.0.1"

    def free_port(self) -> int:
        """A port where the worker can be reached by those of other nodes."""
        self._heard_s = time.monotonic()
        with socket.socket() as probe:
            probe.bind(("", 0))
            return probe.getsockname()[1]

    def _start_worker(self, job: JobFolder, variables: dict[str, str]) -> None:
        # Ray's variables have its token, which is none of the worker's business.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        paths = [str(HOME), *filter(os.path.isabs, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment |= {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1", "OMP_WAIT_POLICY": "PASSIVE",
            **variables,
        }  # fmt: skip
        handle = open_regular(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(handle, "ab") as log:
            self._worker = subprocess.Popen(
                [*self._program, "run", str(job.root)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=HOME, env=environment,
            )  # fmt: skip
        threading.Thread(target=self._read, name="events", daemon=True).start()

    def _read(self) -> None:
        assert self._worker is not None and self._worker.stdout is not None
        with self._worker.stdout as stream:
            for line in stream:
                self._lines.put(line.decode("utf-8", "replace"))
        self._worker.wait()
        self._ended.set()

    def _new_log(self) -> str:
        try:
            assert self._folder is not None
            with os.fdopen(open_regular(self._folder / JOB / "log.txt"), "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                stream.seek(max(self._log_read, size - MAX_LOG))
                data = stream.read(MAX_LOG)
                self._log_read = stream.tell()
        except (OSError, RequestError):
            return ""
        return data.decode("utf-8", "replace")

    def _units(self, at_end: bool) -> dict[str, str]:
        """Name of each file or folder that can be fetched as a whole -> what changes when it does."""
        assert self._folder is not None
        root, found = self._folder / JOB, {}
        for name in RETURNED if at_end else RETURNED_MEANWHILE:
            paths = (
                sorted((root / name).iterdir())
                if name in SINGLY and (root / name).is_dir()
                else [root / name]
            )
            for path in paths:
                if not path.name.startswith((".", TEMPORARY)):
                    with suppress(OSError):
                        found[path.relative_to(root).as_posix()] = stamp_of(path)
        return found

    def _watch(self) -> None:
        """Let the worker save and stop when nobody asks any more, and end with it."""
        while time.monotonic() - self._heard_s < SILENCE_S:
            if self._closed.wait(SILENCE_S / 30):
                return
        if self._worker is not None and self._worker.stdin is not None:
            with suppress(OSError):
                self._worker.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._worker.wait(END_S)
        self.close()
        os._exit(1)


def stamp_of(path: Path) -> str:
    """What changes when a file is replaced, or an entry of a folder. Raises FileNotFoundError."""
    status = path.stat()
    return f"{status.st_mtime_ns}-{status.st_ino}-{status.st_size}"


def base_folder() -> Path:
    """The folder of this user for copies of job folders. Raises RequestError if it is someone else's, and OSError."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    base = Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir(), f"recdreamer-cluster-{user}"))
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if hasattr(os, "getuid") and not os.environ.get(FOLDER) and (status.st_uid != user or base.is_symlink()):
        raise RequestError(
            f"{base} belongs to someone else.", f"Choose another folder by {FOLDER} on the node."
        )
    return base


def sweep_abandoned(base: Path) -> None:
    """Remove the copies of hosts that were killed: those that nobody holds and whose worker has ended."""
    for folder in base.iterdir():
        with suppress(OSError):
            is_old = time.time() - folder.lstat().st_mtime > ABANDONED_S
            if is_old and folder.is_dir() and not is_locked(folder) and not is_locked(folder / JOB):
                shutil.rmtree(folder, ignore_errors=True)
