"""What job folders take on the disk, measured in the background. No bpy here."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

from ..setup.progress import tree_size
from .job import Job

Key = tuple[str, float]
"""A job and when its state changed last: a job that goes on grows."""


class FolderSizes:
    """Sizes of job folders by a thread that ends when there is nothing to measure."""

    def __init__(self) -> None:
        self._bytes_of: dict[Key, int] = {}
        self._wanted: queue.SimpleQueue[tuple[Key, Job]] = queue.SimpleQueue()
        self._asked: set[Key] = set()
        self._thread: threading.Thread | None = None
        self._is_new = False

    def of(self, job: Job) -> int | None:
        """Bytes of a job; None as long as they are not measured, which begins now."""
        key = (job.id, job.state.updated_s)
        if key not in self._asked:
            self._asked.add(key)
            self._wanted.put((key, job))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="recdreamer sizes", daemon=True)
                self._thread.start()
        return self._bytes_of.get(key)

    def total(self, jobs: Iterable[Job]) -> tuple[int, bool]:
        """Bytes of several jobs, and whether all of them are measured."""
        sizes = [self.of(job) for job in jobs]
        return sum(size or 0 for size in sizes), None not in sizes

    def poll(self) -> bool:
        """True once after something was measured."""
        is_new, self._is_new = self._is_new, False
        return is_new

    def wait(self) -> None:
        """Until all is measured."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                key, job = self._wanted.get(timeout=0.2)
            except queue.Empty:
                return
            self._bytes_of[key] = tree_size(job.folder.root)
            self._is_new = True
