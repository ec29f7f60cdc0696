"""Quads and levels of detail shade like the result that they were made of, because its normals are baked onto them.

The known shape is a bumpy sphere: seen under one lamp, each is compared with the original, pixel by pixel.
"""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest

SIZE_PX = 96
SHADES_ALIKE, SHADES_OTHERWISE = 0.06, 0.12
"""Mean difference of linear brightness, relative to its mean: at most with the normal map, and at least without it."""


@pytest.fixture
def bumpy(imported):
    """An imported result whose mesh is a sphere with bumps, gray and rough."""
    obj, _ = imported
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=6, radius=1)
    sphere = bpy.context.object
    verts = np.empty(3 * len(sphere.data.vertices), np.float32)
    sphere.data.vertices.foreach_get("co", verts)
    verts = verts.reshape(-1, 3)
    verts *= 1 + 0.03 * np.prod(np.sin(9 * verts), axis=1, keepdims=True) / 0.4
    sphere.data.vertices.foreach_set("co", verts.ravel())
    sphere.data.shade_smooth()
    obj.data = sphere.data
    bpy.data.objects.remove(sphere)
    material = bpy.data.materials.new("gray")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (0.6, 0.6, 0.6, 1)
    shader.inputs["Roughness"].default_value = 0.9
    obj.data.materials.append(material)
    obj.select_set(True)
    bpy.context.view_layer.objects.active = obj
    return obj


