"""Pose templates from the scene: 3D views, turntables of objects, and Grease Pencil drawings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy
import gpu
import numpy as np
from mathutils import Matrix, Vector

from ...backend.recdreamer.shared.protocol import RequestError
from .. import compat
from ..objects.object_keys import LIVE_KEY
from .pictures import fill_outline, load_pixels, new_picture, save_png
from .studio import (
    FOV_DEG,
    GREASE_PENCIL,
    RENDERABLE,
    SIZE_PX,
    bounding_sphere,
    place_camera,
    render,
    studio,
)


@dataclass(frozen=True)
class Camera:
    """The camera of a picture, complete enough to capture it again."""

    c2w: Matrix
    projection: Matrix
    """For a square picture."""


@dataclass(frozen=True)
class View:
    """A picture and its camera."""

    path: Path
    camera: Camera
    azimuth_deg: float
    """Counter-clockwise seen from above, 0 = the front."""
    elevation_deg: float


def capture_view(
    context: bpy.types.Context,
    folder: Path,
    *,
    front_deg: float = 0.0,
    camera: Camera | None = None,
    is_sketch: bool = False,
) -> View:
    """Capture the 3D view or, without a window, the view of the scene's camera.

    Shows only the subjects, without overlays and background, in the central square of the region. `camera` replaces
    that of the view; `is_sketch` shows only Grease Pencil, on white paper. Raises RequestError if nothing is in it.
    """
    camera = camera or current_camera(context)
    objects = subjects(context, GREASE_PENCIL if is_sketch else RENDERABLE)
    path = new_picture(folder)
    if compat.can_draw_offscreen():
        with _alone(objects, context):
            save_png(_draw_view(context, camera), path)
    else:
        with studio(objects, context) as scene:
            place_camera(scene, camera.c2w, bounding_sphere(scene), camera.projection)
            render(scene, path)
    pixels = load_pixels(path)
    if not pixels[..., 3].any():
        path.unlink()
        raise RequestError(
            "There is nothing in the middle of this view.",
            "Move the view to the object, or select another one.",
        )
    if is_sketch:
        save_png(fill_outline(pixels), path)
    return View(path, camera, *direction_of(camera.c2w, front_deg))


def subjects_of_turntable(
    objects: Iterable[bpy.types.Object], context: bpy.types.Context
) -> list[bpy.types.Object]:
    """The visible ones of the objects and their children. Raises RequestError if there are none."""
    found = visible(_with_children(objects), context)
    if not found:
        raise RequestError(
            "Nothing is selected that can be rendered.",
            "Select an object, or set Subject to Active Collection.",
        )
    return found


def capture_turntable(
    objects: Iterable[bpy.types.Object],
    azimuths_deg: Sequence[float],
    elevations_deg: Sequence[float],
    context: bpy.types.Context,
    folder: Path,
    *,
    front_deg: float = 0.0,
    look: str = "SOLID",
    size_px: int = SIZE_PX,
) -> list[View]:
    """Render only the objects from all sides, at the same scale in each view.

    `front_deg` is the direction of the front: 0 is -Y, 90 is +X. `look` is one of studio.LOOKS. Raises
    RequestError if there is nothing to see.
    """
    views = []
    with studio(objects, context, look, size_px) as scene:
        center, radius = bounding_sphere(scene)
        distance = radius / math.sin(math.radians(FOV_DEG) / 2)
        for azimuth_deg in azimuths_deg:
            for elevation_deg in elevations_deg:
                c2w = orbit_c2w(azimuth_deg + front_deg, elevation_deg, distance, center)
                place_camera(scene, c2w, (center, radius))
                path = new_picture(folder)
                render(scene, path)
                camera = Camera(c2w, _projection(scene.camera, context))
                views.append(View(path, camera, azimuth_deg % 360, elevation_deg))
    return views


def recapture_turntable(
    context: bpy.types.Context, folder: Path, camera: Camera, look: str, front_deg: float
) -> View:
    """Capture one view of a turntable again, from the same camera, with the current subjects."""
    path = new_picture(folder)
    with studio(subjects(context), context, look) as scene:
        place_camera(scene, camera.c2w, bounding_sphere(scene), camera.projection)
        render(scene, path)
    return View(path, camera, *direction_of(camera.c2w, front_deg))


def current_camera(context: bpy.types.Context) -> Camera:
    """The camera of the 3D view or, without a window, of the scene. Raises RequestError if there is none."""
    if not compat.can_draw_offscreen():
        if context.scene.camera is None:
            raise RequestError("The scene has no camera.", "Add one, or use the turntable.")
        return Camera(context.scene.camera.matrix_world.copy(), _projection(context.scene.camera, context))
    if getattr(context.space_data, "type", "") != "VIEW_3D":
        raise RequestError("There is no 3D view to capture.", "Press the button in a 3D view's sidebar.")
    region = _window_region(context)
    side = min(region.width, region.height)
    crop = Matrix.Diagonal((region.width / side, region.height / side, 1, 1))
    view = context.region_data
    return Camera(view.view_matrix.inverted(), crop @ view.window_matrix)


def fly_to(context: bpy.types.Context, camera: Camera) -> None:
    """Let the 3D view look from a camera: what its picture shows is in the central square of the region."""
    view, region = context.region_data, _window_region(context)
    is_orthographic = camera.projection[3][3] == 1
    view.view_perspective = "ORTHO" if is_orthographic else "PERSP"
    if is_orthographic:
        # A view that is not in perspective shows what one in perspective would at its distance.
        scale = camera.projection[0][0] * min(region.width, region.height) / max(region.width, region.height)
        view.view_distance = 2 * context.space_data.lens / (SENSOR_MM * scale)
    else:
        context.space_data.lens = lens_of(camera.projection[0][0], region.width, region.height)
    view.view_matrix = camera.c2w.inverted()
    view.update()


SENSOR_MM = 72.0
"""Of a 3D view, along the longer side of its region: twice that of a camera."""


def lens_of(scale: float, width: int, height: int) -> float:
    """Focal length in mm of a 3D view whose central square has a projection with this scale, 1 / tan(half its angle).

    >>> lens_of(2.0, 1000, 500)
    36.0
    """
    return SENSOR_MM / 2 * scale * min(width, height) / max(width, height)


def subjects(context: bpy.types.Context, kinds: set[str] = RENDERABLE) -> list[bpy.types.Object]:
    """Objects to capture: the selected ones with their children, else all visible ones.

    Raises RequestError if there are none.
    """
    chosen = visible(_with_children(context.selected_objects), context, kinds)
    chosen = chosen or visible(context.view_layer.objects, context, kinds)
    if not chosen and kinds is GREASE_PENCIL:
        raise RequestError(
            "There is no Grease Pencil drawing in view.",
            "Draw one, or add a picture of the sketch from a file.",
        )
    if not chosen:
        raise RequestError("Nothing visible to capture.", "Show an object, or add pictures from files.")
    return chosen


def visible(
    objects: Iterable[bpy.types.Object], context: bpy.types.Context, kinds: set[str] = RENDERABLE
) -> list[bpy.types.Object]:
    """The objects that the view shows, without duplicates; local view shows fewer than the view layer."""
    space = context.space_data
    viewport = space if getattr(space, "type", "") == "VIEW_3D" else None
    return [
        obj
        for obj in dict.fromkeys(objects)
        if LIVE_KEY not in obj
        and (obj.type in kinds or (obj.instance_type == "COLLECTION" and kinds is RENDERABLE))
        and obj.visible_get(view_layer=context.view_layer, viewport=viewport)
    ]


def orbit_c2w(azimuth_deg: float, elevation_deg: float, distance: float, center: Vector) -> Matrix:
    """Pose of a camera on a sphere around `center` that looks at it."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    toward_camera = Vector(
        (
            math.cos(elevation) * math.sin(azimuth),
            -math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        )
    )
    rotation = toward_camera.to_track_quat("Z", "Y").to_matrix().to_4x4()
    return Matrix.Translation(center + distance * toward_camera) @ rotation


