"""What differs between Blender 4.2 and 5.2, kept in one place."""

from __future__ import annotations

import bpy


def new_node_material(name: str) -> bpy.types.Material:
    """A material with the default Principled BSDF; from 5.0 on, node trees are always there."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    return material


def draw_prompt(layout: bpy.types.UILayout, data: object, name: str, placeholder: str) -> None:
    """A text field of several lines where Blender has one (5.2), else of one line."""
    if hasattr(layout, "textbox"):
        layout.textbox(data, name, initial_visible_lines=3, placeholder=placeholder)
    else:
        layout.prop(data, name, text="", placeholder=placeholder)


def can_draw_offscreen() -> bool:
    """True when a window's graphics context exists; background mode renders instead."""
    return not bpy.app.background
