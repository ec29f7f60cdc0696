"""A temporary scene that shows objects alone to a camera."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ...backend.recdreamer.shared.protocol import RequestError
from .. import compat, trouble
from ..objects.evaluation import frozen
from ..objects.hiding import is_left_out
from ..objects.mesh_data import read_verts
from . import pictures

SIZE_PX = 512
FOV_DEG = 40.0
"""Of the turntable; similar to product photos."""
FRAME_MARGIN = 1.1
"""Ratio of the framed sphere's radius to that of the object."""
SAMPLES = 32
"""For Material Preview with Cycles, which denoises."""

GREASE_PENCIL = {"GREASEPENCIL", "GPENCIL"}
RENDERABLE = {"MESH", "CURVE", "SURFACE", "META", "FONT", "CURVES", "POINTCLOUD", "VOLUME", *GREASE_PENCIL}

LOOKS = (
    ("SOLID", "Solid", "Viewport colors and textures in soft light; fast", "SHADING_SOLID", 0),
    ("MATERIAL", "Material Preview", "The materials in neutral light", "SHADING_TEXTURE", 1),
    (
        "RENDERED",
        "Rendered",
        "The scene's own render engine, world and lights",
        "SHADING_RENDERED",
        2,
    ),
)


@contextmanager
def studio(
    objects: Iterable[bpy.types.Object],
    context: bpy.types.Context,
    look: str = "SOLID",
    size_px: int = SIZE_PX,
) -> Iterator[bpy.types.Scene]:
    """A temporary scene with only these objects and a camera, in one of the LOOKS."""
    made: list[bpy.types.ID] = []
    shown: list[bpy.types.Object] = []
    # The copy keeps the settings of render engine, world and color management.
    scene = context.scene.copy() if look == "RENDERED" else bpy.data.scenes.new("RecDreamer")
    try:
        camera_data = bpy.data.cameras.new("RecDreamer")
        made.append(camera_data)
        camera = bpy.data.objects.new("RecDreamer", camera_data)
        made.append(camera)
        if look == "RENDERED":
            _empty(scene)
            objects = [*objects, *(obj for obj in context.view_layer.objects if _gives_light(obj))]
        objects = [obj for obj in dict.fromkeys(objects) if not is_left_out(obj)]
        for obj in [*frozen(objects, context, made), camera]:
            scene.collection.objects.link(obj)
            if obj.hide_render:
                shown.append(obj)
                obj.hide_render = False
        camera_data.angle = math.radians(FOV_DEG)
        scene.camera = camera
        scene.frame_set(context.scene.frame_current)
        _set_output(scene, size_px, look)
        if look == "SOLID":
            _light_solid(scene)
        elif look == "MATERIAL":
            _light_neutral(scene, made)
        yield scene
    finally:
        for obj in shown:
            obj.hide_render = True
        bpy.data.scenes.remove(scene)
        bpy.data.batch_remove(made)


def render(scene: bpy.types.Scene, path: Path) -> None:
    """Render the scene from its camera to a PNG."""
    rendered = path.with_name(f"{path.stem}-render{scene.render.file_extension}")
    scene.render.filepath = str(rendered)
    try:
        try:
            bpy.ops.render.render(write_still=True, scene=scene.name)
        except RuntimeError as error:
            raise RequestError(
                f"The view cannot be rendered to {path.parent} ({trouble.reason_of_blender(error)}).",
                "Free some space, or choose Solid.",
            ) from error
        settings = scene.render.image_settings
        if not _is_complete(rendered, scene):
            raise pictures.disk_is_full(path)
        linear = settings.linear_colorspace_settings.name if settings.has_linear_colorspace else ""
        pictures.save_png(pictures.load_pixels(rendered, linear), path)
    finally:
        rendered.unlink(missing_ok=True)


def _is_complete(rendered: Path, scene: bpy.types.Scene) -> bool:
    """Of a render, because Blender says nothing when the disk is full."""
    if rendered.suffix == ".png":
        return pictures.is_complete(rendered)
    size = scene.render.resolution_x * scene.render.resolution_y * 4 * 2
    return rendered.is_file() and rendered.stat().st_size > size


def place_camera(
    scene: bpy.types.Scene,
    c2w: Matrix,
    sphere: tuple[Vector, float],
    projection: Matrix | None = None,
) -> None:
    """Place the scene's camera, with a depth range that covers the sphere.

    `projection` is for a square picture; None keeps the lens.
    """
    camera = scene.camera
    camera.matrix_world = c2w
    if projection is not None:
        _set_lens(camera.data, projection)
    # Keep the depth range tight for any object size. Inside the sphere a small near distance remains.
    center, radius = sphere
    distance = (c2w.translation - center).length
    camera.data.clip_start = max(distance - radius, 1e-3 * radius)
    camera.data.clip_end = distance + radius


