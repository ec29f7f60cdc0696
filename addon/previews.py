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
        if mirrored:
            width, height = preview.image_size
            pixels = np.array(preview.image_pixels_float, np.float32).reshape(height, width, 4)
            preview.image_pixels_float = pixels[:, ::-1].ravel().tolist()
    return _collection[key].icon_id


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
