"""What long work tells its caller, and the ways in which it stops early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

Tick = Callable[[], None]
"""Called between chunks of work; may raise to cancel."""
Warn = Callable[[str], None]
"""Takes one sentence for the artist."""


def no_tick() -> None:
    """Stands in for a tick that nobody gave."""


def no_warn(message: str) -> None:
    """Stands in for a warn that nobody gave."""


@runtime_checkable
class Report(Protocol):
    """Receiver of progress; the worker turns it into events, the command line into a progress bar."""

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        """A stage begins; `index` counts from 0.

        `span`: the part of the whole job's time that it usually takes, e.g. (0.05, 0.9); None: all stages
        take alike. The remaining time of the job is told from it.
        """
        ...

    def progress(self, step: int, total: int) -> None:
        """`step` of `total` is done. Raises Cancelled or Paused when someone asked for it."""
        ...

    def preview(self, path: Path) -> None: ...

    def pose_distribution(self, probs: dict[str, float]) -> None: ...

    def warning(self, message: str) -> None: ...


class NullReport:
    """A Report that ignores everything; a base for those that care about some of it."""

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None: ...

    def progress(self, step: int, total: int) -> None: ...

    def preview(self, path: Path) -> None: ...

    def pose_distribution(self, probs: dict[str, float]) -> None: ...

    def warning(self, message: str) -> None: ...


class Cancelled(Exception):
    """The artist asked to stop for good; what is on disk stays."""


class Paused(Exception):
    """Save and stop now; the job goes on later."""


class JobError(Exception):
    """Expected trouble, in words for the artist: what went wrong, and what to do."""

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.kind = kind
        self.message = message
        self.hint = hint
