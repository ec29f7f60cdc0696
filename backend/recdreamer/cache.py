"""Folders of this user's caches: compiled kernels and features of templates. Their contents can be rebuilt."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Folder of one cache; where it cannot be written, a temporary folder of this process."""
    try:
        folder = lasting_folder(name)
    except RuntimeError:  # There is no home folder.
        return _temporary() / name
    return _temporary() / name if why_not_writable(folder) else folder


def lasting_folder(name: str) -> Path:
    """Folder of one cache that lasts. Raises RuntimeError if this user has no home folder.

    On Windows the CUDA loader reads paths in the system's code page, so a profile folder with other characters is
    replaced by a folder in ProgramData that is named by a hash of it.
    """
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        if not str(local).isascii():
            shared = Path(os.environ.get("PROGRAMDATA", "C:/ProgramData"))
            return shared / "recdreamer" / hashlib.sha256(str(local).encode()).hexdigest()[:16] / name
        return local / "recdreamer" / name
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recdreamer" / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recdreamer" / name


@functools.cache
def why_not_writable(folder: Path) -> str:
    """The system's reason why no file can be written into a folder, which is made if needed; empty if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@functools.cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recdreamer-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
