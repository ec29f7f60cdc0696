"""What the backend takes on the disk, and its removal. No bpy here."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .installation import Places
from .progress import tree_size
from .remedies import SetupError, explain


@dataclass(frozen=True)
class Part:
    """Something that can be removed by itself."""

    name: str
    label: str
    folders: tuple[Path, ...]


def parts(data: Path, outer: Mapping[str, str] | None = None) -> tuple[Part, ...]:
    """All that an installation and its jobs leave, apart from the jobs themselves, which the History removes."""
    places = Places(data)
    return (
        Part("environment", "Backend", (places.environment, places.setup)),
        Part("models", "Image models", (data / "models",)),
        Part("caches", "Caches", (user_cache(outer),)),
    )


def user_cache(outer: Mapping[str, str] | None = None) -> Path:
    """Where the backend keeps compiled kernels; `cache.py` of the backend says the same."""
    outer = os.environ if outer is None else outer
    if sys.platform == "win32":
        local = Path(outer.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        if not str(local).isascii():
            shared = Path(outer.get("PROGRAMDATA", "C:/ProgramData"))
            return shared / "recdreamer" / hashlib.sha256(str(local).encode()).hexdigest()[:16]
        return local / "recdreamer"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recdreamer"
    return Path(outer.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recdreamer"


def remove(part: Part) -> None:
    """Delete the folders of a part; links are removed, not followed. Raises SetupError."""
    for folder in part.folders:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            try:
                shutil.rmtree(folder, **{"onexc" if sys.version_info >= (3, 12) else "onerror": _retry})
            except OSError as error:
                failure = explain(f"{error} (os error {error.errno})", f"Removing {folder.name}")
                raise SetupError(failure.sentence, failure.cure) from error


def _retry(function, path, _) -> None:
    """Files of wheels may be read-only, which Windows does not delete."""
    Path(path).chmod(stat.S_IWRITE)
    function(path)


@dataclass
class Sizes:
    """Sizes of parts, measured in the background: a finished environment has 20,000 files."""

    bytes_of: dict[str, int] = field(default_factory=dict)
    """By name of the part; what is not measured yet is missing."""
    _thread: threading.Thread | None = None
    _is_new: bool = False

    def poll(self) -> bool:
        """True once after something was measured."""
        is_new, self._is_new = self._is_new, False
        return is_new

    def measure(self, wanted: tuple[Part, ...]) -> None:
        """Start to measure, unless that is going on."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, args=(wanted,), daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until it is measured, for tests and dialogs."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, wanted: tuple[Part, ...]) -> None:
        for part in wanted:
            with suppress(OSError):
                self.bytes_of[part.name] = sum(map(tree_size, part.folders))
        self._is_new = True
