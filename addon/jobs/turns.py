"""Whose turn it is: the first waiting job whose device nobody uses; and what the others wait for. No bpy here."""

from __future__ import annotations

import socket
from itertools import takewhile

from ...backend.recdreamer.shared.device_lock import is_busy, locks_of
from .child_process import devices_folder
from .registry import Job, JobRegistry
from .waiting import Turn


def next_turn(registry: JobRegistry) -> Turn | None:
    """The first waiting job whose device nobody uses; None if there is none, or the queue is held.

    What is gone or cannot run leaves the queue.
    """
    queue = registry.queue
    if queue.is_held:
        return None
    used = {name for job in registry.working for name in locks_of(_device(job))}
    for turn in list(queue.turns):
        job = registry.find(turn.job_id)
        if job is None or (job.problem and job.client is None):
            queue.take(turn.job_id)
        elif job.client is None and not job.running_on and used.isdisjoint(locks_of(_device(job))):
            if not is_busy(devices_folder(registry.data_folder), _device(job)):
                return turn
            used |= set(locks_of(_device(job)))
    return None


def one_before(registry: JobRegistry, job: Job) -> Job | None:
    """The job after which a waiting one starts: the last one before it that needs its device; None if there is none.

    Of those that run elsewhere, the ones on other computers do not use it.
    """
    earlier = takewhile(lambda turn: turn.job_id != job.id, registry.queue.turns)
    waiting = (registry.find(turn.job_id) for turn in earlier)
    here = socket.gethostname()
    elsewhere = (one for one in registry.elsewhere.values() if one.running_on == here)
    needed, found = set(locks_of(_device(job))), None
    for one in (*elsewhere, *registry.working, *waiting):
        if one is not None and one is not job and not needed.isdisjoint(locks_of(_device(one))):
            found = one
    return found


def _device(job: Job) -> str:
    return job.request.device if job.request else ""
