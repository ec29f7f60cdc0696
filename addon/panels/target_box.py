"""In the 3D view: a box where the next result will stand, of the height that is asked for, with an arrow to change it."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from .. import compat
from ..properties import metres_per_unit
from ..result.target import MAX_NEIGHBORS, Target, box_lines, boxes_of, target_of_settings
from ..session import session
from ..shelf.coverage import draw_lines

COLOR, HIGHLIGHT = (0.3, 0.75, 1.0), (0.6, 0.9, 1.0)
_neighbors = np.empty((0, 2, 3))
"""Boxes of what a new object has to stand beside. Looked for by the timer, because a draw has to be quick."""
_handle = None


def shown_target(context: bpy.types.Context) -> Target | None:
    """What is drawn, or None."""
    settings = context.scene.recdreamer
    return target_of_settings(context, lambda: _neighbors) if settings.show_target else None


def look() -> bool:
    """Look for what is there. True if it has changed and is seen. Called by the timer."""
    global _neighbors
    windows = bpy.context.window_manager.windows
    if not windows or not windows[0].scene.recdreamer.show_target:
        return False
    with bpy.context.temp_override(window=windows[0]):
        now = boxes_of(bpy.context, lambda obj: True, MAX_NEIGHBORS)
    changed = not np.array_equal(now, _neighbors)
    _neighbors = now
    return changed


def draw() -> None:
    """Called by Blender for each 3D view."""
    context = bpy.context
    if not context.scene.recdreamer.show_target or not context.space_data.overlay.show_overlays:
        return
    target = shown_target(context)
    if target is not None:
        draw_lines(box_lines(target).astype(np.float32), (*COLOR, 0.8), 2.0)


def changes_height(context: bpy.types.Context) -> bool:
    """True if the height that is asked for is that of the box."""
    settings = context.scene.recdreamer
    return settings.show_target and not settings.start.keeps_size and shown_target(context) is not None


def arrow_place(target: Target) -> Matrix:
    """Matrix of the arrow without its offset: on the middle of the base of the box, along its own Z."""
    middle = (target.low + target.high) / 2
    middle[2] = target.low[2]
    location = target.world[:3, :3] @ middle + target.world[:3, 3]
    _, rotation, _ = Matrix(target.world.tolist()).decompose()
    return Matrix.LocRotScale(location.tolist(), rotation, (1, 1, 1))


class RECDREAMER_GGT_height(bpy.types.GizmoGroup):
    bl_idname = "RECDREAMER_GGT_height"
    bl_label = "Height of the Result"
    bl_space_type = "VIEW_3D"
    bl_region_type = "WINDOW"
    bl_options = {"3D", "PERSISTENT"}

    @classmethod
    def poll(cls, context):
        return changes_height(context)

    def setup(self, context):
        self.arrow = self.gizmos.new("GIZMO_GT_arrow_3d")
        self.arrow.target_set_handler("offset", get=_get_height, set=_set_height)
        self.arrow.color, self.arrow.alpha = COLOR, 0.8
        self.arrow.color_highlight, self.arrow.alpha_highlight = HIGHLIGHT, 1.0
        self.arrow.line_width = 3
        compat.let_undo(self.arrow)
        self.arrow.length = 0.3

    def draw_prepare(self, context):
        target = shown_target(context)
        if target is not None:
            self.arrow.matrix_basis = arrow_place(target)


def _scale() -> float:
    """Units of the world in which the box is higher than it says, because it stands on a scaled empty."""
    target = shown_target(bpy.context)
    if target is None:
        return 1.0
    return float(np.linalg.norm(target.world[:3, 2])) * metres_per_unit(bpy.context.scene)


def _get_height() -> float:
    return bpy.context.scene.recdreamer.height * _scale()


def _set_height(offset: float) -> None:
    bpy.context.scene.recdreamer.height = offset / max(_scale(), 1e-9)
    compat.note_drag("Height")
    if bpy.context.area is not None:
        bpy.context.area.tag_redraw()  # The sidebar shows the number.


def register() -> None:
    global _handle
    bpy.utils.register_class(RECDREAMER_GGT_height)
    _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_VIEW")
    session.on_tick += [look, compat.push_drag]


def unregister() -> None:
    global _handle, _neighbors
    for act in (look, compat.push_drag):
        session.on_tick.remove(act)
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle, _neighbors = None, np.empty((0, 2, 3))
    bpy.utils.unregister_class(RECDREAMER_GGT_height)
