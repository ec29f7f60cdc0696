"""Text in a layout, wrapped to the width of the region."""

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
    """Draw text in as many lines as the region, or one of its equal columns, needs."""
    column = layout.column(align=True)
    width_px = (context.region.width if context.region else 300) / columns
    for index, line in enumerate(describe.wrap(text, width_px, context.preferences.system.ui_scale)):
        column.label(text=line, icon=icon if index == 0 else ("BLANK1" if icon != "NONE" else "NONE"))
