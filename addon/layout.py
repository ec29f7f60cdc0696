"""Text in a layout, wrapped or shortened to the width of the region, because Blender cuts labels in their middle."""

from __future__ import annotations

import blf
import bpy

from . import describe
from .language.translation import say

MARGIN_PX, ICON_PX = 80, 22
"""What panel, scroll bar and a box take of the width of a region, and an icon, at a scale of 1."""
FONT, FONT_POINTS = 0, 11.0
"""Blender's own, in which it draws labels."""
MIN_WIDTH_PX = 60
AROUND_PICTURE_PX, UNIT_PX = 132, 20
"""What is left beside a picture, so that the tab of a new sidebar fits on a screen, and the side of an icon; at a scale
of 1."""


def draw_text(
    layout: bpy.types.UILayout,
    text: str,
    context: bpy.types.Context,
    icon: str = "NONE",
) -> None:
    """Draw text, translated, in as many lines as the region needs."""
    column = layout.column(align=True)
    width_px = room_px(context) - (ICON_PX if icon != "NONE" else 0)
    for index, line in enumerate(describe.wrap(say(text), max(MIN_WIDTH_PX, width_px), text_px)):
        column.label(text=line, icon=icon if index == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def shortened(text: str, context: bpy.types.Context, other_px: float = 0.0) -> str:
    """A text for one line of a panel that has `other_px` of other things, ending in "…" where it is too long."""
    return describe.shortened(text, max(MIN_WIDTH_PX, room_px(context) - other_px), text_px)


def room_px(context: bpy.types.Context) -> float:
    """Width of text in the region, at a scale of 1; by default that of a new sidebar."""
    return _width_px(context) - MARGIN_PX


def icon_scale(context: bpy.types.Context, picture_px: int) -> float:
    """Scale of an icon that shows a square picture pixel by pixel, or as large as the region has room for."""
    picture_px /= context.preferences.system.ui_scale or 1.0
    return min(picture_px, max(MIN_WIDTH_PX, _width_px(context) - AROUND_PICTURE_PX)) / UNIT_PX


def _width_px(context: bpy.types.Context) -> float:
    scale = context.preferences.system.ui_scale or 1.0
    return context.region.width / scale if context.region else 292.0


def text_px(text: str) -> float:
    """Width of a text, at an interface scale of 1."""
    blf.size(FONT, FONT_POINTS)
    return blf.dimensions(FONT, text)[0]
