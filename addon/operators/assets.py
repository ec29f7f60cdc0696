"""Mark a result as an asset, with a picture from its job."""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import StringProperty

from .. import describe
from ..objects.object_keys import job_of
from ..session import session
from .guarded import GuardedOperator, why_not
from .jobs import NO_ACTIVE_RESULT

SIZE_PX = 256


class RECDREAMER_OT_mark_asset(GuardedOperator, bpy.types.Operator):
    """Put the active result into the Asset Browser, with a picture, the prompt as its description, and tags"""

    bl_idname = "recdreamer.mark_asset"
    bl_label = "Mark as Asset"
    bl_options = {"REGISTER", "UNDO"}

    tags: StringProperty(
        name="Tags", description="Words to find it by, separated by commas. Empty: those of the prompt"
    )

    @classmethod
    def poll(cls, context):
        return why_not(cls, "" if job_of(context.object) else NO_ACTIVE_RESULT)

    def run(self, context):
        obj = context.object
        prompt = str(obj.get("recdreamer_prompt", obj.name))
        obj.asset_mark()
        obj.asset_data.description = describe.one_line(prompt, 200)
        words = self.tags.split(",") if self.tags else [word for word in prompt.split() if len(word) > 2]
        for word in words:
            tag = describe.one_line(word, 60)
            if tag:
                obj.asset_data.tags.new(tag, skip_if_exists=True)
        job = session.registry.find(job_of(obj))
        if job is not None and job.preview is not None:
            set_picture(obj, first_view(str(job.preview)))
        else:
            obj.asset_generate_preview()
        self.tell("INFO", f"{obj.name!r} is an asset of this file.")


def first_view(path: str) -> np.ndarray:
    """The first picture of a strip of views, `SIZE_PX SIZE_PX 4`, rows from the bottom."""
    image = bpy.data.images.load(path)
    try:
        width, height = image.size
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    side = max(1, min(width, height))
    rows, columns = (np.arange(SIZE_PX) * side // SIZE_PX for _ in range(2))
    return pixels.reshape(height, width, 4)[rows][:, columns]


def set_picture(data: bpy.types.ID, pixels: np.ndarray) -> None:
    """Use a square picture as the preview of a datablock."""
    preview = data.preview_ensure()
    preview.image_size = pixels.shape[1::-1]
    preview.image_pixels_float.foreach_set(np.ascontiguousarray(pixels, np.float32).ravel())


CLASSES = (RECDREAMER_OT_mark_asset,)
register, unregister = bpy.utils.register_classes_factory(CLASSES)
