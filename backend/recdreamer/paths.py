"""Paths as artists write them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def given_path(text: str | Path) -> Path:
    """A path without the quotes that a file browser's "Copy as path" puts around it, and with ~ for the home folder.

    Terminals write an address where a file is dropped into them.

    >>> given_path(' "models/my model" ').as_posix(), given_path("file:///home/me/my%20bear.obj").as_posix()
    ('models/my model', '/home/me/my bear.obj')
    """
    name = unquoted(str(text))
    if name.startswith("file:"):
        name = url2pathname(urlsplit(name.replace("\\", "/")).path)
    # Path.expanduser raises where there is no home folder.
    return Path(os.path.expanduser(name))  # noqa: PTH111


def unquoted(text: str) -> str:
    """A name without the blanks and the quotes around it."""
    name = text.strip()
    for quote in ('"', "'"):
        if len(name) > 1 and name[0] == name[-1] == quote:
            name = name[1:-1]
    return name
