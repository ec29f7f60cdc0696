"""One thing at a time on a device: whoever uses it for long locks it, in a folder that all on this machine share.

The process that uses the device holds the lock, so it is free again however that process ends, and stays locked while a
job runs on after Blender was closed. Without the folder, as in a shell, nobody waits. Standard library only, and shared
with the add-on like protocol.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .folder_lock import FolderBusy, FolderLock, is_locked
from .safe_files import RequestError

DEVICES = "RECDREAMER_DEVICES"
"""Environment variable: the folder of the locks."""


def locks_of(device: str) -> tuple[str, ...]:
    """The locks of a device as a request names it. `auto` may become the CPU or the first GPU, so it has both.

    >>> locks_of("auto"), locks_of("cuda:0"), locks_of("cuda:1")
    (('cpu', 'cuda'), ('cuda',), ('cuda-1',))
    """
    if device in ("auto", ""):
        return ("cpu", "cuda")
    name = "cuda" if device == "cuda:0" else device
    return ("".join(letter if letter.isalnum() else "-" for letter in name[:20]),)


def is_busy(devices: Path, device: str) -> bool:
    """Does any process use this device now?"""
    return any(is_locked(devices / name) for name in locks_of(device))


@contextmanager
def turn(device: str, wait: Callable[[], object], devices: Path | None = None) -> Iterator[None]:
    """Hold the locks of a device; while another process has them, call `wait`, which takes its time or raises.

    `devices` is the folder; by default that of the environment variable, and without one there is nothing to wait for.
    """
    named = os.environ.get(DEVICES)
    folder = devices or (Path(named) if named else None)
    held: list[FolderLock] = []
    try:
        while folder is not None and not _take(folder, locks_of(device), held):
            wait()
        yield
    finally:
        for lock in held:
            lock.release()


def _take(folder: Path, names: tuple[str, ...], held: list[FolderLock]) -> bool:
    """Take all locks or none. True if there are all, also where no lock can be written: a job is worth more."""
    try:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            held.append(FolderLock(folder / name))
    except FolderBusy:
        while held:
            held.pop().release()
        return False
    except (OSError, RequestError):
        pass
    return True