def bounding_sphere(scene: bpy.types.Scene) -> tuple[Vector, float]:
    """Center of the bounding box of everything visible, including instances, and radius with FRAME_MARGIN."""
    view_layer = scene.view_layers[0]
    view_layer.update()
    points = [
        _surface_points(instance)
        for instance in view_layer.depsgraph.object_instances
        if instance.object.type in RENDERABLE
    ]
    points = np.concatenate([np.empty((0, 3)), *points])
    if not len(points):
        raise RequestError("The selection has no surface.", "Select an object that can be rendered.")
    center = (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points - center, axis=1).max())
    if not radius > 0:
        raise RequestError("The selection has no size.", "Select an object that can be rendered.")
    return Vector(center), FRAME_MARGIN * radius


def _surface_points(instance: bpy.types.DepsgraphObjectInstance) -> np.ndarray:
    """World points `n 3` that span an instance: vertices of a mesh, which fit tighter, else box corners."""
    obj = instance.object
    if obj.type == "MESH":
        local = read_verts(obj.data)
    else:
        local = np.array([tuple(corner) for corner in obj.bound_box])
    matrix = np.array(instance.matrix_world)
    return local @ matrix[:3, :3].T + matrix[:3, 3]


def _set_lens(camera: bpy.types.Camera, projection: Matrix) -> None:
    """Set lens and shift to match the projection of a square picture."""
    if projection[3][3] == 1:
        camera.type = "ORTHO"
        camera.ortho_scale = 2 / projection[0][0]
        camera.shift_x, camera.shift_y = -projection[0][3] / 2, -projection[1][3] / 2
    else:
        camera.angle = 2 * math.atan(1 / projection[0][0])
        camera.shift_x, camera.shift_y = projection[0][2] / 2, projection[1][2] / 2


def _gives_light(obj: bpy.types.Object) -> bool:
    return obj.type in ("LIGHT", "LIGHT_PROBE")


def _empty(scene: bpy.types.Scene) -> None:
    """Unlink everything from a copied scene; the original is not affected."""
    for collection in list(scene.collection.children):
        scene.collection.children.unlink(collection)
    for obj in list(scene.collection.objects):
        scene.collection.objects.unlink(obj)
    for layer in list(scene.view_layers)[1:]:
        layer.use = False


def _set_output(scene: bpy.types.Scene, size_px: int, look: str) -> None:
    settings = scene.render
    settings.resolution_x = settings.resolution_y = size_px
    settings.resolution_percentage = 100
    settings.pixel_aspect_x = settings.pixel_aspect_y = 1
    settings.use_border = settings.use_multiview = settings.use_stamp = False
    settings.use_compositing = settings.use_sequencer = False
    settings.film_transparent = True
    if look == "RENDERED":
        compat.set_png(settings.image_settings)  # As the artist's view transform shows it.
    else:
        compat.set_linear_exr(settings.image_settings)  # A view transform would be found by its name only.


def _light_solid(scene: bpy.types.Scene) -> None:
    scene.render.engine = "BLENDER_WORKBENCH"
    scene.display.render_aa = "8"
    shading = scene.display.shading
    shading.light = "STUDIO"
    # Bright and soft light keeps colors close to those of the material; the default light darkens them.
    shading.studio_light = "paint.sl"
    shading.show_specular_highlight = False
    # Objects without an image texture show the viewport color of their material.
    shading.color_type = "TEXTURE"


def _light_neutral(scene: bpy.types.Scene, made: list[bpy.types.ID]) -> None:
    """Even light from all sides, plus a sun beside the camera that brings out the shape."""
    compat.set_preview_engine(scene, SAMPLES)
    scene.world = compat.new_node_world("RecDreamer")
    made.append(scene.world)
    background = next(node for node in scene.world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (1, 1, 1, 1)
    background.inputs["Strength"].default_value = 0.7
    sun_data = bpy.data.lights.new("RecDreamer", "SUN")
    made.append(sun_data)
    sun_data.energy = 1.0
    sun = bpy.data.objects.new("RecDreamer", sun_data)
    made.append(sun)
    scene.collection.objects.link(sun)
    sun.parent = scene.camera
    sun.rotation_euler = (math.radians(-35), math.radians(-25), 0)
