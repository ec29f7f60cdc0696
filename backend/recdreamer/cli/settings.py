"""Settings on the command line: NAME=VALUE."""

from __future__ import annotations

import json
from typing import Annotated, Any

import tyro

from recdreamer.protocol import RequestError

Settings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")]


def parse_setting(item: str) -> tuple[str, Any]:
    """Name and value of a setting; a value that is not JSON is a string. Raises RequestError."""
    name, equals, text = item.partition("=")
    if not equals:
        raise RequestError(
            f"{item!r} is not a setting.", "Write it as NAME=VALUE, for example optimize.num_steps=300."
        )
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text
