"""What the backend takes on the disk, and its removal. No bpy here."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .installation import Places
from .remedies import SetupError, explain
from .tree_sizes import TreeSizes


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


class Sizes(TreeSizes[str]):
    """Sizes of parts, by their names."""

    def measure_parts(self, wanted: tuple[Part, ...]) -> None:
        """Begin to measure them, anew if they were measured."""
        for part in wanted:
            self.measure(part.name, part.folders)