@pytest.fixture
def brightness(tmp_path):
    """Linear brightness of an object alone under one lamp, `height width`; NaN where there is none of it."""
    scene = bpy.context.scene
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type, camera.data.ortho_scale = "ORTHO", 2.2
    camera.location, camera.rotation_euler = (0, -5, 0), (math.pi / 2, 0, 0)
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "SUN"))
    lamp.data.energy, lamp.data.angle = 3.0, 0.0
    lamp.rotation_euler = (math.radians(50), 0, math.radians(40))
    for obj in (camera, lamp):
        scene.collection.objects.link(obj)
    scene.camera, scene.render.engine = camera, "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 16, False
    scene.cycles.max_bounces = 0
    scene.render.resolution_x = scene.render.resolution_y = SIZE_PX
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Raw"
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"

    def brightness(obj):
        for other in scene.objects:
            other.hide_render = other not in (camera, lamp, obj)
        scene.render.filepath = str(tmp_path / "picture.exr")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        pixels = np.array(image.pixels[:], np.float32).reshape(SIZE_PX, SIZE_PX, 4)
        bpy.data.images.remove(image)
        return np.where(pixels[..., 3] > 0.99, pixels[..., :3].mean(-1), np.nan)

    return brightness


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference where both are, relative to the mean of the first."""
    return float(np.nanmean(np.abs(a - b)) / np.nanmean(a))


def without_normal_map(obj):
    links = obj.data.materials[0].node_tree.links
    links.remove(next(link for link in links if link.to_socket.name == "Normal"))


def quads(result):
    assert bpy.ops.recdreamer.make_quads(target_faces=600, remesher="VOXEL") == {"FINISHED"}
    low = bpy.context.object
    assert bpy.ops.recdreamer.bake_quads(size_px=512) == {"FINISHED"}
    return low


def level_of_detail(result):
    assert bpy.ops.recdreamer.make_lods(levels=1, ratio=0.05, size_px=512) == {"FINISHED"}
    return bpy.data.objects[f"{result.name}_LOD1"]


@pytest.mark.parametrize("make", [quads, level_of_detail])
def test_a_mesh_of_few_faces_shades_like_the_bumpy_sphere(bumpy, brightness, make):
    low = make(bumpy)
    assert len(low.data.polygons) < 0.06 * len(bumpy.data.polygons)
    original, with_map = brightness(bumpy), brightness(low)
    without_normal_map(low)
    without = brightness(low)
    assert difference(original, with_map) < SHADES_ALIKE
    assert difference(original, without) > SHADES_OTHERWISE


def test_levels_of_detail_are_hidden_beside_the_result(bumpy):
    bumpy.location, bumpy.data.use_fake_user = (1, 2, 3), False
    counts = len(bpy.data.objects), len(bpy.data.meshes)
    assert bpy.ops.recdreamer.make_lods(levels=3, ratio=0.25, size_px=64) == {"FINISHED"}
    levels = [bpy.data.objects[f"{bumpy.name}_LOD{number}"] for number in (1, 2, 3)]
    assert (len(bpy.data.objects), len(bpy.data.meshes)) == (counts[0] + 3, counts[1] + 3)
    before = len(bumpy.data.polygons)
    for level in levels:
        assert len(level.data.polygons) == pytest.approx(before / 4, rel=0.02)
        before = len(level.data.polygons)
        assert {len(polygon.vertices) for polygon in level.data.polygons} == {3}
        assert level.hide_get() and level.hide_render and level.matrix_world == bumpy.matrix_world
        assert level.data.name == level.data.materials[0].name == level.name and not level.modifiers
        assert "recdreamer_job" not in level
        images = [n.image for n in level.data.materials[0].node_tree.nodes if n.type == "TEX_IMAGE"]
        assert [image.packed_file is not None for image in images] == [True, True]
        assert images[1].colorspace_settings.is_data and not images[0].colorspace_settings.is_data
    assert bpy.context.object == bumpy and bpy.context.selected_objects == [bumpy]
    assert not bumpy.hide_get() and not bumpy.hide_render


def test_levels_without_textures(bumpy):
    assert bpy.ops.recdreamer.make_lods(levels=1, ratio=0.1, bake=False) == {"FINISHED"}
    level = bpy.data.objects[f"{bumpy.name}_LOD1"]
    assert not level.data.materials and not level.data.uv_layers


def test_a_failed_bake_leaves_nothing(bumpy, addon, monkeypatch):
    counts = [len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images")]
    module = addon("operators.quads_bake")
    monkeypatch.setitem(module.BAKES, module.NORMAL, {"type": "NOTHING"})
    with pytest.raises(RuntimeError, match="Cycles cannot bake the texture"):
        bpy.ops.recdreamer.make_lods(levels=2, size_px=64)
    assert [len(getattr(bpy.data, n)) for n in ("objects", "meshes", "materials", "images")] == counts
    assert bpy.context.object == bumpy and bumpy.select_get() and not bumpy.hide_get()


def test_the_normal_map_of_the_original_is_baked_too(bumpy):
    """A flat original whose material tilts all normals: what is baked is what it shows."""
    bpy.ops.mesh.primitive_plane_add(size=2)
    plane = bpy.context.object
    bumpy.data = plane.data
    bpy.data.objects.remove(plane)
    material = bpy.data.materials.new("tilted")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    turn = nodes.new("ShaderNodeNormalMap")
    turn.inputs["Color"].default_value = (0.5 + 0.5 * 0.6, 0.5, 0.5 + 0.5 * 0.8, 1)
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    links.new(turn.outputs["Normal"], shader.inputs["Normal"])
    bumpy.data.materials.append(material)
    bpy.context.view_layer.objects.active = bumpy
    bumpy.select_set(True)
    assert bpy.ops.recdreamer.make_lods(levels=1, ratio=0.95, size_px=64) == {"FINISHED"}
    level = bpy.data.objects[f"{bumpy.name}_LOD1"]
    image = [n.image for n in level.data.materials[0].node_tree.nodes if n.type == "TEX_IMAGE"][1]
    pixels = np.array(image.pixels[:]).reshape(64, 64, 4)[32, 32, :3]
    # Smart UV Project may turn the island; the tilt stays.
    x, y, z = 2 * pixels - 1
    assert math.hypot(x, y) == pytest.approx(0.6, abs=0.02) and z == pytest.approx(0.8, abs=0.02)
