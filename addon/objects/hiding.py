"""Hide objects that a result replaces, and remember that the add-on hid them, not the artist."""

from __future__ import annotations

import bpy

HIDDEN_KEY = "recdreamer_hidden"
"""Set on an object that the add-on, not the artist, disabled in renders."""


def hide(obj: bpy.types.Object) -> None:
    obj.hide_set(True)
    # A linked object cannot have custom properties.
    if not obj.hide_render and obj.is_editable:
        obj.hide_render = True
        obj[HIDDEN_KEY] = True


def is_left_out(obj: bpy.types.Object) -> bool:
    """True if the artist disabled the object in renders."""
    return obj.hide_render and not obj.get(HIDDEN_KEY)


def is_shown(obj: bpy.types.Object, view_layer: bpy.types.ViewLayer) -> bool:
    """True if viewports show the object, or would if the add-on had not hidden it."""
    was_hidden_by_us = obj.hide_render and bool(obj.get(HIDDEN_KEY))
    return was_hidden_by_us or obj.visible_get(view_layer=view_layer)


def local_view(context: bpy.types.Context) -> bpy.types.SpaceView3D | None:
    """The current 3D view if it is in local view, else None."""
    space = context.space_data
    return space if getattr(space, "type", "") == "VIEW_3D" and space.local_view is not None else None


def show_in_local_view(obj: bpy.types.Object, context: bpy.types.Context) -> None:
    space = local_view(context)
    if space is not None:
        obj.local_view_set(space, True)
