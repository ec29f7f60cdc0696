"""Objects that something of ours stands in for: hidden in the view and in renders, yet told from what an artist hid."""

from __future__ import annotations

import bpy

HIDDEN_KEY = "recdreamer_hidden"
"""True on an object that is out of renders because of us."""


def hide(obj: bpy.types.Object) -> None:
    obj.hide_set(True)
    # An object of another file takes no custom property.
    if not obj.hide_render and obj.is_editable:
        obj.hide_render = True
        obj[HIDDEN_KEY] = True


def is_left_out(obj: bpy.types.Object) -> bool:
    """True when the artist keeps it out of renders."""
    return obj.hide_render and not obj.get(HIDDEN_KEY)
