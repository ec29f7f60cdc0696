"""Turns any exception into one sentence for the artist and one remedy, for workers and commands alike."""

from __future__ import annotations

import errno
import os

from recdreamer.report import JobError
from recdreamer.shared.protocol import RequestError
from recdreamer.shared.safe_files import printable, reason_of

# EFBIG: a quota, or a file system (FAT) that takes no larger file.
DISK_FULL = (
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
)
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR}
ALLOCATORS = ("can't allocate memory", "not enough memory")
"""What torch says on a CPU."""
MAX_NAME = 200
"""Letters of a path."""
JOB_LOG = "log.txt in the job folder"


def explain(error: BaseException, doing: str = "", log: str = JOB_LOG) -> JobError:
    """The error as a JobError, in one sentence and one remedy, whatever it is.

    Its kind is one of ErrorKind. `doing` names what was being written, e.g. "the checkpoint of step 40"; `log` says where
    a traceback is.
    """
    if isinstance(error, JobError):
        return error
    if isinstance(error, RequestError):
        return JobError(error.kind, error.message, error.hint)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error, doing)
    if isinstance(error, UnicodeError):
        return JobError(
            "text",
            f"A text or a name has characters that cannot be read or written ({reason_of(error)}).",
            "Rename the file or write the text anew, in UTF-8.",
        )
    if isinstance(error, RecursionError):
        return JobError("file", "A file is nested too deeply.", f"It is damaged; {log} tells more.")
    if isinstance(error, OverflowError):
        return JobError(
            "number", f"A number is too large ({reason_of(error)}).", f"Check the settings; {log} tells more."
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
            f"A part of the backend is missing: {reason_of(error)}.",
            "Install the backend again; `recdreamer doctor` shows what is missing.",
        )
    return JobError(
        "internal",
        f"Unexpected {type(error).__name__}: {reason_of(error)}.",
        f"See {log}; resume to continue from the newest checkpoint."
        if log == JOB_LOG
        else f"This is a fault of the program; {log} tells more.",
    )


def _short(name: str) -> str:
    """The end of a path that may be longer than a sentence.

    >>> _short("a/bear.png"), len(_short("a/" * 2000 + "bear.png"))
    ('a/bear.png', 200)
    """
    shown = printable(name)
    return shown if len(shown) <= MAX_NAME else f"…{shown[1 - MAX_NAME :]}"


def _of_system(error: OSError, doing: str) -> JobError:
    """What the system refused, by its number."""
    name = _short(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    reason = reason_of(error)
    if error.errno in DISK_FULL:
        return JobError(
            "disk_full",
            f"The disk is full: {doing or name or 'a file'} could not be written.",
            "Free some space and resume; the newest checkpoint is kept.",
        )
    if error.errno in READ_ONLY:
        return JobError(
            "not_writable",
            f"{name or doing or 'A file'} cannot be opened or written ({reason}).",
            "Choose a folder with write permission.",
        )
    if error.errno == errno.ENOENT:
        return JobError(
            "missing",
            f"{name or doing or 'A file'} does not exist.",
            "Check the path, and whether its folder was deleted or moved.",
        )
    return JobError(
        "file",
        f"{name or doing or 'A file'} cannot be read or written ({reason}).",
        "Check the name, the disk and the permissions.",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Compares torch's own class by name, because this must also explain a failure to import torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS))
    )
