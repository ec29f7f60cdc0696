"""Pictures for the panel, each loaded once."""

from __future__ import annotations

from pathlib import Path

import bpy.utils.previews
import numpy as np

from ..backend.recdreamer.shared.protocol import RequestError
from .picture_files import check_picture

MAX_LOADED = 200
"""A long job makes many previews; beyond this number all loaded pictures are released."""

_collection: bpy.utils.previews.ImagePreviewCollection | None = None


def icon(path: Path, *, mirrored: bool = False) -> int:
    """Icon number of a picture; 0 if it cannot be shown (missing file, or no window)."""
    global _collection
    if _collection is None:
        _collection = bpy.utils.previews.new()
    try:
        key = f"{path}|{path.stat().st_mtime_ns}|{mirrored}"
        if key not in _collection:
            check_picture(path)
    except (OSError, RequestError):
        return 0
    if key not in _collection:
        preview = _collection.load(key, str(path), "IMAGE")
        width, height = preview.image_size
        is_strip = width == 4 * height > 0
        if mirrored or is_strip:
            pixels = np.array(preview.image_pixels_float, np.float32).reshape(height, width, 4)
            pixels = fold(pixels) if is_strip else pixels[:, ::-1]
            preview.image_size = pixels.shape[1::-1]
            preview.image_pixels_float = pixels.ravel().tolist()
    return _collection[key].icon_id


def fold(strip: np.ndarray) -> np.ndarray:
    """Rearrange four views side by side into two rows of two, because icons are square.

    `height 4*height 4` to `2*height 2*height 4`; rows of pixels count from the bottom.
    """
    left, right = np.split(strip, 2, axis=1)
    return np.concatenate([right, left], axis=0)


def trim() -> None:
    """Release old pictures. Never call this while drawing: the layout may hold their icon numbers."""
    if _collection is not None and len(_collection) > MAX_LOADED:
        _collection.clear()


def clear() -> None:
    """Release all pictures when the add-on is disabled."""
    global _collection
    if _collection is not None:
        bpy.utils.previews.remove(_collection)
        _collection = None
