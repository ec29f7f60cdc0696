"""Everything that reads the files of a model, which may come from anywhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from reader import Reader

from recdreamer.shared.protocol import JobFolder

import mutators

BUILTIN = Path(__file__).resolve().parents[2] / "backend" / "recdreamer" / "builtin"
PARTS = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
MANIFEST = b'{"id": "sd", "files": [{"path": "a", "size": 3, "sha256": "ab"}]}'
CHOICES = b'{"accepted": {"openrail": "2026-01-01"}, "added": ["/models/a"]}'


def _pipeline(job: JobFolder, path: Path) -> None:
    """The embedded prior with one of its files damaged."""
    from recdreamer.catalog.check_model import check_model

    root = job.root / "prior"
    for file in (BUILTIN / "prior").rglob("*"):
        place = root / file.relative_to(BUILTIN / "prior")
        if file.is_dir():
            place.mkdir(exist_ok=True)
        elif not place.exists():
            place.symlink_to(file)
    check_model(root, "prior")


def _network(job: JobFolder, path: Path) -> None:
    from recdreamer.catalog.check_model import check_model

    for name in ("model.safetensors", "preprocessor_config.json"):
        path.with_name(name).symlink_to(BUILTIN / "extractor" / name)
    check_model(path.parent, "extractor")


def _single_file(job: JobFolder, path: Path) -> None:
    from recdreamer.catalog.check_model import check_model

    check_model(path)


def _header(job: JobFolder, path: Path) -> None:
    from recdreamer.catalog.headers import read_header

    read_header(path)


def _manifest(job: JobFolder, path: Path) -> None:
    from recdreamer.catalog.install import manifest_of
    from recdreamer.catalog.locate import is_installed

    (path.parent / "a").write_bytes(b"abc")
    is_installed(path.parent)
    manifest_of(path.parent)


def _choices(job: JobFolder, path: Path) -> None:
    from recdreamer.catalog.places import Choices

    Choices.read(path.parent)


def few_tensors() -> bytes:
    names = ("down_blocks.0.weight", "up_blocks.0.weight")
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


def header_changed(data: bytes, rng: mutators.random.Random) -> bytes:
    """Another header in a file whose length fits."""
    (length,) = struct.unpack_from("<Q", data)
    text = mutators.json_changed(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def model_readers() -> Iterator[Reader]:
    """All readers of models; what is loaded after them is read by safetensors and transformers."""
    as_json = (mutators.json_changed, mutators.bytes_changed)
    for part in PARTS:
        whole = (BUILTIN / "prior" / part).read_bytes()
        yield Reader(f"model: {part}", f"prior/{part}", (whole,), as_json, _pipeline)
    whole = (BUILTIN / "extractor" / "config.json").read_bytes()
    yield Reader("model: config.json", "extractor/config.json", (whole,), as_json, _network)
    as_header = (header_changed, mutators.bytes_changed)
    yield Reader("model: header", "toon.safetensors", (few_tensors(),), as_header, _header)
    # No whole file: that has gigabytes. What is damaged is refused at another place than what is not.
    yield Reader("model: single file", "toon.safetensors", (few_tensors(),), as_header, _single_file)
    from recdreamer.catalog.locate import MANIFEST as NAME

    yield Reader("model: manifest", f"model/{NAME}", (MANIFEST,), as_json, _manifest)
    yield Reader("model: choices", "choices.json", (CHOICES,), as_json, _choices)
