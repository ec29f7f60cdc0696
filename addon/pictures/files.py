"""What the first bytes of a picture file tell: its format, size and orientation. No bpy here."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...backend.recdreamer.shared.protocol import RequestError
from ...backend.recdreamer.shared.safe_files import open_regular, printable, reason_of

HEADER_BYTES = 1 << 20
"""Read of a file; metadata in front of the pixels can be long."""
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 1 << 27
"""More than any camera takes; a small file can declare as many as it likes."""
TIFF = {b"II*\0": "<", b"MM\0*": ">"}
"""Its two beginnings, and the order of bytes that each announces."""
ORIENTATION = 0x0112
"""The EXIF tag."""


@dataclass(frozen=True)
class PictureHeader:
    """A picture that its file declares."""

    format: str
    """PNG, JPEG, WEBP or TIFF."""
    width: int
    height: int
    orientation: int
    """EXIF, 1 to 8; 1 is upright."""


def read_header(path: Path) -> PictureHeader | None:
    """The header of a regular file; None if it has another format. Raises RequestError if it cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            data = stream.read(HEADER_BYTES)
            if data[:4] in TIFF:  # Its directory may stand behind the pixels: put it in their place.
                order = TIFF[data[:4]]
                stream.seek(struct.unpack_from(order + "I", data, 4)[0])
                data = data[:4] + struct.pack(order + "I", 8) + stream.read(HEADER_BYTES)
    except (OSError, ValueError, struct.error) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"{printable(path.name)} cannot be read ({reason_of(error)}).", "Choose another file."
        ) from error
    return parse_header(data)


def check_picture(path: Path) -> PictureHeader:
    """The header of a PNG, JPEG or WebP file of bounded size, which is safe to show. Raises RequestError."""
    header = read_header(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise RequestError(f"{printable(path.name)} has more than {MAX_FILE_BYTES >> 20} MiB.", "Remove it.")
    if header is None or header.format == "TIFF":
        raise RequestError(f"{printable(path.name)} is no PNG, JPEG or WebP.", "Remove it.")
    if not 0 < header.width * header.height <= MAX_PIXELS:
        raise RequestError(
            f"{printable(path.name)} is {header.width:,} × {header.height:,} pixels.", "Remove it."
        )
    return header


def parse_header(data: bytes) -> PictureHeader | None:
    """The header in the first bytes of a file, or None.

    >>> parse_header(b"\\x89PNG\\r\\n\\x1a\\n" + struct.pack(">I4sII", 13, b"IHDR", 30, 20) + bytes(9))
    PictureHeader(format='PNG', width=30, height=20, orientation=1)
    """
    for magic, parse in ((b"\x89PNG\r\n\x1a\n", _png), (b"\xff\xd8", _jpeg), (b"RIFF", _webp)):
        if data.startswith(magic):
            try:
                return parse(data)
            except (struct.error, IndexError):
                return None
    if data[:4] in TIFF:
        tags = _tiff_tags(data)
        return PictureHeader("TIFF", tags.get(256, 0), tags.get(257, 0), _orientation(tags))
    return None


def _png(data: bytes) -> PictureHeader:
    width, height = struct.unpack_from(">II", data, 16)
    exif, place = b"", 8
    while place + 8 <= len(data) and not exif:
        size, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"eXIf":
            exif = data[place + 8 : place + 8 + size]
        place += 12 + size
    return PictureHeader("PNG", width, height, _orientation(_tiff_tags(exif)))


def _jpeg(data: bytes) -> PictureHeader:
    orientation = 1
    for marker, start, size in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            orientation = _orientation(_tiff_tags(data[start + 6 : start + size]))
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, start + 1)
            return PictureHeader("JPEG", width, height, orientation)
    raise IndexError("no frame")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and size of the segments before the pixels."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # A fill byte.
            place += 1
            continue
        yield marker, place + 4, size - 2
        place += 2 + size


def _webp(data: bytes) -> PictureHeader:
    if data[8:12] != b"WEBP":
        raise IndexError("another kind of RIFF")
    width, height, orientation, place = 0, 0, 1, 12
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, place)
        body = data[place + 8 : place + 8 + size]
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
        elif kind == b"VP8L" and not width:
            bits = int.from_bytes(body[1:5], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
        elif kind == b"EXIF":
            orientation = _orientation(_tiff_tags(body.removeprefix(b"Exif\0\0")))
        place += 8 + size + size % 2
    return PictureHeader("WEBP", width, height, orientation)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Whole numbers in the first directory of a TIFF, which EXIF is, too; those before the end if it is cut."""
    order, tags = "<" if data[:2] == b"II" else ">", {}
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, directory)
        for entry in range(count):
            place = directory + 2 + 12 * entry
            tag, kind, number = struct.unpack_from(order + "HHI", data, place)
            if kind in (3, 4) and number == 1:
                (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 8)
    except struct.error:
        pass
    return tags


def _orientation(tags: dict[int, int]) -> int:
    value = tags.get(ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1
