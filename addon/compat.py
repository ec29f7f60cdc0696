"""Differences between Blender 4.2 and 5.2, kept in one place."""

from __future__ import annotations

from contextlib import nullcontext

import bpy

from ..backend.recdreamer.shared.protocol import RequestError


def new_node_material(name: str) -> bpy.types.Material:
    """A material with the default Principled BSDF; since 5.0 every material has a node tree."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    return material


def principled_of(material: bpy.types.Material) -> bpy.types.Node | None:
    """The Principled BSDF, or None; before 5.0 a material may have no node tree."""
    nodes = material.node_tree.nodes if material.node_tree is not None else ()
    return next((node for node in nodes if node.type == "BSDF_PRINCIPLED"), None)


def draw_prompt(layout: bpy.types.UILayout, data: object, name: str, placeholder: str) -> None:
    """A multi-line text field where Blender has one (5.2), else a single line."""
    if hasattr(layout, "textbox"):
        layout.textbox(data, name, initial_visible_lines=3, placeholder=placeholder)
    else:
        layout.prop(data, name, text="", placeholder=placeholder)


def can_draw_offscreen() -> bool:
    """True when a window's graphics context exists; background mode renders instead."""
    return not bpy.app.background


def new_node_world(name: str) -> bpy.types.World:
    """A world with a Background node."""
    world = bpy.data.worlds.new(name)
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    return world


def set_png(settings: bpy.types.ImageFormatSettings) -> None:
    """8-bit PNG with alpha. Since 5.0 the media type must be set before the format."""
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = "PNG"
    settings.color_mode = "RGBA"
    settings.color_depth = "8"


def set_linear_exr(settings: bpy.types.ImageFormatSettings) -> None:
    """OpenEXR with alpha: linear values, before any view transform. Its `linear_colorspace_settings` have their space."""
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = "OPEN_EXR"
    settings.color_mode = "RGBA"
    settings.color_depth = "16"
    settings.exr_codec = "NONE"  # So that the size of the file tells whether it is complete.
    # By default the name is empty in 4.2.
    settings.color_management = "OVERRIDE"
    probe = bpy.data.images.new("RecDreamer", 1, 1, float_buffer=True)
    settings.linear_colorspace_settings.name = probe.colorspace_settings.name
    bpy.data.images.remove(probe)


def set_preview_engine(scene: bpy.types.Scene, samples: int) -> None:
    """EEVEE, or Cycles on the CPU in background mode, where there may be no graphics driver."""
    if not bpy.app.background:
        scene.render.engine = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
        return
    try:
        scene.render.engine = "CYCLES"
    except TypeError:
        raise RequestError(
            "Without a window, Material Preview needs the Cycles add-on.", "Enable it, or choose Solid."
        ) from None
    scene.cycles.device, scene.cycles.samples = "CPU", samples


GIZMO_HAS_UNDO = "use_undo" in bpy.types.Gizmo.bl_rna.properties
"""Since 5.0 a gizmo whose value is a function of ours can make an undo step of each drag."""
_dragged = ""
"""What was dragged by such a gizmo before 5.0, and is no undo step yet."""


def let_undo(gizmo: bpy.types.Gizmo) -> None:
    """Make each drag of a gizmo a step that can be undone; before 5.0 `note_drag` and `push_drag` do it."""
    if GIZMO_HAS_UNDO:
        gizmo.use_undo = True


def note_drag(what: str) -> None:
    """Remember what a gizmo is changing."""
    global _dragged
    if not GIZMO_HAS_UNDO:
        _dragged = what


def push_drag() -> bool:
    """Make the undo step of a drag that has ended. Returns False: there is nothing to show. Called by the timer."""
    global _dragged
    windows = bpy.context.window_manager.windows
    if _dragged and not any(window.modal_operators for window in windows):
        what, _dragged = _dragged, ""
        with bpy.context.temp_override(window=windows[0]) if windows else nullcontext():
            bpy.ops.ed.undo_push(message=what)
    return False
