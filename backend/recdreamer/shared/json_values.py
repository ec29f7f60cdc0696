"""JSON that someone else wrote: parsed within bounds, and converted to the types of a dataclass.

Standard library only, and shared with the add-on like protocol.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .safe_files import MAX_JSON_BYTES, RequestError, printable, read_bounded, reason_of

MAX_DEPTH = 32
"""Objects and lists inside one another; ours have at most five."""
MAX_SEED = 2**63 - 1
"""Seeds begin at 0."""
MAX_LETTERS = 10_000
"""Of a prompt or a path: more than any model or file system takes."""
MAX_DIGITS = 40
"""Of a whole number: more than any that is a setting, few enough for a float."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text: numbers finite and of MAX_DIGITS, at most MAX_DEPTH deep, texts that UTF-8 can hold.

    Raises ValueError, with a few words, and nothing else.

    >>> parse_json('{"seed": 7}')
    {'seed': 7}
    >>> parse_json("1e999")
    Traceback (most recent call last):
    ValueError: 1e999 is no finite number
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it is nested too deeply
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError("it is too large") from None
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key)
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return value


def read_json(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file, see `read_bounded` and `parse_json`. Raises RequestError (FileMissing)."""
    return parsed(path.name, read_bounded(path, limit_bytes))


def parsed(name: str, text: str | bytes) -> Any:
    """The value of the JSON text of a file of this name. Raises RequestError."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise RequestError(
            f"{printable(name)} cannot be read ({reason_of(error)}).", "The file is damaged."
        ) from error


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:MAX_DIGITS]} is no finite number")
    return value


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it has characters that are no Unicode") from None


def known_fields(cls: type, raw: Any) -> dict[str, Any]:
    """The values of a JSON object that are fields of a dataclass, converted to their types; others are left out.

    Raises TypeError or RequestError if a value does not fit.
    """
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, not {type(raw).__name__}")
    hints = _types_of_fields(cls)
    return {name: _converted(name, value, hints[name]) for name, value in raw.items() if name in hints}


@cache
def _types_of_fields(cls: type) -> dict[str, Any]:
    """Names and types of a dataclass's fields. Kept, because to evaluate them takes longer than to read a file."""
    return get_type_hints(cls)


def _converted(name: str, value: Any, hint: Any) -> Any:
    """A parsed JSON value as the type `hint`: a plain one, a Literal, a dataclass, or a union, list, tuple or dict."""
    if hint is Any:
        return value
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        for option in inner:
            try:
                return _converted(name, value, option)
            except TypeError:
                continue
        raise _misfit(name, value)
    if kind is Literal:
        check_choice(name, value if isinstance(value, str) else repr(value)[:40], hint)
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**known_fields(kind, value))
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind:
        raise _misfit(name, value)
    if kind is list:
        return [_converted(name, item, inner[0]) for item in value]
    if kind is dict and inner:
        return {key: _converted(name, item, inner[1]) for key, item in value.items()}
    if kind is tuple and inner[1:] == (...,):
        return tuple(_converted(name, item, inner[0]) for item in value)
    if kind is tuple:
        if len(value) != len(inner):
            raise _misfit(name, value)
        return tuple(_converted(name, item, each) for item, each in zip(value, inner, strict=True))
    return value


def _misfit(name: str, value: Any) -> TypeError:
    return TypeError(f"{name} cannot be {printable(repr(value))[:80]}")


def check_choice(name: str, value: str, allowed: Any) -> None:
    """Raise RequestError if `value` is none of the choices of a Literal."""
    if value not in get_args(allowed):
        raise RequestError(
            f"Unknown {name} '{printable(value)[:80]}'.", f"Choose one of: {', '.join(get_args(allowed))}."
        )


def is_seed(value: object) -> bool:
    """Is this a number that every generator takes?

    >>> is_seed(7), is_seed(-1), is_seed(2**64), is_seed(True)
    (True, False, False, False)
    """
    return type(value) is int and 0 <= value <= MAX_SEED


def check_seed(value: object) -> None:
    """Raise RequestError unless `is_seed`."""
    if not is_seed(value):
        shown = printable(value if isinstance(value, int) else repr(value))[:40]
        raise RequestError(f"The seed is {shown}.", f"Give a whole number from 0 to {MAX_SEED}.")


def check_range(what: str, value: float, low: float, high: float, unit: str, hint: str) -> None:
    """Raise RequestError if a number is not within its bounds, or not a number."""
    if not low <= value <= high:
        raise RequestError(f"{what} is {value}{unit}.", hint)


def check_text(name: str, text: str) -> None:
    """Raise RequestError for a text that is too long, or that no file can hold."""
    shown = name.replace("_", " ")
    if len(text) > MAX_LETTERS:
        raise RequestError(f"The {shown} has {len(text):,} letters.", f"Give at most {MAX_LETTERS:,}.")
    try:
        _check_text(text)
    except ValueError:
        raise RequestError(
            f"The {shown} has characters that are no Unicode: {printable(text)[:100]}.",
            "Write it anew, in UTF-8.",
        ) from None
