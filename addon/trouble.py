"""Every error as one sentence with its remedy, and a line in the log. No bpy here."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from ..backend.recdreamer.shared.protocol import RequestError

LOG = "blender.log"
"""In the data folder."""
MAX_LOG_BYTES = 1 << 20
"""A longer log starts anew."""
MAX_REASON = 200
"""Characters of a foreign message that a sentence quotes."""
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)

_last_logged = ""


class Reason(str):
    """Why something cannot be done now, in a sentence with its remedy; empty if it can. `kind` is its ErrorKind.

    >>> reason = Reason.of(RequestError("The prompt is empty.", "Write one.", "prompt"))
    >>> reason, reason.kind
    ('The prompt is empty. Write one.', 'prompt')
    """

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, text: str = "", kind: str = "") -> Reason:
        reason = super().__new__(cls, text)
        reason.kind = kind
        return reason

    @staticmethod
    def of(error: RequestError) -> Reason:
        return Reason(str(error), error.kind)


def explain(error: BaseException, action: str) -> str:
    """What went wrong with an action of the artist, such as "Import", and what to do about it.

    >>> explain(OSError(28, "No space left on device", "/data/a.png"), "Import")
    'Import failed: the disk is full (/data/a.png). Free some space, and try again.'
    """
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{action} needs more memory than there is. Close other files and programs, and try again."
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        if error.errno in FULL:
            return f"{action} failed: the disk is full{place}. Free some space, and try again."
        reason = (error.strerror or str(error)).rstrip(".")
        return f"{action} failed: {reason}{place}. Check that the file or folder is there and not locked."
    reason = reason_of_blender(error)
    if str(error).startswith("Error: ") and "Traceback (most" not in str(error):
        return f"{reason}."  # Of another operator, which has made a sentence of it.
    kind = type(error).__name__
    return f"{action} failed ({kind}: {reason}). {LOG} in the data folder tells more; please report it."


def reason_of_blender(error: BaseException) -> str:
    """What an exception says, on one line and without its period: that of an operator may hold a traceback."""
    text = str(error).strip()
    raised = re.findall(r"^(?!Location)\w+: (.+)$", text, re.MULTILINE) if "Traceback (most" in text else []
    return " ".join((raised[-1] if raised else text.removeprefix("Error: ")).split())[:MAX_REASON].rstrip(".")


def log(error: BaseException, action: str, data_folder: Path) -> None:
    """Append the error to the log, unless it is the one that was logged last. Never raises."""
    global _last_logged
    text = f"{action}: {''.join(traceback.format_exception(error))}"
    if text == _last_logged:
        return
    _last_logged = text
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n".encode("utf-8", "backslashreplace")
    with suppress(OSError):
        path = data_folder / LOG
        is_long = path.exists() and path.stat().st_size > MAX_LOG_BYTES
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if is_long else os.O_APPEND)
        # Not through a link, and never waiting for the reader of a pipe.
        handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
        with os.fdopen(handle, "wb") as stream:
            stream.write(line)
        return
    print(line.decode(), file=sys.stderr)
