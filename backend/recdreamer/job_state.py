"""The state of a job, state.json: how far it is, who works on it, and when they last said so.

Standard library only, and shared with the add-on like protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]

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

    def is_fresh(self, now_s: float) -> bool:
        """Whether a worker has said a moment ago that it runs. What comes from the future is not fresh."""
        return self.status == "running" and -CLOCK_SKEW_S <= now_s - self.updated_s <= STALE_S
