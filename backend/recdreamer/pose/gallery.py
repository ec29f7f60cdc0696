"""A folder of pictures to pick templates from, listed in gallery.json."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from recdreamer.shared.json_values import read_json
from recdreamer.shared.protocol import write_atomically


@dataclass(frozen=True)
class Sample:
    image: str
    """File name in the folder."""
    label: str
    share: float
    """How sure the label is, in [0, 1]."""
    azimuth_deg: float | None = None
    elevation_deg: float | None = None


def write_gallery(folder: Path, samples: list[Sample]) -> None:
    """Write the list after all pictures, so that a reader who finds it finds them all."""
    listed = {"samples": [asdict(sample) for sample in samples]}
    write_atomically(folder / "gallery.json", json.dumps(listed, indent=2))


def remove_gallery(folder: Path) -> None:
    """Delete the pictures of an earlier gallery, so that they do not mix with the next."""
    try:
        listed = read_json(folder / "gallery.json")["samples"]
        names = [str(sample["image"]) for sample in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in ("gallery.json", *names):
        with suppress(
            OSError, ValueError
        ):  # The list may name anything, and another run may have been faster.
            (folder / Path(name).name).unlink()
