"""The state of a job, state.json: how far it is, who works on it, and when they last said so.

Standard library only, and shared with the add-on like protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .safe_files import printable

Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
ErrorKind = Literal[
    # What the artist asked for.
    "request", "prompt", "template", "start", "mode", "running",
    # The backend and what it runs on.
    "not_installed", "outdated", "install", "missing_package", "device", "processes", "cluster", "out_of_memory",
    # Pretrained models: missing, or none that can be used as the image model, extractor, decoder and so on.
    "model_missing", "prior", "extractor", "decoder", "classifier", "masked_lm", "novel_views",
    # Getting them.
    "license", "offline", "name", "network", "timeout", "proxy", "certificate", "portal", "access", "not_found",
    "changed", "checksum", "unusable",
    # Files and folders.
    "disk_full", "not_writable", "missing", "file", "text", "folder", "checkpoint", "busy",
    # The work itself.
    "non_finite", "empty_field", "full_field", "number", "evaluate", "internal",
]  # fmt: skip
"""What kind of trouble an error is: the word of its event, from which the add-on knows the next step to offer."""

HEARTBEAT_S = 2.0
"""The worker renews state.json at least this often."""
STALE_S = 30.0
"""If the state of a running job is older than this, its worker is gone."""
CLOCK_SKEW_S = 5.0
"""Clocks of two computers differ by this much at most, when they are right."""


@dataclass
class JobState:
    """`state.json`: the progress of a job, replaced atomically. Enough to draw the panel after a restart."""

    status: Status = "queued"
    pid: int | None = None
    """Process number of the worker on `host`, to show: nothing is ever sent to it."""
    host: str = ""
    """Name of the computer that runs the worker."""
    token: str = ""
    """Random name of this run: a worker that finds another one here has lost the folder."""
    updated_s: float = 0.0
    """Unix time of the last heart-beat."""
    stage: str = ""
    step: int = 0
    total: int = 0
    it_per_s: float = 0.0
    eta_s: float | None = None
    """Remaining time of the whole job, not only of the stage."""
    preview: str = ""
    """Newest preview picture, relative to the job folder."""
    pose_distribution: dict[str, float] = field(default_factory=dict)
    message: str = ""
    """Why the job failed, or the latest warning."""
    hint: str = ""
    kind: str = ""
    """Kind of the error, see ErrorKind; empty without one, and in jobs of earlier versions."""

    def __post_init__(self) -> None:
        """A state may come from a stranger's folder, and both are shown on one line.

        >>> JobState(message="one\\ntwo").message
        'one\\\\ntwo'
        """
        self.message, self.hint = printable(self.message), printable(self.hint)

    def is_fresh(self, now_s: float) -> bool:
        """Whether a worker has said a moment ago that it runs. What comes from the future is not fresh."""
        return self.status == "running" and -CLOCK_SKEW_S <= now_s - self.updated_s <= STALE_S