def direction_of(c2w: Matrix, front_deg: float = 0.0) -> tuple[float, float]:
    """Azimuth from the front and elevation, in degrees, of a camera that looks down its -Z."""
    toward_camera = c2w.col[2].xyz.normalized()
    azimuth_deg = math.degrees(math.atan2(toward_camera.x, -toward_camera.y)) - front_deg
    return azimuth_deg % 360, math.degrees(math.asin(max(-1.0, min(1.0, toward_camera.z))))


def _with_children(objects: Iterable[bpy.types.Object]) -> list[bpy.types.Object]:
    objects = list(objects)
    return [*objects, *(child for obj in objects for child in obj.children_recursive)]


def _projection(camera: bpy.types.Object, context: bpy.types.Context) -> Matrix:
    return camera.calc_matrix_camera(context.evaluated_depsgraph_get(), x=SIZE_PX, y=SIZE_PX)


def _window_region(context: bpy.types.Context) -> bpy.types.Region:
    return next(region for region in context.area.regions if region.type == "WINDOW")


@contextmanager
def _alone(objects: list[bpy.types.Object], context: bpy.types.Context) -> Iterator[None]:
    """Hide all other visible objects, except lights, while a view is drawn."""
    others = set(visible(context.view_layer.objects, context)) - set(objects)
    # Hiding deselects.
    selected = [obj for obj in others if obj.select_get(view_layer=context.view_layer)]
    try:
        for obj in others:
            obj.hide_set(True, view_layer=context.view_layer)
        yield
    finally:
        for obj in others:
            obj.hide_set(False, view_layer=context.view_layer)
        for obj in selected:
            obj.select_set(True, view_layer=context.view_layer)


def _draw_view(context: bpy.types.Context, camera: Camera) -> np.ndarray:
    """Pixels of the 3D view from a camera, without overlays and background."""
    space = context.space_data
    render_settings = context.scene.render
    shows_overlays, is_transparent = space.overlay.show_overlays, render_settings.film_transparent
    offscreen = gpu.types.GPUOffScreen(SIZE_PX, SIZE_PX)
    try:
        space.overlay.show_overlays = False
        # Otherwise a rendered view shows the world behind the objects.
        render_settings.film_transparent = True
        context.view_layer.update()
        offscreen.draw_view3d(
            context.scene,
            context.view_layer,
            space,
            _window_region(context),
            camera.c2w.inverted(),
            camera.projection,
            do_color_management=True,
            draw_background=False,
        )
        with offscreen.bind():
            buffer = gpu.state.active_framebuffer_get().read_color(0, 0, SIZE_PX, SIZE_PX, 4, 0, "UBYTE")
    finally:
        space.overlay.show_overlays = shows_overlays
        render_settings.film_transparent = is_transparent
        offscreen.free()
    buffer.dimensions = SIZE_PX * SIZE_PX * 4
    return np.array(buffer, np.float32).reshape(SIZE_PX, SIZE_PX, 4) / 255
