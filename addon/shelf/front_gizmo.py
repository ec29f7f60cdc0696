"""An arrow in the 3D view for the front of the object, with a ring to turn it."""

from __future__ import annotations

import math

import bpy
from mathutils import Matrix, Vector

from .. import compat

COLOR = (1.0, 0.65, 0.1)
HIGHLIGHT = (1.0, 0.85, 0.5)


def place_of_front(context: bpy.types.Context) -> Vector:
    """Center of the base of the selected objects, else the 3D cursor."""
    corners = [
        obj.matrix_world @ Vector(corner) for obj in context.selected_objects for corner in obj.bound_box
    ]
    if not corners:
        return context.scene.cursor.location.copy()
    low, high = (Vector(map(end, zip(*corners, strict=True))) for end in (min, max))
    return Vector(((low.x + high.x) / 2, (low.y + high.y) / 2, low.z))


def arrow_matrix(place: Vector, front: float) -> Matrix:
    """Matrix of the arrow: it points along its own Z, and the angle 0 is -Y."""
    return Matrix.Translation(place) @ Matrix.Rotation(front, 4, "Z") @ Matrix.Rotation(math.pi / 2, 4, "X")


class RECDREAMER_GGT_front(bpy.types.GizmoGroup):
    bl_idname = "RECDREAMER_GGT_front"
    bl_label = "Front of the Object"
    bl_space_type = "VIEW_3D"
    bl_region_type = "WINDOW"
    bl_options = {"3D", "PERSISTENT"}

    @classmethod
    def poll(cls, context):
        return context.scene.recdreamer.show_front

    def setup(self, context):
        self.ring = self.gizmos.new("GIZMO_GT_dial_3d")
        self.ring.target_set_handler("offset", get=_get_front, set=_set_front)
        self.arrow = self.gizmos.new("GIZMO_GT_arrow_3d")
        self.arrow.hide_select = True  # Only the ring reacts to the mouse.
        for gizmo in (self.ring, self.arrow):
            gizmo.color, gizmo.alpha = COLOR, 0.8
            gizmo.color_highlight, gizmo.alpha_highlight = HIGHLIGHT, 1.0
            gizmo.line_width = 3
            compat.let_undo(gizmo)

    def draw_prepare(self, context):
        place = place_of_front(context)
        self.ring.matrix_basis = Matrix.Translation(place)
        self.arrow.matrix_basis = arrow_matrix(place, context.scene.recdreamer.front)


# A dial counts clockwise when seen against its axis.
def _get_front() -> float:
    return -bpy.context.scene.recdreamer.front


def _set_front(angle: float) -> None:
    bpy.context.scene.recdreamer.front = -angle % math.tau
    compat.note_drag("Front")
    if bpy.context.area is not None:
        bpy.context.area.tag_redraw()  # The sidebar shows the number.


def register() -> None:
    bpy.utils.register_class(RECDREAMER_GGT_front)


def unregister() -> None:
    bpy.utils.unregister_class(RECDREAMER_GGT_front)
