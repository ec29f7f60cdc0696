"""What the artist sees of a result right after it was imported."""

from __future__ import annotations

from collections.abc import Iterator

import bpy


def show_textures(context: bpy.types.Context) -> None:
    """Let Solid shading show textures where its color is that of materials, which is the default."""
    for area in _views(context):
        shading = area.spaces.active.shading
        if shading.type == "SOLID" and shading.color_type == "MATERIAL":
            shading.color_type = "TEXTURE"


def frame_selected(context: bpy.types.Context) -> None:
    """Move the view of the 3D View that was used, or of all, so that the selected objects are seen."""
    for area in _views(context):
        region = next((region for region in area.regions if region.type == "WINDOW"), None)
        if region is not None:
            with context.temp_override(area=area, region=region):
                bpy.ops.view3d.view_selected()


def _views(context: bpy.types.Context) -> Iterator[bpy.types.Area]:
    """The 3D View of the context, else all of its screen; none of another one."""
    area = context.area
    if area is not None and area.type == "VIEW_3D":
        yield area
    elif context.screen is not None:
        yield from (area for area in context.screen.areas if area.type == "VIEW_3D")
