"""Folders of this user's caches: compiled kernels and features of templates. Their contents can be rebuilt."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Folder of one cache.

    On Windows the CUDA loader reads paths in the system's code page, so a profile folder with other characters is
    replaced by a folder in ProgramData that is named by a hash of it.
    """
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        if not str(local).isascii():
            shared = Path(os.environ.get("PROGRAMDATA", "C:/ProgramData"))
            return shared / "recdreamer" / hashlib.sha256(str(local).encode()).hexdigest()[:16] / name
        return local / "recdreamer" / name
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recdreamer" / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recdreamer" / name
