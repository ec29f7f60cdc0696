"""What folders take on the disk, measured a part at a time between two redraws. No bpy here."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

TICK_S = 0.002
"""Time for measuring in one tick of Blender's timer."""
AT_ONCE = 128
"""Entries of a folder that are looked at between two looks at the clock: half a millisecond."""
Key = TypeVar("Key", bound=Hashable)


def sizes_below(root: Path) -> Iterator[int]:
    """Bytes of the files from `root` down, some at a time, links not followed; what vanishes meanwhile counts nothing."""
    left = [root]
    while left:
        total = 0
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for number, entry in enumerate(entries, 1):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
                if number % AT_ONCE == 0:
                    yield total
                    total = 0
        yield total


def tree_size(root: Path) -> int:
    """Bytes of all files below a folder, each file once."""
    return sum(sizes_below(root))


class TreeSizes(Generic[Key]):
    """Sizes of trees of folders by a key of each. A finished environment has 20,000 files, so that takes many ticks."""

    def __init__(self) -> None:
        self.bytes_of: dict[Key, int] = {}
        """What is measured."""
        self._left: dict[Key, Iterator[int]] = {}
        """What is to be measured."""
        self._sums: dict[Key, int] = {}

    @property
    def is_behind(self) -> bool:
        """Whether something is to be measured."""
        return bool(self._left)

    def measure(self, key: Key, roots: Iterable[Path]) -> None:
        """Begin to measure what is below some folders; anew if that has begun. Until then the last size stays known."""
        self._left[key] = (size for root in [*roots] for size in sizes_below(root))
        self._sums[key] = 0

    def poll(self, most_s: float = TICK_S) -> bool:
        """Measure for some time. True if something became known."""
        until_s, is_new = time.perf_counter() + most_s, False
        while self._left and time.perf_counter() < until_s:
            key, sizes = next(iter(self._left.items()))
            size = next(sizes, None)
            if size is not None:
                self._sums[key] += size
                continue
            del self._left[key]
            self.bytes_of[key], is_new = self._sums.pop(key), True
        return is_new
