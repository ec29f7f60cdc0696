"""What job folders take on the disk. No bpy here."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..setup.tree_sizes import TreeSizes
from .job import Job

AGAIN_S = 10.0
"""Time until a job that goes on, and so grows, is measured again."""


class FolderSizes(TreeSizes[str]):
    """Sizes of job folders, by job."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, tuple[float, float]] = {}
        """When the state of a job had changed that was measured last, and when that began."""

    def of(self, job: Job) -> int | None:
        """Bytes of a job as they were measured last, which begins now if it has changed; None if they never were."""
        changed_s, begun_s = self._begun.get(job.id, (-1.0, -AGAIN_S))
        if changed_s != job.state.updated_s and time.monotonic() - begun_s >= AGAIN_S:
            self._begun[job.id] = job.state.updated_s, time.monotonic()
            self.measure(job.id, [job.folder.root])
        return self.bytes_of.get(job.id)

    def total(self, jobs: Iterable[Job]) -> tuple[int, bool]:
        """Bytes of several jobs, and whether all of them were measured."""
        sizes = [self.of(job) for job in jobs]
        return sum(size or 0 for size in sizes), None not in sizes
