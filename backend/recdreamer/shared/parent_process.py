"""Work that nobody would see any more ends with the process that has begun it.

A parent that was killed cannot end its children, and output that goes to a file tells them nothing. But its end of their
standard input closes, however it ends. Standard library only, and shared with the add-on like protocol.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

ENDS_WITH_PARENT = "RECDREAMER_ENDS_WITH_PARENT"
"""Environment variable of a parent that keeps our standard input open as long as it lives, and says nothing there."""


def end_with_parent() -> None:
    """End this process, and its children where they are a group of their own, when its parent has ended; only if that
    has asked for it.
    """
    if os.environ.pop(ENDS_WITH_PARENT, ""):  # Children have another parent.
        handle = os.dup(0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)  # They would keep this end open, too.
        os.close(null)
        threading.Thread(target=_follow, args=(handle,), name="parent", daemon=True).start()


def _follow(handle: int) -> None:
    while _read(handle):
        pass
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 4096)
    except OSError:
        return b""
