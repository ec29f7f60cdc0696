"""Pictures of poses: the viewport, a turntable of objects, image files. PNG with the mask in alpha."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy
import gpu
import numpy as np
from mathutils import Matrix, Vector

from ..backend.recdreamer.protocol import RequestError
from . import compat

SIZE_PX = 512
FOV_DEG = 40.0
"""Of the turntable; close to what product photographs have."""
MARGIN = 1.1
"""Reach of the turntable's picture over that of the object."""
NEUTRAL = 0.5
"""Grey behind the object, for readers that ignore alpha."""
RENDERABLE = {"MESH", "CURVE", "SURFACE", "META", "FONT", "CURVES", "POINTCLOUD", "VOLUME"}


@dataclass(frozen=True)
class View:
    """A picture and where its camera stood."""

    path: Path
    azimuth_deg: float
    """Counter-clockwise seen from above, 0 = front (-Y)."""
    elevation_deg: float


def capture_view(context: bpy.types.Context, folder: Path) -> View:
    """What the 3D view shows now, or, where there is no window, what the scene's camera sees.

    Overlays are left out; the picture is the middle square of the region.
    """
    path = new_picture(folder)
    if compat.can_draw_offscreen():
        if getattr(context.space_data, "type", "") != "VIEW_3D":
            raise RequestError("There is no 3D view to capture.", "Press the button in a 3D view's sidebar.")
        c2w = context.region_data.view_matrix.inverted()
        save_png(_draw_view(context), path)
    else:
        camera = context.scene.camera
        if camera is None:
            raise RequestError("The scene has no camera.", "Add one, or use the turntable.")
        c2w = camera.matrix_world
        with _isolated(visible(context.view_layer.objects, context), context) as scene:
            scene.camera = camera
            _render(scene, path)
    return View(path, *direction_of(c2w))


def capture_turntable(
    objects: Iterable[bpy.types.Object],
    azimuths_deg: Sequence[float],
    elevation_deg: float,
    context: bpy.types.Context,
    folder: Path,
    *,
    front_deg: float = 0.0,
    size_px: int = SIZE_PX,
) -> list[View]:
    """The objects alone, seen from all around, filling the picture the same way in each view.

    `front_deg` says which way the front looks: 0 is -Y, 90 is +X. Raises RequestError when there is
    nothing to see.
    """
    objects = visible([*objects, *(child for obj in objects for child in obj.children_recursive)], context)
    if not objects:
        raise RequestError(
            "Nothing is selected that a render could show.",
            "Select the object, or take the whole collection.",
        )
    views = []
    with _isolated(objects, context, size_px) as scene:
        center, radius = _bounding_sphere(scene)
        distance = radius / math.sin(math.radians(FOV_DEG) / 2)
        for azimuth_deg in azimuths_deg:
            c2w = orbit_c2w(azimuth_deg + front_deg, elevation_deg, distance, center)
            scene.camera.matrix_world = c2w
            # A tight depth range, whatever the size of the object.
            scene.camera.data.clip_start, scene.camera.data.clip_end = distance - radius, distance + radius
            path = new_picture(folder)
            _render(scene, path)
            views.append(View(path, azimuth_deg % 360, elevation_deg))
    return views


def import_picture(source: Path, folder: Path) -> Path:
    """A copy of an image file in the folder. Raises RequestError when it holds no picture."""
    try:
        image = bpy.data.images.load(str(source))
    except RuntimeError:
        raise RequestError(f"The image {source.name} cannot be read.", "Choose another file.") from None
    try:
        if not (image.size[0] and image.size[1]):
            raise RequestError(
                f"The image {source.name} is empty or not an image.", "Choose a PNG or JPEG file."
            )
        if source.suffix.lower() in (".png", ".jpg", ".jpeg"):
            path = new_picture(folder, source.suffix.lower())
            shutil.copyfile(source, path)
        else:
            path = new_picture(folder)
            image.file_format = "PNG"
            image.save(filepath=str(path))
    finally:
        bpy.data.images.remove(image)
    return path


def new_picture(folder: Path, suffix: str = ".png") -> Path:
    return folder / f"{uuid.uuid4().hex}{suffix}"


def orbit_c2w(azimuth_deg: float, elevation_deg: float, distance: float, center: Vector) -> Matrix:
    """Camera on a sphere around `center`, looking at it."""
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


def direction_of(c2w: Matrix) -> tuple[float, float]:
    """Azimuth and elevation, in degrees, of a camera that looks down its -Z."""
    toward_camera = c2w.col[2].xyz.normalized()
    azimuth_deg = math.degrees(math.atan2(toward_camera.x, -toward_camera.y)) % 360
    return azimuth_deg, math.degrees(math.asin(max(-1.0, min(1.0, toward_camera.z))))


