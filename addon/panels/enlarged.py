"""Earlier previews of a job by a slider, and the preview shown there enlarged in the 3D view."""

from __future__ import annotations

from pathlib import Path

import bpy
import gpu
import numpy as np
from bpy.props import EnumProperty, FloatProperty
from gpu_extras.presets import draw_texture_2d

from ...backend.recdreamer.shared.protocol import PREVIEW_SUFFIXES
from ..jobs.registry import Job
from ..operators.guarded import STATES, GuardedOperator, switched, why_not
from ..pictures import previews
from ..session import session

PLACE_PX, LARGEST_PX, SHARE = (70, 40), 2 * previews.VIEW_PX, 0.7
"""Lower left corner of the enlarged picture; its side at a scale of 1, which shows a view pixel by pixel; and its share
of the region's shorter side at most."""
_pixels: tuple[Path, np.ndarray] | None = None
"""The enlarged picture, `height width 4`, bottom row first."""
_copied_into: list[np.ndarray] = []
_texture: tuple[Path, gpu.types.GPUTexture] | None = None
_handle = None


def previews_of(job: Job) -> list[Path]:
    """All previews of a job, oldest first."""
    try:
        files = (job.folder.root / "previews").iterdir()
        paths = [path for path in files if path.suffix in PREVIEW_SUFFIXES and not path.is_symlink()]
        return sorted(paths, key=lambda path: (path.lstat().st_mtime_ns, path.name))
    except OSError:
        return []


def shown_preview(job: Job) -> Path | None:
    """The preview that the slider chooses; at its end the newest one."""
    job_id, path = session.scrubbed
    return path if path is not None and job_id == job.id else job.preview


def _scrub(manager: bpy.types.WindowManager, context: bpy.types.Context) -> None:
    """Find the preview at the place of the slider. Here, because a draw must not read a folder."""
    job = session.shown
    session.scrubbed = ("", None)
    if job is None or manager.recdreamer_preview >= 1:
        return
    paths = previews_of(job)
    if paths:
        session.scrubbed = (job.id, paths[int(manager.recdreamer_preview * len(paths))])


def load() -> bool:
    """Read the picture to enlarge, if it is another one. True if it is. Called by the timer."""
    global _pixels
    path = session.scrubbed[1]
    if path is not None and not path.exists():  # The worker keeps fewer pictures of a long stage.
        _scrub(bpy.context.window_manager, bpy.context)
    job = session.shown if session.is_enlarged else None
    path = shown_preview(job) if job is not None else None
    if path is None or (_pixels is not None and _pixels[0] == path):
        return False
    pixels = previews.pixels_of(path)
    if pixels is None:
        return False
    own = previews.reused(_copied_into, pixels.shape)
    np.copyto(own, pixels)
    _pixels = (path, own)
    return True


def draw() -> None:
    """Called by Blender for each 3D view."""
    global _texture
    if not session.is_enlarged or _pixels is None:
        return
    path, pixels = _pixels
    height, width = pixels.shape[:2]
    if _texture is None or _texture[0] != path:
        data = gpu.types.Buffer("FLOAT", pixels.size, np.ascontiguousarray(pixels).ravel())
        _texture = (path, gpu.types.GPUTexture((width, height), format="RGBA16F", data=data))
    region = bpy.context.region
    side = min(LARGEST_PX * bpy.context.preferences.system.ui_scale, SHARE * min(region.width, region.height))
    draw_texture_2d(
        _texture[1], PLACE_PX, side * width / max(width, height), side * height / max(width, height)
    )


class RECDREAMER_OT_enlarge(GuardedOperator, bpy.types.Operator):
    """Show the preview large in the 3D view, or hide it again"""

    bl_idname = "recdreamer.enlarge"
    bl_label = "Enlarge"

    state: EnumProperty(name="State", items=STATES, options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context):
        job = session.shown
        return why_not(cls, "" if job is not None and job.preview is not None else "There is no preview yet.")

    def run(self, context):
        session.is_enlarged = switched(self.state, session.is_enlarged)
        load()
        for window in context.window_manager.windows:
            for area in window.screen.areas:
                if area.type == "VIEW_3D":
                    area.tag_redraw()


def register() -> None:
    global _handle
    bpy.utils.register_class(RECDREAMER_OT_enlarge)
    bpy.types.WindowManager.recdreamer_preview = FloatProperty(
        name="Earlier",
        description="Which preview is shown: the newest one at the right end",
        subtype="FACTOR",
        default=1.0,
        min=0.0,
        max=1.0,
        update=_scrub,
        options={"SKIP_SAVE"},
    )
    _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL")
    session.on_tick.append(load)


def unregister() -> None:
    global _handle, _pixels, _texture
    session.on_tick.remove(load)
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = _pixels = _texture = None
    _copied_into.clear()
    del bpy.types.WindowManager.recdreamer_preview
    bpy.utils.unregister_class(RECDREAMER_OT_enlarge)
