"""The lock files: each decides every version and hash of a build, and knows the sizes. No bpy here.

They are requirements files, written by `python3 tools/dev.py lock`. The comment above each requirement has the bytes of
its wheel and of its files on the disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .builds import Build

FOLDER = Path(__file__).resolve().parent / "locks"
UV_LOCK = FOLDER / "uv.txt"
UV_VERSION = "0.13.9"
PYTHONS = ("3.11", "3.12", "3.13")
"""Minor versions that the locks cover."""
HEADER = """\
# Everything that Install Backend brings for {name}. Written by `python3 tools/dev.py lock`; do not edit.
# requirements: {requirements}
"""
NOT_MEASURED = "not recorded: PyTorch's index was out of reach when this file was written"


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock."""

    name: str
    version: str
    pythons: tuple[str, ...]
    """Minor versions of Python that take it."""
    hashes: tuple[str, ...]
    download: int
    """Bytes of its wheel; 0 if not measured."""
    unpacked: int
    """Bytes of its files; 0 if not measured."""


def lock_file(build: Build) -> Path:
    """The lock of a build."""
    return FOLDER / f"{build.name}.txt"


def digest_of(lines: Iterable[str]) -> str:
    """Changes when a line does.

    >>> digest_of(["numpy>=2"]) == digest_of(["numpy>=2.1"])
    False
    """
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def fingerprint(build: Build) -> str:
    """Changes whenever an installed environment needs an update."""
    text = lock_file(build).read_text(encoding="utf-8")
    return digest_of(line for line in text.splitlines() if not line.startswith("#"))


def read_lock(path: Path) -> list[Pin]:
    """All requirements of a lock file, in its order."""
    pins = []
    for sizes, line in re.findall(
        r"^# (.*)\n((?:[^#\n].*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        requirement = re.match(r"([\w.-]+)==(\S+)(?: ; python_version in '([\d. ]+)')?", line)
        if requirement is None:
            raise ValueError(f"{path}: {line!r} is not a pinned requirement")
        numbers = [int(part) for part in sizes.split()] if re.fullmatch(r"\d+ \d+", sizes) else [0, 0]
        pins.append(
            Pin(
                requirement[1],
                requirement[2],
                tuple(requirement[3].split()) if requirement[3] else PYTHONS,
                tuple(re.findall(r"--hash=sha256:(\w+)", line)),
                *numbers,
            )
        )
    return pins


def is_complete(pins: Iterable[Pin]) -> bool:
    """Whether every requirement has its hashes, so that nothing else is accepted."""
    return all(pin.hashes for pin in pins)
