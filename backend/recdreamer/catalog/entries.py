"""The catalog: models that can be fetched, with their sources, exact files and licenses, from catalog.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["prior", "extractor", "decoder", "classifier"]
"""What a model is for: the image model, DINOv2, a tiny decoder, a classifier of attributes."""
KIND_NAMES: dict[Kind, str] = {
    "prior": "image model",
    "extractor": "pose extractor",
    "decoder": "tiny decoder",
    "classifier": "classifier",
}
RECOMMENDED = "stable-diffusion"
"""Name of the recommended image model, whichever it is."""
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class License:
    id: str
    title: str
    url: str
    must_accept: bool
    """It restricts use, so it is shown and accepted before the first byte is fetched."""

    @property
    def text(self) -> str:
        return (FOLDER / "licenses" / f"{self.id}.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class File:
    path: str
    """In the repository and in the installed folder, with slashes."""
    size: int
    """Bytes; approximate if the entry is not verified."""
    sha256: str = ""


@dataclass(frozen=True)
class Source:
    repo: str
    revision: str


@dataclass(frozen=True)
class Entry:
    """A model that can be fetched."""

    id: str
    title: str
    kind: Kind
    about: str
    license: License
    needs: tuple[str, ...]
    """Entries that are fetched with it."""
    sources: tuple[Source, ...]
    """The same files in several places; tried in this order."""
    old_names: tuple[str, ...]
    """Repositories that held the same model earlier; caches may still name them."""
    verified: bool
    """Whether revision, sizes and hashes were checked on the Hub; see catalog.toml."""
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def repositories(self) -> tuple[str, ...]:
        """Every name that the model has or had on the Hub."""
        return (*(source.repo for source in self.sources), *self.old_names)


@cache
def entries() -> dict[str, Entry]:
    """All entries by id, in the order of the file."""
    raw = _raw()
    licenses = {name: License(name, **values) for name, values in raw["licenses"].items()}
    return {
        item["id"]: Entry(
            **item | {
                "license": licenses[item["license"]],
                "needs": tuple(item["needs"]),
                "old_names": tuple(item["old_names"]),
                "sources": tuple(Source(**source) for source in item["sources"]),
                "files": tuple(File(**file) for file in item["files"]),
            }
        )
        for item in raw["models"]
    }  # fmt: skip


def entry_of(name: str) -> Entry | None:
    """The entry with this id, or that is or was in this repository; "stable-diffusion" is the recommended one.

    >>> entry_of("stable-diffusion").id, entry_of("runwayml/stable-diffusion-v1-5").id, entry_of("nothing")
    ('stable-diffusion-2-1-base', 'stable-diffusion-1-5', None)
    """
    if name == RECOMMENDED:
        name = _raw()["recommended"]
    known = entries()
    return known.get(name) or next((entry for entry in known.values() if name in entry.repositories), None)


def with_needs(entry: Entry) -> list[Entry]:
    """The entry and all that it needs, in the order in which they are fetched: the small ones first."""
    return sorted([entry, *(entries()[name] for name in entry.needs)], key=lambda one: one.size)


@cache
def _raw() -> dict:
    raw = tomllib.loads((FOLDER / "catalog.toml").read_text(encoding="utf-8"))
    assert all(model["kind"] in get_args(Kind) for model in raw["models"])
    return raw
