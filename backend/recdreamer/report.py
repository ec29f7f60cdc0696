"""How long-running work reports progress and warnings to its caller, and how it stops early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

Tick = Callable[[], None]
"""Called between chunks of work; may raise to cancel."""
Warn = Callable[[str], None]
"""Takes one sentence for the artist."""


def no_tick() -> None:
    """The default tick."""


def no_warn(message: str) -> None:
    """The default warn."""


@runtime_checkable
class Report(Protocol):
    """Receives the progress of a job; the worker turns it into events."""

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None:
        """A stage begins; `index` counts from 0.

        `span`: where the stage usually begins and ends within the job's time, e.g. (0.05, 0.9). None = equal shares.
        Used to estimate the remaining time.
        """
        ...

    def progress(self, step: int, total: int) -> None:
        """`step` of `total` is done. Raises Cancelled or Paused if either was requested."""
        ...

    def preview(self, path: Path) -> None: ...

    def pose_distribution(self, probs: dict[str, float]) -> None: ...

    def warning(self, message: str) -> None: ...


class NullReport:
    """Ignores everything; the base of reports that need only some of the methods."""

    def stage(self, name: str, index: int, count: int, span: tuple[float, float] | None = None) -> None: ...

    def progress(self, step: int, total: int) -> None: ...

    def preview(self, path: Path) -> None: ...

    def pose_distribution(self, probs: dict[str, float]) -> None: ...

    def warning(self, message: str) -> None: ...


class Cancelled(Exception):
    """The artist stopped the job for good; its files stay."""


class Paused(Exception):
    """Save and stop now; the job can be resumed."""


class JobError(Exception):
    """An expected failure, in words for the artist: what went wrong, and what to do."""

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.kind = kind
        self.message = message
        self.hint = hint
