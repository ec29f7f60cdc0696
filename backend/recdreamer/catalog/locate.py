"""From the name of a model to its place on this machine. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recdreamer.catalog.check_model import check_model
from recdreamer.catalog.description import Model
from recdreamer.catalog.entries import KIND_NAMES, Entry, Kind, entries, entry_of
from recdreamer.catalog.places import (
    MANIFEST,
    Choices,
    cached_repositories,
    cached_snapshots,
    is_repository,
    models_folder,
)
from recdreamer.paths import given_path, unquoted
from recdreamer.report import JobError
from recdreamer.shared.json_values import parse_json
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import printable, reason_of
from recdreamer.shared.worlds import DEFAULT_WORLD, World, world_of


class ModelMissing(RequestError):
    """The model is not on this machine."""


def locate(name: str, kind: Kind, folder: Path | None = None) -> Path:
    """The folder or file of a model.

    `name` is a path; the id of an entry of the catalog, or "stable-diffusion"; or a repository on the Hub, which is
    looked for among the installed models and in the caches, also under the names that it had earlier. Raises ModelMissing
    if it is not here.
    """
    path, name = given_path(name), unquoted(name)
    if not name:  # Which would be the working folder.
        raise ModelMissing(f"The {KIND_NAMES[kind]} has no name.", _offer(kind))
    entry = entry_of(name)
    if (entry is None and not is_repository(name)) or path.exists():
        if not path.exists():
            raise ModelMissing(f"There is no {KIND_NAMES[kind]} {printable(name)[:200]}.", _offer(kind))
        return path
    if entry is not None:
        if found := _of_entry(entry, folder):
            return found
        raise ModelMissing(
            f"{entry.title} is not on this machine.", f"Get it: recdreamer models get {entry.id}"
        )
    for snapshot in cached_snapshots(name):
        if _has_start(snapshot):
            return snapshot
    raise ModelMissing(f"The {KIND_NAMES[kind]} {name} is not on this machine.", _offer(kind))


def located(name: str, kind: Kind, builtin: Path | None = None) -> Model:
    """The description of a model by its name, for a job: that of an embedded world, or else as in `locate`.

    `builtin` is the folder of such models among the embedded ones; without it, names of worlds are names like others.

    Raises JobError: "model_missing" if it is not on this machine, else `kind` if it cannot be used.
    """
    try:
        world = None if builtin is None else world_of(name)
        if builtin is not None and world is not None:
            return check_model(_of_world(world, builtin, kind), kind)
        return check_model(locate(name, kind), kind)
    except ModelMissing as error:
        raise JobError("model_missing", error.message, error.hint) from error
    except RequestError as error:
        raise JobError(kind, error.message, error.hint) from error
    except OSError as error:
        what = f"The {KIND_NAMES[kind]} {printable(name)[:200]} cannot be read ({reason_of(error)})."
        raise JobError(kind, what, "Check the name, the disk and its permissions.") from error


def _of_world(world: World, builtin: Path, kind: Kind) -> Path:
    """Raises ModelMissing if this world has no such model."""
    folder = world.models(builtin)
    if world != DEFAULT_WORLD and not folder.is_dir():
        what = f"The {KIND_NAMES[kind]} of the {world.name} is not part of this installation."
        raise ModelMissing(what, f"Use {DEFAULT_WORLD.name}, or give the path of a folder.")
    return folder


def folder_of(name: str) -> Path:
    """A folder, or a repository in a cache, with a network of a kind that is not in the catalog.

    Raises ValueError with the reason if there is none.
    """
    path, name = given_path(name), unquoted(name)
    if not name:
        raise ValueError("it has no name")
    if path.is_dir():
        return path
    for snapshot in cached_snapshots(name):
        if _has_start(snapshot):
            return snapshot
    raise ValueError("it is no folder, and no model of that name is on this machine")


def _offer(kind: Kind) -> str:
    known = ", ".join(entry.id for entry in entries().values() if entry.kind == kind)
    return f"Choose a path that exists, or get one: recdreamer models get ID, where ID is one of: {known}."


def _of_entry(entry: Entry, folder: Path | None) -> Path | None:
    """Where the entry is complete: installed, or else in a cache."""
    own = models_folder(folder) / entry.id
    if is_installed(own):
        return own
    for repo in entry.repositories:
        for snapshot in cached_snapshots(repo):
            if _has_start(snapshot):
                try:
                    check_model(snapshot, entry.kind)
                except RequestError:
                    continue  # Fetched in part, or as pickles.
                return snapshot
    return None


def is_installed(folder: Path) -> bool:
    """Whether an installed model is complete: the manifest is there, and all of its files have their size."""
    try:
        manifest = parse_json((folder / MANIFEST).read_bytes())
        return all((folder / file["path"]).stat().st_size == file["size"] for file in manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _has_start(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


@dataclass(frozen=True)
class Found:
    """A model on this machine that the catalog did not fetch."""

    name: str
    path: Path
    origin: str
    """`cache` or `added`."""
    model: Model | None
    """None if it cannot be used."""
    reason: str = ""
    """Why it cannot be used, and what to do."""


def found_models(folder: Path | None = None) -> Iterator[Found]:
    """Models in the caches of Hugging Face and in what the artist added, usable or not, without other networks."""
    for repo, snapshot in cached_repositories():
        if (snapshot / "model_index.json").is_file() or entry_of(repo) is not None:
            yield _examined(repo, snapshot, "cache")
    for text in Choices.read(models_folder(folder)).added:
        path = Path(text)
        inside = models_in(path)
        for one in inside or [path]:
            yield _examined(one.name, one, "added")


def models_in(folder: Path) -> list[Path]:
    """The models in a folder that is none itself: single files and pipeline folders, also one level further down."""
    if not folder.is_dir() or _has_start(folder):
        return []
    found = [file for pattern in ("*.safetensors", "*/*.safetensors") for file in folder.glob(pattern)]
    folders = [file.parent for file in folder.glob("*/model_index.json")]
    files = [file for file in found if not _has_start(file.parent) and file.is_file()]
    return sorted({*files, *folders})


def _examined(name: str, path: Path, origin: str) -> Found:
    try:
        return Found(name, path, origin, check_model(path))
    except RequestError as error:
        return Found(name, path, origin, None, f"{error.message} {error.hint}")
    except OSError as error:
        return Found(name, path, origin, None, f"{path} cannot be read ({error.strerror}).")
