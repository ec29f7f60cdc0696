"""Who works on a job folder, and how to ask them to stop: by a lock and a file in it, never by a process number.

A number in a file may be anyone's: it may be old, of another computer, or written by a stranger. Standard library only,
and shared with the add-on like protocol.py.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Literal, get_args

from .safe_files import RequestError, open_regular, printable, read_bounded, reason_of, write_atomically

Command = Literal["cancel", "pause"]
COMMANDS = get_args(Command)
STAY, LEAVE = "stay", "leave"
"""Over the pipe: go on, or save and exit, when the parent process has ended."""

LOCK, STOP = "worker.lock", "stop"
"""Files in the job folder: locked while a worker runs; asks the worker to stop."""
LOCK_WAIT_S = 0.5
"""`is_locked` holds the lock for a moment, and must not turn a worker away."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of file systems without locks, some network shares: there, the heart-beat in state.json must do."""


class FolderBusy(Exception):
    """Another process is working on the folder."""


class FolderLock:
    """An exclusive lock on a folder. The system releases it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Raises FolderBusy; OSError if the folder cannot be written, RequestError if the lock file is no file."""
        self._folder, self._path = folder, folder / LOCK
        self._identity = identity(folder)
        self._handle = _lock(self._path)

    def keep(self) -> None:
        """Renew a lock file that was deleted. Raises RequestError if the folder is not ours any more."""
        try:
            is_there = identity(self._folder) == self._identity
        except OSError:
            is_there = False
        if not is_there:
            raise gone(self._folder)
        if _is_same(self._handle, self._path):
            return
        try:
            renewed = _lock(self._path)
        except FolderBusy:
            raise taken_over(self._folder) from None
        except OSError:
            return  # A full disk, for example: the next heart-beat tries again.
        os.close(self._handle)
        self._handle = renewed

    def release(self) -> None:
        os.close(self._handle)


def gone(folder: Path) -> RequestError:
    """What a worker says whose folder is not there any more, or is another one."""
    return RequestError(
        f"The job folder {printable(folder)} was deleted or moved while the job ran.",
        "If it was moved, resume the job at its new place.",
    )


def taken_over(folder: Path) -> RequestError:
    """What a worker says that has lost its folder to another."""
    return RequestError(
        f"Another worker has taken over the job folder {printable(folder)}.",
        "Let that one finish; do not delete worker.lock while a job runs.",
    )


def is_locked(folder: Path) -> bool:
    """Is a worker running on this folder? Where the file system keeps locks, also one of another computer."""
    try:
        handle = open_regular(folder / LOCK)
    except (OSError, ValueError):
        return False
    try:
        return not _try_lock(handle, shared=True)
    except OSError:
        return False
    finally:
        os.close(handle)


def ask_to_stop(folder: Path, command: Command) -> None:
    """Ask the worker of a folder to stop, wherever it runs. It looks once a second. Raises RequestError."""
    try:
        write_atomically(folder / STOP, command)
    except OSError as error:
        raise RequestError(
            f"The worker cannot be asked to stop ({reason_of(error)}).",
            "Make the job folder writable, or end the worker on the computer that runs it.",
        ) from error


def take_stop_request(folder: Path) -> str:
    """The command that was left by `ask_to_stop`, which is removed; empty if there is none."""
    path = folder / STOP
    try:
        command = read_bounded(path, 64).decode("utf-8", "replace").strip()
    except RequestError:
        command = ""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return ""  # A folder, or one that cannot be written: it would be obeyed for ever.
    return command if command in COMMANDS else ""


def _lock(path: Path) -> int:
    """Descriptor of a lock file that we hold, made if needed."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        handle = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            # A file that was deleted meanwhile would lock nothing.
            if _try_lock(handle, shared=False) and _is_same(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= deadline:
            raise FolderBusy
        time.sleep(0.02)


def identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from another one that has its name. Raises OSError if there is none."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_same(handle: int, path: Path) -> bool:
    """Whether a descriptor is that of the file that stands at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _try_lock(handle: int, shared: bool) -> bool:
    """Lock a file without waiting. False if another has it; True where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
