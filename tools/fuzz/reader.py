"""A reader of what someone else wrote, with a whole file to damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recdreamer.shared.protocol import JobFolder

Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """`read(folder, path)` reads a damaged file at `path`; `whole` are the contents that damage begins with."""

    name: str
    file: str
    whole: tuple[bytes, ...]
    damage: tuple[Mutator, ...]
    read: Callable[[JobFolder, Path], object]
