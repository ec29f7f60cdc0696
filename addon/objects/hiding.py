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


def local_view(context: bpy.types.Context) -> bpy.types.SpaceView3D | None:
    """The 3D view that is worked in, if it is in local view."""
    space = context.space_data
    return space if getattr(space, "type", "") == "VIEW_3D" and space.local_view is not None else None


def show_in_local_view(obj: bpy.types.Object, context: bpy.types.Context) -> None:
    space = local_view(context)
    if space is not None:
        obj.local_view_set(space, True)