def visible(objects: Iterable[bpy.types.Object], context: bpy.types.Context) -> list[bpy.types.Object]:
    """Those that a render shows, each once."""
    return [
        obj
        for obj in dict.fromkeys(objects)
        if (obj.type in RENDERABLE or obj.instance_type == "COLLECTION")
        and not obj.hide_render
        and obj.visible_get(view_layer=context.view_layer)
    ]


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write `height width 4` values in [0, 1], bottom row first, sRGB; transparent texels turn grey."""
    pixels = np.where(pixels[..., 3:] > 0, pixels, np.float32([NEUTRAL] * 3 + [0]))
    height, width = pixels.shape[:2]
    image = bpy.data.images.new(path.stem, width, height, alpha=True)
    try:
        image.pixels.foreach_set(pixels.astype(np.float32).ravel())
        image.filepath_raw = str(path)
        image.file_format = "PNG"
        image.save()
    finally:
        bpy.data.images.remove(image)


def load_pixels(path: Path) -> np.ndarray:
    """Values of an image file, `height width 4` in [0, 1], bottom row first."""
    image = bpy.data.images.load(str(path))
    try:
        pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
        image.pixels.foreach_get(pixels)
        return pixels.reshape(image.size[1], image.size[0], 4)
    finally:
        bpy.data.images.remove(image)


@contextmanager
def _isolated(
    objects: Iterable[bpy.types.Object], context: bpy.types.Context, size_px: int = SIZE_PX
) -> Iterator[bpy.types.Scene]:
    """A scene of its own with only these objects, a camera and Workbench; gone afterwards."""
    scene = bpy.data.scenes.new("RecDreamer")
    camera_data = bpy.data.cameras.new("RecDreamer")
    camera = bpy.data.objects.new("RecDreamer", camera_data)
    try:
        for obj in objects:
            scene.collection.objects.link(obj)
        scene.collection.objects.link(camera)
        camera_data.angle = math.radians(FOV_DEG)
        scene.camera = camera
        scene.frame_set(context.scene.frame_current)
        scene.render.engine = "BLENDER_WORKBENCH"
        scene.render.resolution_x = scene.render.resolution_y = size_px
        scene.render.film_transparent = True
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode = "RGBA"
        scene.view_settings.view_transform = "Standard"
        scene.display.render_aa = "8"
        scene.display.shading.light = "STUDIO"
        # Bright and soft, so that colours stay near those of the material; the default light darkens them.
        scene.display.shading.studio_light = "paint.sl"
        scene.display.shading.show_specular_highlight = False
        # Objects without an image texture are shown in their material's viewport colour.
        scene.display.shading.color_type = "TEXTURE"
        yield scene
    finally:
        bpy.data.scenes.remove(scene)
        bpy.data.objects.remove(camera)
        bpy.data.cameras.remove(camera_data)


def _render(scene: bpy.types.Scene, path: Path) -> None:
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True, scene=scene.name)
    save_png(load_pixels(path), path)


def _bounding_sphere(scene: bpy.types.Scene) -> tuple[Vector, float]:
    """Center of the bounding box of all that the scene shows, instances included, and the reach from it."""
    view_layer = scene.view_layers[0]
    view_layer.update()
    points = [
        _surface_points(instance)
        for instance in view_layer.depsgraph.object_instances
        if instance.object.type in RENDERABLE
    ]
    points = np.concatenate([np.empty((0, 3)), *points])
    if not len(points):
        raise RequestError("The selection has no surface.", "Select an object that a render can show.")
    center = (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points - center, axis=1).max())
    if not radius > 0:
        raise RequestError("The selection has no size.", "Select an object that a render can show.")
    return Vector(center), MARGIN * radius


def _surface_points(instance: bpy.types.DepsgraphObjectInstance) -> np.ndarray:
    """Points `n 3` in the world that span an instance: vertices, which sit tighter than a box, where it has them."""
    obj = instance.object
    if obj.type == "MESH":
        local = np.empty((len(obj.data.vertices), 3), np.float32)
        obj.data.vertices.foreach_get("co", local.ravel())
    else:
        local = np.array([tuple(corner) for corner in obj.bound_box])
    matrix = np.array(instance.matrix_world)
    return local @ matrix[:3, :3].T + matrix[:3, 3]


def _draw_view(context: bpy.types.Context) -> np.ndarray:
    """Pixels of the middle square of the 3D view, drawn again without overlays and background."""
    space, region = context.space_data, context.region_data
    window_region = next(r for r in context.area.regions if r.type == "WINDOW")
    side = min(window_region.width, window_region.height)
    crop = Matrix.Diagonal((window_region.width / side, window_region.height / side, 1, 1))
    shows_overlays = space.overlay.show_overlays
    offscreen = gpu.types.GPUOffScreen(SIZE_PX, SIZE_PX)
    try:
        space.overlay.show_overlays = False
        offscreen.draw_view3d(
            context.scene,
            context.view_layer,
            space,
            window_region,
            region.view_matrix,
            crop @ region.window_matrix,
            do_color_management=True,
            draw_background=False,
        )
        with offscreen.bind():
            buffer = gpu.state.active_framebuffer_get().read_color(0, 0, SIZE_PX, SIZE_PX, 4, 0, "UBYTE")
    finally:
        space.overlay.show_overlays = shows_overlays
        offscreen.free()
    buffer.dimensions = SIZE_PX * SIZE_PX * 4
    return np.array(buffer, np.float32).reshape(SIZE_PX, SIZE_PX, 4) / 255
