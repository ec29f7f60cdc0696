"""Pictures as PNG or JPEG files, one at a time or several on a sheet. Colours are sRGB in [0, 1], as protocol.py says."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from recdreamer.shared.protocol import write_atomically

PNG_STRATEGY = zlib.Z_RLE
"""Of zlib. After PNG's filters only runs are worth looking for: this takes less than a third of the time of the default
strategy, and the files are smaller."""


JPEG = {"quality": 90, "subsampling": 0}
"""A third of a PNG's bytes, and an eighth of the time in which Blender reads it."""


def jpeg_bytes(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """For pictures that are looked at, not measured."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **JPEG)
    return stream.getvalue()


def png_bytes(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_type=PNG_STRATEGY)
    return stream.getvalue()


def to_pixels(picture: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """[0, 1] as 0 to 255, rounded; values outside are clamped."""
    return (picture.detach().clamp(0, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()


def write_picture(path: Path, picture: Float[Tensor, "3 height width"]) -> None:
    """Write a PNG, or a JPEG if that is its suffix, atomically, so that nobody reads half a picture."""
    encoded = jpeg_bytes if path.suffix == ".jpg" else png_bytes
    write_atomically(path, encoded(to_pixels(picture)))


def sheet_of(
    pictures: Float[Tensor, "count 3 height width"], columns: int
) -> Float[Tensor, "3 sheet_height sheet_width"]:
    """The pictures row by row in a grid; the cells that are left over are white."""
    rows = -(-len(pictures) // columns)
    sheet = pictures.new_ones(rows * columns, *pictures.shape[1:])
    sheet[: len(pictures)] = pictures
    return sheet.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def write_sheet(
    path: Path, pictures: Float[Tensor, "count 3 height width"], columns: int, enlarge: int = 1
) -> None:
    """Write the pictures as one file, `columns` in a row; each pixel becomes a square of `enlarge` pixels."""
    sheet = sheet_of(pictures, columns)
    write_picture(path, sheet.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2))
