"""Operators on the cards of the template shelf: recapture, mirror, remove."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import IntProperty

from ...backend.recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, RequestError
from .. import describe
from ..jobs.registry import writable_folder
from ..properties import RecDreamerTemplate, templates_folder
from ..shelf import captures
from .guarded import GuardedOperator, why_not


class ShelfOperator(GuardedOperator, bpy.types.Operator):
    """Base of operators that change the shelf. An error leaves the shelf unchanged."""

    bl_options = {"REGISTER", "UNDO"}


class CaptureOperator(ShelfOperator):
    """Base of operators that make pictures for the shelf."""

    def run(self, context):
        self.capture(context, writable_folder(templates_folder()))

    def capture(self, context: bpy.types.Context, folder: Path) -> None:
        raise NotImplementedError


def add_template(
    context: bpy.types.Context, path: Path, label: str, source: str, view: captures.View | None = None
) -> RecDreamerTemplate:
    """Add a picture from the templates folder to the shelf."""
    template = context.scene.recdreamer.templates.add()
    template.image, template.label, template.source = path.name, label, source
    if view is not None:
        set_view(template, view)
    return template


def set_view(template: RecDreamerTemplate, view: captures.View) -> None:
    """Replace the picture and camera of a template; its label, weight and source do not change."""
    template.image = view.path.name
    template.has_camera, template.camera = True, view.camera
    template.azimuth_deg = -view.azimuth_deg % 360 if template.mirrored else view.azimuth_deg
    template.elevation_deg = view.elevation_deg


def first_free_label(context: bpy.types.Context) -> str:
    """A default label for a picture of unknown pose."""
    used = {template.label for template in context.scene.recdreamer.templates}
    return next((label for label in CLASS_AZIMUTHS_DEG if label not in used), "front")


class CardOperator:
    """Base of operators on one card."""

    index: IntProperty(name="Card", description="Position on the shelf, starting at 0", options={"SKIP_SAVE"})

    def find(self, context: bpy.types.Context) -> RecDreamerTemplate:
        """The template of the card. Raises RequestError if there is none."""
        shelf = context.scene.recdreamer.templates
        if not 0 <= self.index < len(shelf):
            raise RequestError(f"There is no template {self.index}.", "Choose a template on the shelf.")
        return shelf[self.index]


class RECDREAMER_OT_redo_template(CardOperator, CaptureOperator):
    """Capture this template again with the current selection, from its own camera or else the current view"""

    bl_idname = "recdreamer.redo_template"
    bl_label = "Recapture"

    def capture(self, context, folder):
        template = self.find(context)
        camera, front_deg = template.camera, context.scene.recdreamer.front_deg
        if camera and template.source == "turntable":
            view = captures.recapture_turntable(context, folder, camera, template.look, front_deg)
        else:
            is_sketch = camera is not None and template.source == "sketch"
            view = captures.capture_view(
                context, folder, front_deg=front_deg, camera=camera, is_sketch=is_sketch
            )
        if camera is None:
            template.source, template.mirrored = "viewport", False
        set_view(template, view)


class RECDREAMER_OT_mirror_template(CardOperator, ShelfOperator):
    """Add a mirrored copy for the opposite side: a left view becomes a right one"""

    bl_idname = "recdreamer.mirror_template"
    bl_label = "Mirror"

    def run(self, context):
        self.find(context)
        shelf = context.scene.recdreamer.templates
        # Adding a card moves the others in memory, so look up the original afterwards.
        copy = shelf.add()
        original = shelf[self.index]
        for name in ("image", "source", "weight", "has_camera", "elevation_deg", "c2w", "projection", "look"):
            setattr(copy, name, getattr(original, name))
        copy.label = describe.OPPOSITE_SIDE.get(original.label, original.label)
        copy.mirrored = not original.mirrored
        copy.azimuth_deg = -original.azimuth_deg % 360
        shelf.move(len(shelf) - 1, self.index + 1)


class RECDREAMER_OT_remove_template(CardOperator, ShelfOperator):
    """Remove this template from the shelf"""

    bl_idname = "recdreamer.remove_template"
    bl_label = "Remove Template"

    def run(self, context):
        self.find(context)
        context.scene.recdreamer.templates.remove(self.index)


class RECDREAMER_OT_move_template(CardOperator, ShelfOperator):
    """Move this template to another place on the shelf"""

    bl_idname = "recdreamer.move_template"
    bl_label = "Move Template"

    by: IntProperty(name="Places", description="Places to move down, or up if it is negative", default=1)

    def run(self, context):
        self.find(context)
        shelf = context.scene.recdreamer.templates
        shelf.move(self.index, max(0, min(self.index + self.by, len(shelf) - 1)))


class RECDREAMER_OT_fly_to_template(CardOperator, GuardedOperator, bpy.types.Operator):
    """Look at the scene from the camera of this template"""

    bl_idname = "recdreamer.fly_to_template"
    bl_label = "Fly to Camera"

    @classmethod
    def poll(cls, context):
        is_view = getattr(context.space_data, "type", "") == "VIEW_3D"
        return why_not(cls, "" if is_view else "Press the button in a 3D view's sidebar.")

    def run(self, context):
        camera = self.find(context).camera
        if camera is None:
            return "The camera of this template is not known. Only captured pictures have one."
        captures.fly_to(context, camera)
        return ""


class RECDREAMER_OT_remove_missing_templates(ShelfOperator):
    """Remove all templates whose pictures are not on this computer"""

    bl_idname = "recdreamer.remove_missing_templates"
    bl_label = "Remove Missing"

    def run(self, context):
        shelf = context.scene.recdreamer.templates
        for index in reversed(range(len(shelf))):
            if shelf[index].is_missing:
                shelf.remove(index)


class RECDREAMER_OT_clear_templates(ShelfOperator):
    """Remove all templates from the shelf"""

    bl_idname = "recdreamer.clear_templates"
    bl_label = "Remove All Templates"

    def run(self, context):
        context.scene.recdreamer.templates.clear()


CLASSES = (
    RECDREAMER_OT_redo_template,
    RECDREAMER_OT_mirror_template,
    RECDREAMER_OT_remove_template,
    RECDREAMER_OT_move_template,
    RECDREAMER_OT_fly_to_template,
    RECDREAMER_OT_remove_missing_templates,
    RECDREAMER_OT_clear_templates,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
