"""Image files of the shelf: import, read and write them. PNG with the mask in alpha."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import bpy
import numpy as np

from ...backend.recdreamer.shared.protocol import MIN_COVERAGE, MIN_SIDE_PX, RequestError
from ..objects.pixels import read_srgb
from ..pictures.files import read_header

MAX_SIDE_PX = 2048
"""Larger pictures are scaled down on import; the backend uses far fewer pixels."""
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""Last bytes of every complete PNG."""
NEUTRAL = 0.5
"""Gray behind the object, for readers that ignore alpha."""


def import_picture(source: Path, folder: Path) -> Path:
    """Copy an image file into the folder as 8-bit sRGB, its longer side at most MAX_SIDE_PX.

    The card shows this copy and the backend reads it, so both see the same. Raises RequestError if the file
    cannot serve as a template.
    """
    try:
        # The artist may have chosen a link; a pipe would never end.
        header = read_header(source.resolve())
        image = bpy.data.images.load(str(source))
    except (RuntimeError, RequestError):
        raise RequestError(f"The image {source.name} cannot be read.", "Choose another file.") from None
    try:
        is_as_stored = header is not None and tuple(image.size) == (header.width, header.height)
        return import_image(image, source.name, folder, header.orientation if is_as_stored else 1)
    finally:
        bpy.data.images.remove(image)


def import_image(image: bpy.types.Image, name: str, folder: Path, orientation: int = 1) -> Path:
    """Like `import_picture`, for an image datablock; `name` is used in errors."""
    width, height = image.size
    if image.type == "MULTILAYER":
        raise RequestError(
            f"The image {name} is a multilayer EXR, whose pixels Blender does not hand to add-ons.",
            "Save one of its layers as PNG, for example in the Image Editor (Image › Save As).",
        )
    if not (width and height):
        hint = "Save one frame of it as PNG." if image.source == "MOVIE" else "Choose a PNG or JPEG file."
        raise RequestError(f"The image {name} is empty or not an image that Blender can read.", hint)
    shrink = min(1.0, MAX_SIDE_PX / max(width, height))
    if min(width, height) * shrink < MIN_SIDE_PX:
        raise RequestError(
            f"The image {name} is {width} × {height} pixels, too small or too narrow to show a pose.",
            f"Choose one of at least {MIN_SIDE_PX} × {MIN_SIDE_PX} pixels.",
        )
    if shrink < 1:
        image.scale(round(width * shrink), round(height * shrink))
    pixels = upright(read_srgb(image), orientation)
    if (pixels[..., 3] > 0.5).mean() < MIN_COVERAGE:
        raise RequestError(
            f"The image {name} shows nothing: it is fully transparent.",
            "Choose one in which the object is opaque.",
        )
    path = new_picture(folder)
    save_png(pixels, path)
    return path


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels, bottom row first, rotated according to the EXIF `orientation`."""
    top_first = pixels[::-1]
    if orientation in (2, 4, 5, 7):
        top_first = top_first[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(top_first, turns)[::-1])


def mirror_picture(source: Path, folder: Path) -> Path:
    """A copy flipped left to right."""
    path = new_picture(folder)
    save_png(load_pixels(source)[:, ::-1], path)
    return path


new_names: set[str] = set()
"""Pictures made in this session that no saved file shows; see packed_pictures.py."""


def new_picture(folder: Path) -> Path:
    path = folder / f"{uuid.uuid4().hex}.png"
    new_names.add(path.name)
    return path


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write sRGB values `height width 4` in [0, 1], bottom row first; transparent pixels become gray.

    Raises RequestError if the file is not complete, of which Blender says nothing when the disk is full.
    """
    # What 8 bits cannot tell from nothing: a renderer's filter leaves traces of alpha far from the object.
    is_visible = pixels[..., 3:] >= 0.5 / 255
    pixels = np.where(is_visible, pixels, np.float32([NEUTRAL] * 3 + [0]))
    height, width = pixels.shape[:2]
    image = bpy.data.images.new(path.stem, width, height, alpha=True)
    try:
        image.pixels.foreach_set(pixels.astype(np.float32).ravel())
        image.filepath_raw = str(path)
        image.file_format = "PNG"
        with suppress(RuntimeError):  # Whatever it says, the file counts.
            image.save()
    finally:
        bpy.data.images.remove(image)
    if not is_complete(path):
        path.unlink(missing_ok=True)
        raise disk_is_full(path)


def is_complete(png: Path) -> bool:
    try:
        with png.open("rb") as stream:
            stream.seek(-len(PNG_END), os.SEEK_END)
            return stream.read() == PNG_END
    except OSError:
        return False


def disk_is_full(path: Path) -> RequestError:
    return RequestError(
        f"A picture cannot be written to {path.parent}. The disk may be full.",
        "Free some space, or choose another data folder in the preferences.",
    )


def load_pixels(path: Path, color_space: str = "") -> np.ndarray:
    """sRGB pixels of an image file, `height width 4` in [0, 1], bottom row first.

    `color_space` is the name of that of the file. Empty: the usual one of its kind. Raises RequestError.
    """
    image = bpy.data.images.load(str(path))
    try:
        if color_space:
            image.colorspace_settings.name = color_space
        if not all(image.size):
            raise RequestError(f"The picture {path.name} cannot be read.", "Capture it again.")
        return read_srgb(image)
    finally:
        bpy.data.images.remove(image)


def fill_outline(pixels: np.ndarray) -> np.ndarray:
    """Fill areas enclosed by lines with white paper; everything outside stays transparent.

    `height width 4`. Otherwise the mask of a drawing would consist of its lines only.
    """
    is_open = pixels[..., 3] < 0.5
    # A pixel is outside if a path from the border reaches it without crossing a line.
    outside = np.zeros_like(is_open)
    outside[[0, -1]], outside[:, [0, -1]] = is_open[[0, -1]], is_open[:, [0, -1]]
    num_outside = -1
    while num_outside != (num_outside := np.count_nonzero(outside)):
        grown = outside.copy()
        grown[1:] |= outside[:-1]
        grown[:-1] |= outside[1:]
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        outside = grown & is_open
    alpha = pixels[..., 3:]
    on_paper = np.concatenate([pixels[..., :3] * alpha + 1 - alpha, np.ones_like(alpha)], axis=2)
    return np.where(outside[..., None], pixels, on_paper)
