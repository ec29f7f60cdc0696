"""Pictures in the panel, loaded once each."""

from __future__ import annotations

from pathlib import Path

import bpy.utils.previews
import numpy as np

MAX_LOADED = 200
"""Every preview of a long job is a new picture; beyond this many the old ones are let go."""

_collection: bpy.utils.previews.ImagePreviewCollection | None = None


def icon(path: Path, *, mirrored: bool = False) -> int:
    """Icon number of a picture, 0 when it cannot be shown (a missing file, or no window)."""
    global _collection
    if _collection is None:
        _collection = bpy.utils.previews.new()
    try:
        key = f"{path}|{path.stat().st_mtime_ns}|{mirrored}"
    except OSError:
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
    """Four views side by side as two rows of two: icons are square, and so nothing of one is lost.

    `height 4*height 4` to `2*height 2*height 4`; rows of pixels count from the bottom.
    """
    left, right = np.split(strip, 2, axis=1)
    return np.concatenate([right, left], axis=0)


def trim() -> None:
    """Let old pictures go. Never while drawing: the layout may hold their numbers."""
    if _collection is not None and len(_collection) > MAX_LOADED:
        _collection.clear()


def clear() -> None:
    """Give everything back, when the add-on goes away."""
    global _collection
    if _collection is not None:
        bpy.utils.previews.remove(_collection)
        _collection = None
