"""Turns any exception into one sentence for the artist and one remedy."""

from __future__ import annotations

import errno

from recdreamer.protocol import RequestError
from recdreamer.report import JobError

# EFBIG: a quota, or a file system (FAT) that takes no larger file.
DISK_FULL = (
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
)
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR}
MAX_LENGTH = 300


def explain(error: BaseException, doing: str = "") -> JobError:
    """The error as a JobError; kinds: request, disk_full, not_writable, out_of_memory, install, internal.

    `doing` names what was being written, e.g. "the checkpoint of step 40".
    """
    if isinstance(error, JobError):
        return error
    if isinstance(error, RequestError):
        return JobError("request", error.message, error.hint)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return JobError(
            "disk_full",
            f"The disk is full: {doing or error.filename or 'a file'} could not be written.",
            "Free some space and resume; the newest checkpoint is kept.",
        )
    if isinstance(error, OSError) and error.errno in READ_ONLY:
        return JobError(
            "not_writable",
            f"{error.filename or doing} cannot be opened or written ({error.strerror}).",
            "Choose a folder with write permission.",
        )
    if _is_out_of_memory(error):
        return JobError(
            "out_of_memory",
            "There is not enough memory for this job.",
            "Close other programs, or use the quick quality or fewer views per step.",
        )
    if isinstance(error, ImportError):
        return JobError(
            "install",
            f"A part of the backend is missing: {_first_line(error)}.",
            "Install the backend again; `recdreamer doctor` shows what is missing.",
        )
    return JobError(
        "internal",
        f"Unexpected {type(error).__name__}: {_first_line(error)}.",
        "See log.txt in the job folder; resume to continue from the newest checkpoint.",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Compares torch's own class by name, because this must also explain a failure to import torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:MAX_LENGTH]
