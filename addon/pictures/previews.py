"""Pictures for the panel, each loaded once."""

from __future__ import annotations

import math
import time
from pathlib import Path

import bpy.utils.previews
import numpy as np

from ...backend.recdreamer.shared.protocol import RequestError
from .files import check_picture

MAX_LOADED = 200
"""A long job makes many previews; beyond this number all loaded pictures are released."""
ICON_PX = 32
"""Side of an icon in a list."""
LOOKS_AGAIN_AFTER_S = 1.0
"""A drawn picture is looked for on the disk at most this often."""

Key = tuple[Path, bool]
"""A picture, and whether it is mirrored."""

_collection: bpy.utils.previews.ImagePreviewCollection | None = None
_names: dict[Key, str] = {}
"""Pictures that were drawn -> their names in the collection; empty: there is nothing to show."""
_looked_s: dict[Key, float] = {}
_wanted: dict[Key, None] = {}
"""Pictures that were drawn and are to be read."""


def icon(path: Path, *, mirrored: bool = False) -> int:
    """Icon number of a picture; 0 as long as it is not read, or if it cannot be shown (missing file, or no window).

    Nothing is read while Blender draws: `load_next` does that, and the newest version that it knows is shown until then.
    """
    key = (path, mirrored)
    if time.monotonic() - _looked_s.get(key, -math.inf) > LOOKS_AGAIN_AFTER_S:
        _wanted[key] = None
    name = _names.get(key, "")
    return _collection[name].icon_id if name and _collection is not None else 0


def is_behind() -> bool:
    """Whether a picture was drawn that is not read yet."""
    return bool(_wanted.keys() - _names.keys())


def load_next() -> bool:
    """Read at most one of the pictures that were drawn. True if another one can be shown. Called by the timer."""
    for key in list(_wanted):
        del _wanted[key]
        _looked_s[key] = time.monotonic()
        before, _names[key] = _names.get(key), _load(*key)
        if before != _names[key]:
            return True
    return False


def _load(path: Path, mirrored: bool) -> str:
    """Read a picture unless its newest version is read already. Its name in the collection; empty if that fails."""
    global _collection
    if _collection is None:
        _collection = bpy.utils.previews.new()
    try:
        name = f"{path}|{path.stat().st_mtime_ns}|{mirrored}"
        if name in _collection:
            return name
        header = check_picture(path)
    except (OSError, RequestError):
        return ""
    preview = _collection.load(name, str(path), "IMAGE")
    is_strip = header.width == 4 * header.height
    if mirrored or is_strip:  # Otherwise Blender reads it by itself, when and where it has time.
        width, height = preview.image_size
        pixels = np.empty(width * height * 4, np.float32)
        preview.image_pixels_float.foreach_get(pixels)
        pixels = pixels.reshape(height, width, 4)
        if is_strip and width == 4 * height:
            _set(
                preview, "icon", small(pixels[:, :height])
            )  # In a list, where four views would be a thin line.
            pixels = fold(pixels)
        else:
            pixels = pixels[:, ::-1]
        _set(preview, "image", pixels)
    return name


def _set(preview: bpy.types.ImagePreview, kind: str, pixels: np.ndarray) -> None:
    """Give a preview its large "image" or its small "icon", `height width 4`."""
    setattr(preview, f"{kind}_size", pixels.shape[1::-1])
    getattr(preview, f"{kind}_pixels_float").foreach_set(np.ascontiguousarray(pixels).ravel())


def small(view: np.ndarray) -> np.ndarray:
    """A square picture `side side 4` as an icon, by every n-th pixel.

    >>> small(np.zeros((100, 100, 4))).shape
    (32, 32, 4)
    """
    places = np.arange(ICON_PX) * len(view) // ICON_PX
    return view[np.ix_(places, places)]


def fold(strip: np.ndarray) -> np.ndarray:
    """Rearrange four views side by side into two rows of two, because icons are square.

    `height 4*height 4` to `2*height 2*height 4`; rows of pixels count from the bottom.
    """
    left, right = np.split(strip, 2, axis=1)
    return np.concatenate([right, left], axis=0)


def trim() -> bool:
    """Release old pictures; True if it did. Never call this while drawing: the layout may hold their icon numbers."""
    if _collection is None or len(_collection) <= MAX_LOADED:
        return False
    _collection.clear()
    _forget()
    return True


def _forget() -> None:
    for record in (_names, _looked_s, _wanted):
        record.clear()


def clear() -> None:
    """Release all pictures when the add-on is disabled."""
    global _collection
    if _collection is not None:
        bpy.utils.previews.remove(_collection)
        _collection = None
    _forget()
