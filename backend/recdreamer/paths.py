"""Paths as artists write them."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(text: str | Path) -> Path:
    """A path without the quotes that a file browser's "Copy as path" puts around it, and with ~ for the home folder.

    >>> given_path(' "models/my model" ').as_posix()
    'models/my model'
    """
    name = str(text).strip()
    for quote in ('"', "'"):
        if len(name) > 1 and name[0] == name[-1] == quote:
            name = name[1:-1]
    return Path(os.path.expanduser(name))  # noqa: PTH111 — Path.expanduser raises where there is no home folder.
