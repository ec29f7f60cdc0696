"""Damage to files, of any kind and of the formats that the backend reads, all from one seeded generator."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from typing import Any

NUMBERS = (
    "0", "-1", "1e999", "-1e999", "NaN", "Infinity", "1e39", "1e-320", "0.5", "-0.0", "2147483648", "4294967297",
    "9223372036854775808", "18446744073709551616", "1" + "0" * 60, "9" * 400, "9" * 5000, "1e5000",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**64, 10**39, 1e39, "", " ", "a", "../../etc/passwd", "/dev/zero", "C:\\x",
    "\\\\host\\share", "x" * 20_000, "\ud800", "\0", "🐻", "a\nb", [], {}, [[]], [None], {"a": 1}, [1, "a"], "NaN",
)  # fmt: skip
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U9', 'fortran_order': 7, 'shape': 'x', }",
    "{'descr': '<f4', 'shape': (3,)",
    "(" * 3000,
    "'''",
    "__import__('os').abort()",
    "{'descr': ',,,', 'fortran_order': False, 'shape': (True, 3), }",
    "{'descr': 'M8[7Y/0]', 'fortran_order': False, 'shape': (), }",
)


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, parts cut, doubled, moved, or overwritten by numbers of odd sizes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(7):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[place:]
            case 2:
                del changed[place : place + rng.randrange(1, 64)]
            case 3:
                changed[place:place] = changed[: rng.randrange(64)]
            case 4:
                changed[place:place] = rng.randbytes(rng.randrange(1, 16))
            case 5:
                number = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x41414141))
                changed[place : place + 4] = struct.pack(rng.choice("<>") + "I", number)
            case 6:
                changed[place : place + 8] = rng.choice(
                    (b"\0" * 8, b"\xff" * 8, struct.pack("<d", float("nan")))
                )
    return bytes(changed)


def json_changed(data: bytes, rng: random.Random) -> bytes:
    """Fields dropped, doubled, of other types, nested deeply, with odd numbers; or not JSON at all."""
    match rng.randrange(6):
        case 0:
            depth = rng.choice((40, 1000, 100_000))
            return rng.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))
        case 1:
            places = list(re.finditer(rb"-?\d+(\.\d+)?", data))
            if places:
                place = rng.choice(places)
                return data[: place.start()] + rng.choice(NUMBERS).encode() + data[place.end() :]
    try:
        value = json.loads(data)
    except ValueError:
        return bytes_changed(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _value_changed(value, rng)
    return json.dumps(value).encode()


def _value_changed(value: Any, rng: random.Random) -> Any:
    """A copy with one place changed, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name, changed = rng.choice(list(value)), dict(value)
        match rng.randrange(5):
            case 0:
                del changed[name]
            case 1:
                changed[rng.choice(("new", "", "\ud800", name.upper()))] = changed[name]
            case _:
                changed[name] = _value_changed(value[name], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        index, changed = rng.randrange(len(value)), list(value)
        changed[index] = _value_changed(value[index], rng)
        return changed * rng.choice(
            (1, 1, 2, 50 if len(changed) < 5 else 2)
        )  # Lists in lists grow by all factors.
    return rng.choice(VALUES)


def json_lines_changed(data: bytes, rng: random.Random) -> bytes:
    """One of the lines changed, doubled, dropped or cut off."""
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    lines[index] = json_changed(lines[index], rng)
    return b"\n".join(
        lines[: rng.choice((len(lines), len(lines), index + 1))] + [lines[index]] * rng.randrange(2)
    )


def npz_changed(data: bytes, rng: random.Random) -> bytes:
    """Other headers and contents in a whole archive, an archive with odd fields, or damaged bytes."""
    match rng.randrange(4):
        case 0:
            return bytes_changed(data, rng)
        case 1:
            changed = bytearray(data)
            places = [found.start() for found in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", data)]
            for _ in range(rng.choice((1, 2))):
                place = rng.choice(places) + rng.randrange(4, 46)
                changed[place : place + 2] = rng.choice((b"\0\0", b"\xff\xff", b"\x63\0", b"\x01\0"))
            return bytes(changed[: len(data)])
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as before,
        zipfile.ZipFile(
            stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
        ) as after,
    ):
        for name in before.namelist():
            if rng.random() < 0.15:
                continue
            array = before.read(name)
            match rng.randrange(4):
                case 0:
                    header = rng.choice(HEADERS).encode("latin-1").ljust(70) + b"\n"
                    version = rng.choice((b"\x01\0", b"\x01\0", b"\x02\0", b"\x09\0"))
                    size = struct.pack("<I" if version[0] == 2 else "<H", len(header) % 65536)
                    array = b"\x93NUMPY" + version + size + header + array[128:]
                case 1:
                    array = array[:128] + bytes_changed(array[128:], rng)[: len(array) - 128]
                case 2:
                    array = bytes_changed(array, rng)
            after.writestr(name, array)
    return stream.getvalue()


def text_changed(data: bytes, rng: random.Random) -> bytes:
    """Numbers and words of a text format replaced, lines dropped or doubled."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        index = rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                del lines[index]
                lines = lines or [b""]
            case 1:
                lines.insert(index, lines[rng.randrange(len(lines))])
            case _:
                words = lines[index].split(b" ")
                words[rng.randrange(len(words))] = rng.choice(
                    (*NUMBERS, "a", "", "1/2/3", "-7", "\0")
                ).encode()
                lines[index] = b" ".join(words)
    return b"\n".join(lines)
