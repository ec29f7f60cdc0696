"""Text in a layout, wrapped to the width of its region."""

from __future__ import annotations

import bpy

from . import describe


def draw_text(
    layout: bpy.types.UILayout,
    text: str,
    context: bpy.types.Context,
    icon: str = "NONE",
    columns: int = 1,
) -> None:
    """A label of as many lines as the region needs, or one of equal columns of the region."""
    column = layout.column(align=True)
    width_px = (context.region.width if context.region else 300) / columns
    for index, line in enumerate(describe.wrap(text, width_px, context.preferences.system.ui_scale)):
        column.label(text=line, icon=icon if index == 0 else ("BLANK1" if icon != "NONE" else "NONE"))
