"""What job folders take on the disk. No bpy here."""

from __future__ import annotations

from collections.abc import Iterable

from ..setup.tree_sizes import TreeSizes
from .job import Job


class FolderSizes(TreeSizes[tuple[str, float]]):
    """Sizes of job folders, by job and when its state changed last: a job that goes on grows."""

    def of(self, job: Job) -> int | None:
        """Bytes of a job; None as long as they are not measured, which begins now."""
        key = (job.id, job.state.updated_s)
        if key not in self.bytes_of:
            self.measure(key, [job.folder.root])
        return self.bytes_of.get(key)

    def total(self, jobs: Iterable[Job]) -> tuple[int, bool]:
        """Bytes of several jobs, and whether all of them are measured."""
        sizes = [self.of(job) for job in jobs]
        return sum(size or 0 for size in sizes), None not in sizes
