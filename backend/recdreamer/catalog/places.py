"""Where models are: the folder of installed models, what the artist added, and the caches of Hugging Face."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from recdreamer.shared.json_values import parse_json
from recdreamer.shared.protocol import RequestError, write_atomically
from recdreamer.shared.safe_files import reason_of

FOLDER_VARIABLE = "RECDREAMER_MODELS"
"""Environment variable with the folder of installed models."""
MANIFEST = "recdreamer-model.json"
"""In the folder of an installed model, written when all of its files are complete."""


def models_folder(chosen: Path | None = None) -> Path:
    """The folder of installed models: the chosen one, that of RECDREAMER_MODELS, or one beside the jobs."""
    if chosen is not None:
        return chosen.expanduser().absolute()
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "RecDreamer"
    elif sys.platform == "darwin":
        data = Path.home() / "Library/Application Support/RecDreamer"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "recdreamer"
    return data / "models"


@dataclass
class Choices:
    """What the artist decided, `choices.json` in the folder of installed models."""

    accepted: dict[str, str] = field(default_factory=dict)
    """License -> day on which it was accepted."""
    added: list[str] = field(default_factory=list)
    """Folders and files of the artist's own, as absolute paths."""

    @staticmethod
    def read(folder: Path) -> Choices:
        """The choices so far; none if there is no file. Raises RequestError if it cannot be read."""
        path = folder / "choices.json"
        try:
            raw = parse_json(path.read_text(encoding="utf-8"))
            accepted = {str(name): str(day) for name, day in dict(raw["accepted"]).items()}
            return Choices(accepted, [str(item) for item in list(raw["added"])])
        except FileNotFoundError:
            return Choices()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RequestError(
                f"{path} cannot be read ({reason_of(error)}).",
                "Delete it; accept licenses and add folders again.",
            ) from error

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "choices.json", json.dumps(asdict(self), indent=2, ensure_ascii=False))


def hub_caches() -> list[Path]:
    """The caches of Hugging Face's libraries on this machine, under their present and former names, without doubles."""
    get, paths = os.environ.get, []
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        paths += [Path(get(name, ""))] if get(name) else []
    bases = [get("HF_HOME"), get("XDG_CACHE_HOME") and f"{get('XDG_CACHE_HOME')}/huggingface"]
    for base in (*bases, "~/.cache/huggingface"):
        # Early versions of diffusers kept a cache of their own.
        paths += [Path(base) / "hub", Path(base) / "diffusers"] if base else []
    paths = [Path(os.path.expandvars(path)).expanduser() for path in paths]
    return [path for path in dict.fromkeys(paths) if path.is_dir()]


def cached_snapshots(repo: str) -> list[Path]:
    """The snapshots of a repository in all caches, the newest of the main branch first."""
    found = []
    for cache in hub_caches():
        found += snapshots_in(cache / f"models--{repo.replace('/', '--')}")
    return found


def cached_repositories() -> Iterator[tuple[str, Path]]:
    """Each repository in the caches with its preferred snapshot."""
    for cache in hub_caches():
        for folder in sorted(cache.glob("models--*--*")):
            if found := snapshots_in(folder):
                yield folder.name.removeprefix("models--").replace("--", "/", 1), found[0]


def snapshots_in(folder: Path) -> list[Path]:
    """The snapshots of a cached repository: that of the main branch first, then the others by age."""
    try:
        snapshots = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        main = folder / "refs" / "main"
        head = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    except OSError:
        return []
    return sorted(snapshots, key=lambda path: (path.name != head, -path.stat().st_mtime))


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub.

    >>> [is_repository(name) for name in ("madebyollin/taesd", "C:/models/toon", "/models/a", "../a", "a/b/c")]
    [True, False, False, False, False]
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None
