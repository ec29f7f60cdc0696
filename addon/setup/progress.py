"""How far an installation is, by the bytes that have arrived. No bpy here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from .locks import Pin

WINDOW_S = 30.0
"""The remaining time follows from the speed of the last seconds."""
MIN_S = 3.0
"""Before, there is no speed to speak of."""


def installed(environment: Path) -> set[tuple[str, str]]:
    """Name and version of each package in an environment, as the locks write them."""
    folders = [*environment.glob("lib/python3*/site-packages"), *environment.glob("Lib/site-packages")]
    found = set()
    for folder in folders:
        for path in folder.glob("*.dist-info"):
            name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
            found.add((name.replace("_", "-").replace(".", "-").lower(), version))
    return found


def missing(pins: Iterable[Pin], python: str, environment: Path) -> list[Pin]:
    """Pins of a lock that an environment with this minor version of Python lacks."""
    there = installed(environment)
    return [pin for pin in pins if python in pin.pythons and (pin.name, pin.version) not in there]


class ByteProgress:
    """Progress of a download, from the bytes that uv has unpacked; it unpacks while it downloads."""

    def __init__(self, download: int, unpacked: int) -> None:
        """`download` are the bytes of all wheels, `unpacked` those of their files; at least 1 each."""
        self.download, self.unpacked = max(download, 1), max(unpacked, 1)
        self.factor = 0.0
        self._marks: deque[tuple[float, float]] = deque()

    def update(self, unpacked: int, now_s: float) -> None:
        """Note how many bytes are there now."""
        # The sizes of wheels that were not measured are estimates: the end is only where uv says it is.
        self.factor = min(unpacked / self.unpacked, 0.99)
        self._marks.append((now_s, self.factor))
        while now_s - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the end at the present speed; None before there is one."""
        if not self._marks:
            return None
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        if last_s - first_s < MIN_S or last <= first:
            return None
        return (1 - last) * (last_s - first_s) / (last - first)

    @property
    def text(self) -> str:
        """What the panel shows.

        >>> ByteProgress(3_000_000_000, 5_500_000_000).text
        '0.00 of 3.00 GB'
        """
        text = f"{self.factor * self.download / 1e9:.2f} of {self.download / 1e9:.2f} GB"
        return text if self.remaining_s is None else f"{text}  ·  {duration(self.remaining_s)} left"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42), duration(200)
    ('42 s', '3 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
