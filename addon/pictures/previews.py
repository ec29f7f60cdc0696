"""Pictures for the panel, each loaded once."""

from __future__ import annotations

import math
import time
from pathlib import Path

import bpy
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

VIEW_PX = 256
"""Side of a view of a large preview."""
MAX_LARGE, UNSEEN_S = 12, 5.0
"""Pictures in full size, each with some MB, are released beyond this number if they were not drawn for that long."""

Key = tuple[Path, bool, bool]
"""A picture, whether it is mirrored, and whether its views are shown in full size."""

_collection: bpy.utils.previews.ImagePreviewCollection | None = None
_names: dict[Key, str] = {}
"""Pictures that were drawn -> their names in the collection; empty: there is nothing to show."""
_looked_s: dict[Key, float] = {}
_wanted: dict[Key, None] = {}
"""Pictures that were drawn and are to be read."""
_read_into: list[np.ndarray] = []
_folded_into: list[np.ndarray] = []
_decoded: tuple[str, np.ndarray] = ("", np.empty(0))
"""Path and time of the picture that `pixels_of` has read last, which panel and 3D view may both show."""


def icon(path: Path, *, mirrored: bool = False, is_large: bool = False) -> int:
    """Icon number of a picture; 0 as long as it is not read, or if it cannot be shown (missing file, or no window).

    Blender makes pictures smaller than a view of a preview is; with `is_large` a preview is shown as it is. Nothing is
    read while Blender draws: `load_next` does that, and the newest version that it knows is shown until then.
    """
    key = (path, mirrored, is_large)
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
        if key[2] and not _read_into:  # To get memory takes half of the time in which a picture can be read.
            reused(_read_into, (VIEW_PX, 4 * VIEW_PX, 4)).fill(0.0)
            reused(_folded_into, (2 * VIEW_PX, 2 * VIEW_PX, 4)).fill(0.0)
            return False
        del _wanted[key]
        _looked_s[key] = time.monotonic()
        before, _names[key] = _names.get(key), _load(*key)
        if before != _names[key]:
            return True
    return False


def _load(path: Path, mirrored: bool, is_large: bool = False) -> str:
    """Read a picture unless its newest version is read already. Its name in the collection; empty if that fails."""
    global _collection
    if _collection is None:
        _collection = bpy.utils.previews.new()
    try:
        name = f"{path}|{path.stat().st_mtime_ns}|{mirrored}|{is_large}"
        if name in _collection:
            return name
        header = check_picture(path)
    except (OSError, RequestError):
        return ""
    is_strip = header.width == 4 * header.height
    if is_strip and is_large and (pixels := pixels_of(path)) is not None:
        preview, side = _collection.new(name), len(pixels) // 2  # Blender has nothing to read here.
        _set(preview, "icon", small(pixels[side:, :side]))
        _set(preview, "image", pixels)
        return name
    preview = _collection.load(name, str(path), "IMAGE")
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


def fold(strip: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Rearrange four views side by side into two rows of two, because icons are square.

    `height 4*height 4` to `2*height 2*height 4`; rows of pixels count from the bottom.
    """
    left, right = np.split(strip, 2, axis=1)
    return np.concatenate([right, left], axis=0, out=out)


def pixels_of(path: Path) -> np.ndarray | None:
    """A picture `height width 4` in full size, sRGB, bottom row first, a preview folded; None if it cannot be read.

    The array is overwritten by the next call. Not while drawing.
    """
    global _decoded
    try:
        version = f"{path}|{path.stat().st_mtime_ns}"
        if version == _decoded[0]:
            return _decoded[1]
        header = check_picture(path)
        image = bpy.data.images.load(str(path))
    except (OSError, RequestError, RuntimeError):
        return None
    try:
        width, height = image.size
        pixels = reused(_read_into, (height, width, 4))
        image.pixels.foreach_get(pixels.reshape(-1))
    finally:
        bpy.data.images.remove(image)
    if header.width == 4 * header.height and width == 4 * height:
        pixels = fold(pixels, reused(_folded_into, (2 * height, 2 * height, 4)))
    _decoded = version, pixels
    return pixels


def reused(buffer: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The array in a list of one, made anew for another shape: to get new memory takes longer than to fill it."""
    if not buffer or buffer[0].shape != shape:
        buffer[:] = [np.empty(shape, np.float32)]
    return buffer[0]


def trim() -> bool:
    """Release old pictures; True if it did. Never call this while drawing: the layout may hold their icon numbers."""
    if _collection is None:
        return False
    if len(_collection) <= MAX_LOADED:
        return _trim_large()
    _collection.clear()
    _forget()
    return True


def _trim_large() -> bool:
    """Release pictures in full size that were not drawn lately, if there are many."""
    large = sorted((key for key, name in _names.items() if key[2] and name), key=lambda key: _looked_s[key])
    old = [key for key in large[:-MAX_LARGE] if time.monotonic() - _looked_s[key] > UNSEEN_S]
    for key in old:
        del _collection[_names.pop(key)]
        del _looked_s[key]
    return bool(old)


def _forget() -> None:
    global _decoded
    for record in (_names, _looked_s, _wanted, _read_into, _folded_into):
        record.clear()
    _decoded = ("", np.empty(0))


def clear() -> None:
    """Release all pictures when the add-on is disabled."""
    global _collection
    if _collection is not None:
        bpy.utils.previews.remove(_collection)
        _collection = None
    _forget()
