"""Removal of what a failed action has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy

KINDS = ("objects", "meshes", "materials", "images", "cameras", "lights", "worlds")
"""Collections of `bpy.data` in which actions make data."""


@contextmanager
def removed_on_error() -> Iterator[None]:
    """Remove what is made inside, if it ends with an error. Data that older objects use by then stays."""
    before = {data.session_uid for data in _all_data()}
    try:
        yield
    except BaseException:
        # Users come before what they use: objects, meshes, materials, images.
        for kind in KINDS:
            new = [data for data in getattr(bpy.data, kind) if data.session_uid not in before]
            bpy.data.batch_remove([data for data in new if kind == "objects" or not data.users])
        raise


def _all_data() -> Iterator[bpy.types.ID]:
    for kind in KINDS:
        yield from getattr(bpy.data, kind)
