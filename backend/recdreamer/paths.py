"""Paths as artists write them."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(text: str | Path) -> Path:
    """A path without the quotes that a file browser's "Copy as path" puts around it, and with ~ for the home folder.

    >>> given_path(' "models/my model" ').as_posix()
    'models/my model'
    """
    # Path.expanduser raises where there is no home folder.
    return Path(os.path.expanduser(unquoted(str(text))))  # noqa: PTH111


def unquoted(text: str) -> str:
    """A name without the blanks and the quotes around it."""
    name = text.strip()
    for quote in ('"', "'"):
        if len(name) > 1 and name[0] == name[-1] == quote:
            name = name[1:-1]
    return name
