"""Say before Generate what becomes of an object that is too costly to evaluate whenever the panel is drawn."""

from __future__ import annotations

import bpy

from ..start import fitness
from .guarded import GuardedOperator, why_not


class RECDREAMER_OT_check_start(GuardedOperator, bpy.types.Operator):
    """Evaluate the object with its Geometry Nodes and instances as Generate does, and show what becomes of it"""

    bl_idname = "recdreamer.check_start"
    bl_label = "Check Object"

    @classmethod
    def poll(cls, context):
        start = context.scene.recdreamer.start
        return why_not(cls, "" if start.needs_object and start.has_usable_object else "Pick an object first.")

    def run(self, context):
        start = context.scene.recdreamer.start
        fitness.check(start.objects, start.kind, context)


CLASSES = (RECDREAMER_OT_check_start,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
