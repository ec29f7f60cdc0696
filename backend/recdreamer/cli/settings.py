"""Settings on the command line: NAME=VALUE."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any

import tyro

from recdreamer.shared.json_values import parse_json
from recdreamer.shared.safe_files import RequestError, printable

Settings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")]


def parse_setting(item: str) -> tuple[str, Any]:
    """Name and value of a setting; a value that is not JSON is a string. Raises RequestError."""
    name, equals, text = item.partition("=")
    if not equals:
        raise RequestError(
            f"{printable(item)[:100]!r} is not a setting.",
            "Write it as NAME=VALUE, for example optimize.num_steps=300.",
        )
    try:
        return name, parse_json(text)
    except ValueError as error:
        with suppress(RecursionError):
            try:
                json.loads(text)
            except ValueError:
                return name, text
        raise RequestError(
            f"The value of {printable(name)[:100]} cannot be used ({error}).", "Give a number of usual size."
        ) from error
