"""Readers of the add-on on damaged input: the right value or one RequestError, and nothing else."""

from __future__ import annotations

import doctest
import importlib
import json
import random
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import errands
from recdreamer_extension.addon.jobs.placement import PLACEMENT, StartPlacement, start_job_id
from recdreamer_extension.addon.pictures.files import PictureHeader, check_picture, parse_header, read_header
from recdreamer_extension.backend.recdreamer.shared.protocol import JobFolder, JobRequest, RequestError

TURNED = sorted(Path(__file__).parents[1].glob("blender/turned/*"))
ROUNDS = 400
"""Of each reader; the whole takes seconds."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A copy with some bytes changed, cut out, doubled, or its end lost."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(data)), chance.randint(1, 8)
        match chance.randrange(5):
            case 0:
                data[at : at + size] = chance.randbytes(size)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size] * chance.randint(1, 50)
            case 3:
                data[at : at + size] = chance.choice(
                    (b"\xff" * 8, b"\0" * 8, b"9" * 400, b"[" * 5000, b"1e999")
                )
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("path", TURNED, ids=lambda path: path.suffix)
def test_headers(path, tmp_path):
    kind = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".webp": "WEBP"}[path.suffix]
    assert read_header(path) == PictureHeader(kind, 40, 20, 6)
    chance, seen = random.Random(0), set()
    for _ in range(ROUNDS):
        header = parse_header(mutated(path.read_bytes(), chance))
        assert header is None or 1 <= header.orientation <= 8
        seen.add(header)
    assert len(seen) > 5, "it does something"
    (tmp_path / "cut").write_bytes(path.read_bytes()[:30])
    read_header(tmp_path / "cut")


def test_what_may_be_shown(tmp_path):
    """Not a format for other programs, not more pixels than memory, not something behind a link."""
    assert check_picture(next(path for path in TURNED if path.suffix == ".png")).width == 40
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0")
    (tmp_path / "link.png").symlink_to(TURNED[1])
    for name in ("a.png", "link.png", "none.png"):
        with pytest.raises(RequestError):
            check_picture(tmp_path / name)


def damaged(write, good: bytes, read) -> set[str]:
    """Kinds of outcome of a reader over damaged copies of a good file."""
    chance, outcomes = random.Random(1), set()
    for _ in range(ROUNDS):
        write(mutated(good, chance))
        try:
            read()
            outcomes.add("read")
        except RequestError as error:
            outcomes.add("refused")
            assert len(str(error)) < 500 and str(error).isprintable()
    return outcomes


def test_placements(tmp_path):
    job = JobFolder(tmp_path)
    path = tmp_path / PLACEMENT
    path.parent.mkdir()
    good = StartPlacement(
        "Cube", "f0", ["Hat"], ["f1"], (1.0, 2.0, 3.0), world=[[1.0] * 4] * 4, fingerprint={"a": "b"}
    )
    path.write_text(good.to_json())
    assert StartPlacement.read(job) == good
    assert damaged(path.write_bytes, path.read_bytes(), lambda: StartPlacement.read(job)) == {
        "read",
        "refused",
    }


def test_galleries_and_checks(tmp_path):
    path = tmp_path / "gallery.json"
    path.write_text(json.dumps({"samples": [{"image": "a.png", "label": "front", "share": 0.5}]}))
    assert errands.read_gallery(tmp_path)[0].image == tmp_path / "a.png"
    outcomes = damaged(path.write_bytes, path.read_bytes(), lambda: errands.read_gallery(tmp_path))
    assert outcomes == {"read", "refused"}
    for image in ("/etc/passwd", "../a.png", "\\\\server\\a.png", "C:\\a.png", 7, None):
        path.write_text(json.dumps({"samples": [{"image": image, "label": "front"}]}))
        with pytest.raises(RequestError):
            errands.read_gallery(tmp_path)
    path = tmp_path / "check/check.json"
    path.parent.mkdir()
    item = {"reads_as": "front", "pose_probs": {"front": 1.0}, "overlay": "o.png", "match": "m.png"}
    path.write_text(json.dumps({"templates": [item], "warnings": [{"message": "m"}]}))
    keys = [("a.png", "front", False)]
    assert errands.read_check(tmp_path, keys).warnings[0].message == "m"
    assert damaged(path.write_bytes, path.read_bytes(), lambda: errands.read_check(tmp_path, keys)) == {
        "read",
        "refused",
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [("/x/jobs/a", "a"), ("C:\\x\\jobs\\a\\", "a"), ("\\\\server\\share\\a", "a"), ("", ""), ("a", "a")],
)
def test_an_earlier_job_is_known_by_its_name(path, name):
    request = JobRequest("a bear", start="continue", start_job=path)
    assert start_job_id(request) == name


@pytest.mark.parametrize("name", ["pictures.files", "describe", "trouble", "jobs.task"])
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"recdreamer_extension.addon.{name}"))
    assert found.attempted and not found.failed
