"""Sources of templates: the view, a turntable, files, the clipboard, Grease Pencil."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import bpy
import numpy as np
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    StringProperty,
)

from ...backend.recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, MAX_CLASSES, MIN_CLASSES, RequestError
from .. import describe
from ..jobs.registry import writable_folder
from ..properties import templates_folder
from ..shelf import captures, pictures
from ..shelf.studio import LOOKS
from ..start.fingerprint import digest
from .cards import CaptureOperator, ShelfOperator, add_template, first_free_label

SUBJECTS = (
    ("SELECTED", "Selected Objects", "The selected objects and their children"),
    ("COLLECTION", "Active Collection", "All objects in the active collection"),
)
FRONTS = (
    ("0", "-Y", "The front faces -Y, toward the view of Numpad 1"),
    ("90", "+X", "The front faces +X"),
    ("180", "+Y", "The front faces +Y"),
    ("270", "-X", "The front faces -X"),
    ("VIEW", "This View", "The front is the side that this view shows"),
)
STEEPEST_DEG = 85.0
"""Limit for turntable cameras: at the pole, front and back cannot be distinguished."""


class RECDREAMER_OT_set_front(ShelfOperator):
    """Choose which side of the object is its front"""

    bl_idname = "recdreamer.set_front"
    bl_label = "Set Front"

    direction: EnumProperty(name="Front", items=FRONTS)

    def run(self, context):
        if self.direction == "VIEW":
            front_deg, _ = captures.direction_of(captures.current_camera(context).c2w)
        else:
            front_deg = float(self.direction)
        context.scene.recdreamer.front = math.radians(front_deg)


class RECDREAMER_OT_capture_view(CaptureOperator):
    """Capture this 3D view as a template: the selected objects alone, or everything if none is selected"""

    bl_idname = "recdreamer.capture_view"
    bl_label = "Capture View"

    def capture(self, context, folder):
        view = captures.capture_view(context, folder, front_deg=context.scene.recdreamer.front_deg)
        add_template(context, view.path, describe.nearest_label(view.azimuth_deg), "viewport", view)


class RECDREAMER_OT_capture_sketch(CaptureOperator):
    """Capture the Grease Pencil drawing in this view as a sketch. Areas enclosed by lines become the object"""

    bl_idname = "recdreamer.capture_sketch"
    bl_label = "Capture Grease Pencil"

    def capture(self, context, folder):
        front_deg = context.scene.recdreamer.front_deg
        view = captures.capture_view(context, folder, front_deg=front_deg, is_sketch=True)
        add_template(context, view.path, describe.nearest_label(view.azimuth_deg), "sketch", view)


class RECDREAMER_OT_capture_turntable(CaptureOperator):
    """Render the object from all sides and add the pictures as templates"""

    bl_idname = "recdreamer.capture_turntable"
    bl_label = "Turntable"

    subject: EnumProperty(name="Subject", items=SUBJECTS)
    look: EnumProperty(name="Look", items=LOOKS)
    num_views: IntProperty(
        name="Views",
        description="Number of views, evenly spaced around the object",
        default=4,
        min=MIN_CLASSES,
        max=MAX_CLASSES,
    )
    num_elevations: IntProperty(
        name="Elevations", description="Number of camera heights for each side", default=1, min=1, max=3
    )
    elevation: FloatProperty(
        name="Elevation",
        description="Angle of the camera above the horizon; with several elevations, the middle one",
        subtype="ANGLE",
        default=math.radians(10),
        min=math.radians(-60),
        max=math.radians(80),
    )
    elevation_step: FloatProperty(
        name="Step",
        description="Angle from one elevation to the next",
        subtype="ANGLE",
        default=math.radians(25),
        min=math.radians(5),
        max=math.radians(60),
    )

    def invoke(self, context, event):
        """Ask first: in the panel of the last operation nobody finds these options."""
        return context.window_manager.invoke_props_dialog(self, confirm_text="Render")

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        for name in ("subject", "look", "num_views", "num_elevations", "elevation"):
            layout.prop(self, name)
        if self.num_elevations > 1:
            layout.prop(self, "elevation_step")

    def capture(self, context, folder):
        if self.subject == "SELECTED":
            objects = context.selected_objects
        else:
            objects = context.collection.all_objects
        azimuths_deg = [360 / self.num_views * index for index in range(self.num_views)]
        objects = captures.subjects_of_turntable(objects, context)
        add_turntable(context, objects, azimuths_deg, self._elevations_deg(), self.look)

    def _elevations_deg(self) -> list[float]:
        """Elevations around the middle one, lowest first."""
        middle_deg, step_deg = math.degrees(self.elevation), math.degrees(self.elevation_step)
        rows = (index - (self.num_elevations - 1) / 2 for index in range(self.num_elevations))
        return [max(-STEEPEST_DEG, min(STEEPEST_DEG, middle_deg + row * step_deg)) for row in rows]


def add_turntable(
    context: bpy.types.Context,
    objects: Sequence[bpy.types.Object],
    azimuths_deg: Sequence[float] = tuple(CLASS_AZIMUTHS_DEG.values()),
    elevations_deg: Sequence[float] = (10.0,),
    look: str = "SOLID",
) -> None:
    """Add a turntable of the objects to the shelf. Raises RequestError."""
    folder = writable_folder(templates_folder())
    front_deg = context.scene.recdreamer.front_deg
    for view in captures.capture_turntable(
        objects, azimuths_deg, elevations_deg, context, folder, front_deg=front_deg, look=look
    ):
        label = describe.turntable_label(view.azimuth_deg)
        add_template(context, view.path, label, "turntable", view).look = look


def renew_turntable(
    context: bpy.types.Context, objects: Sequence[bpy.types.Object], start_mesh: bytes
) -> bool:
    """Refresh the automatic turntable if the start mesh changed. Returns True if it was captured again.

    `start_mesh` is the START_MESH of the objects. Raises RequestError.
    """
    settings = context.scene.recdreamer
    shelf, in_use = settings.templates, settings.enabled_templates
    with np.load(io.BytesIO(start_mesh), allow_pickle=False) as arrays:
        taken_of = digest(arrays["verts"], arrays["faces"])
    if in_use and all(template.taken_of == taken_of for template in in_use):
        return False
    old = [index for index, template in enumerate(shelf) if template.taken_of]
    count = len(shelf)
    add_turntable(context, objects)
    for template in shelf[count:]:
        template.taken_of = taken_of
    for index in reversed(old):
        shelf.remove(index)
    return True


class RECDREAMER_OT_add_files(CaptureOperator):
    """Add image files as templates: photos, drawings or renders. Transparent pixels are background"""

    bl_idname = "recdreamer.add_files"
    bl_label = "Add Files"

    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    are_sketches: BoolProperty(
        name="Sketches",
        description="The files are drawings, not photos or renders",
        options={"SKIP_SAVE"},
    )
    filter_image: BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def capture(self, context, folder):
        sources = [Path(self.directory) / item.name for item in self.files if item.name]
        if not sources:
            raise RequestError("No file was chosen.", "Choose one or more image files.")
        problems = []
        for source in sources:
            try:
                path = pictures.import_picture(source, folder)
            except RequestError as error:
                problems.append(error)
                continue
            label = describe.label_of_file(source.stem) or first_free_label(context)
            add_template(context, path, label, "sketch" if self.are_sketches else "file")
        if len(problems) == len(sources):
            *others, last = problems
            raise RequestError(" ".join([*map(str, others), last.message]), last.hint)
        for problem in problems:
            self.tell("WARNING", str(problem))


class RECDREAMER_OT_paste_picture(CaptureOperator):
    """Add the picture on the clipboard, or the image file whose path was copied, as a template"""

    bl_idname = "recdreamer.paste_picture"
    bl_label = "Paste"

    def capture(self, context, folder):
        path = _file_on_clipboard(context)
        if path is not None:
            picture = pictures.import_picture(path, folder)
        else:
            with _pasted_image(context) as image:
                picture = pictures.import_image(image, "on the clipboard", folder)
        label = describe.label_of_file(path.stem) if path else ""
        add_template(context, picture, label or first_free_label(context), "clipboard")


def _file_on_clipboard(context: bpy.types.Context) -> Path | None:
    """The file whose path or URL was copied, or None."""
    text = context.window_manager.clipboard.strip().strip('"')
    if text.startswith("file:"):
        text = url2pathname(urlparse(text.split()[0]).path)
    try:
        return Path(text) if text and Path(text).is_file() else None
    except OSError:  # The text is too long for a path.
        return None


@contextmanager
def _pasted_image(context: bpy.types.Context) -> Iterator[bpy.types.Image]:
    """The picture on the clipboard, removed afterwards. Raises RequestError if Blender gets none."""
    area = context.area
    if area is None:
        raise RequestError("Without a window there is no clipboard.", "Add the picture from a file.")
    before, area_type = set(bpy.data.images), area.ui_type
    try:
        # Blender can paste pictures only in an Image Editor.
        area.ui_type = "IMAGE_EDITOR"
        with context.temp_override(area=area, region=area.regions[-1]):
            bpy.ops.image.clipboard_paste()
    except RuntimeError:
        pass  # There is no picture, or this desktop does not let Blender read it.
    finally:
        area.ui_type = area_type
    images = set(bpy.data.images) - before
    if not images:
        raise RequestError(
            "There is no picture on the clipboard that Blender can read.",
            "Copy a picture, or add it from a file.",
        )
    try:
        yield next(iter(images))
    finally:
        bpy.data.batch_remove(images)


CLASSES = (
    RECDREAMER_OT_set_front,
    RECDREAMER_OT_capture_view,
    RECDREAMER_OT_capture_sketch,
    RECDREAMER_OT_capture_turntable,
    RECDREAMER_OT_add_files,
    RECDREAMER_OT_paste_picture,
)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
