"""What the artist does with the template shelf."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
from bpy.props import CollectionProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from ..backend.recdreamer.protocol import CLASS_AZIMUTHS_DEG, MAX_CLASSES, MIN_CLASSES, RequestError
from . import describe, templates
from .jobs import writable_folder
from .properties import RecDreamerTemplate, templates_folder

SUBJECTS = (
    ("SELECTED", "Selected Objects", "The selected objects and their children"),
    ("COLLECTION", "Active Collection", "All objects of the active collection"),
)
FRONTS = (
    ("0", "-Y", "The front looks along -Y, as Blender's numpad 1 sees it"),
    ("90", "+X", "The front looks along +X"),
    ("180", "+Y", "The front looks along +Y"),
    ("270", "-X", "The front looks along -X"),
)


class TemplateOperator(bpy.types.Operator):
    """Adds templates; trouble is reported in one sentence and leaves the shelf as it was."""

    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        try:
            self.capture(context, writable_folder(templates_folder()))
        except RequestError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}

    def capture(self, context: bpy.types.Context, folder: Path) -> None:
        raise NotImplementedError


class RECDREAMER_OT_capture_view(TemplateOperator):
    """Take what this 3D view shows as a template"""

    bl_idname = "recdreamer.capture_view"
    bl_label = "Capture View"

    def capture(self, context, folder):
        view = templates.capture_view(context, folder)
        _add(context, view.path, describe.nearest_label(view.azimuth_deg), "viewport", view)


class RECDREAMER_OT_capture_turntable(TemplateOperator):
    """Render the object from all around and take the pictures as templates"""

    bl_idname = "recdreamer.capture_turntable"
    bl_label = "Turntable"

    subject: EnumProperty(name="Subject", items=SUBJECTS)
    num_views: IntProperty(
        name="Views", description="Evenly around the object", default=4, min=MIN_CLASSES, max=MAX_CLASSES
    )
    elevation: FloatProperty(
        name="Elevation",
        description="Height of the camera above the horizon",
        subtype="ANGLE",
        default=math.radians(10),
        min=math.radians(-60),
        max=math.radians(80),
    )
    front: EnumProperty(name="Front", description="Which way the object's front looks", items=FRONTS)

    def capture(self, context, folder):
        if self.subject == "SELECTED":
            objects = context.selected_objects
        else:
            objects = context.collection.all_objects
        views = templates.capture_turntable(
            list(objects),
            [360 / self.num_views * index for index in range(self.num_views)],
            math.degrees(self.elevation),
            context,
            folder,
            front_deg=float(self.front),
        )
        for view in views:
            _add(context, view.path, describe.turntable_label(view.azimuth_deg), "turntable", view)


class RECDREAMER_OT_add_files(TemplateOperator):
    """Take image files as templates: photographs, drawings, renders. Alpha is the mask"""

    bl_idname = "recdreamer.add_files"
    bl_label = "From Files"

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def capture(self, context, folder):
        names = [item.name for item in self.files if item.name]
        if not names:
            raise RequestError("No file was chosen.", "Choose one or more image files.")
        sources = [Path(self.directory) / name for name in names]
        copies = [templates.import_picture(source, folder) for source in sources]
        for source, copy in zip(sources, copies, strict=True):
            _add(context, copy, describe.label_of_file(source.stem) or _first_free_label(context), "file")


class RECDREAMER_OT_mirror_template(bpy.types.Operator):
    """Add the mirrored picture as the other side: a left view becomes a right one"""

    bl_idname = "recdreamer.mirror_template"
    bl_label = "Mirror"
    bl_options = {"REGISTER", "UNDO"}

    index: IntProperty(options={"SKIP_SAVE"})

    def execute(self, context):
        shelf = context.scene.recdreamer.templates
        if not 0 <= self.index < len(shelf):
            self.report({"ERROR"}, f"There is no template {self.index}")
            return {"CANCELLED"}
        copy = shelf.add()
        original = shelf[self.index]
        for name in ("image", "source", "has_camera", "elevation_deg"):
            setattr(copy, name, getattr(original, name))
        copy.label = describe.OPPOSITE_SIDE.get(original.label, original.label)
        copy.mirrored = not original.mirrored
        copy.azimuth_deg = -original.azimuth_deg % 360
        shelf.move(len(shelf) - 1, self.index + 1)
        return {"FINISHED"}


class RECDREAMER_OT_remove_template(bpy.types.Operator):
    """Take this template off the shelf"""

    bl_idname = "recdreamer.remove_template"
    bl_label = "Remove Template"
    bl_options = {"REGISTER", "UNDO"}

    index: IntProperty(options={"SKIP_SAVE"})

    def execute(self, context):
        shelf = context.scene.recdreamer.templates
        if not 0 <= self.index < len(shelf):
            self.report({"ERROR"}, f"There is no template {self.index}")
            return {"CANCELLED"}
        shelf.remove(self.index)
        return {"FINISHED"}


class RECDREAMER_OT_clear_templates(bpy.types.Operator):
    """Empty the shelf"""

    bl_idname = "recdreamer.clear_templates"
    bl_label = "Remove All Templates"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.recdreamer.templates.clear()
        return {"FINISHED"}


def _add(
    context: bpy.types.Context, path: Path, label: str, source: str, view: templates.View | None = None
) -> RecDreamerTemplate:
    template = context.scene.recdreamer.templates.add()
    template.image, template.label, template.source = path.name, label, source
    if view is not None:
        template.has_camera = True
        template.azimuth_deg, template.elevation_deg = view.azimuth_deg, view.elevation_deg
    return template


def _first_free_label(context: bpy.types.Context) -> str:
    used = {template.label for template in context.scene.recdreamer.templates}
    return next((label for label in CLASS_AZIMUTHS_DEG if label not in used), "front")


CLASSES = (
    RECDREAMER_OT_capture_view,
    RECDREAMER_OT_capture_turntable,
    RECDREAMER_OT_add_files,
    RECDREAMER_OT_mirror_template,
    RECDREAMER_OT_remove_template,
    RECDREAMER_OT_clear_templates,
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
