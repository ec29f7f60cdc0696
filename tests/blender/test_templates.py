"""The template shelf: rendered pictures, their cameras, and the buttons on a card."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from .objects import reported


@pytest.fixture
def shelf(extension):
    return bpy.context.scene.recdreamer.templates


def silhouette(addon, template) -> np.ndarray:
    return addon("shelf.captures").load_pixels(template.path)[..., 3] > 0.5


def test_turntable_shows_the_object_from_its_sides(addon, block_out, shelf):
    assert bpy.ops.recdreamer.capture_turntable(elevation=0) == {"FINISHED"}
    assert [t.label for t in shelf] == ["front", "right", "back", "left"]
    assert [t.azimuth_deg for t in shelf] == [0, 90, 180, 270]
    assert all(t.has_camera and t.source == "turntable" and t.enabled for t in shelf)
    front, right, back, left = (addon("shelf.captures").load_pixels(t.path) for t in shelf)
    # The figure faces -Y, so from the right (+X) it faces the left edge of the picture.
    yellow = (right[..., 0] > 0.4) & (right[..., 1] > 0.4) & (right[..., 2] < 0.3) & (right[..., 3] > 0.5)
    assert yellow.any()
    assert np.nonzero(yellow)[1].mean() < np.nonzero(right[..., 3] > 0.5)[1].mean()
    # Opposite views mirror each other, except for perspective.
    mirrored = (left[..., 3] > 0.5) == (right[..., 3] > 0.5)[:, ::-1]
    assert mirrored.mean() > 0.98
    # The front shows the yellow nose, the back does not.
    assert ((front[..., 1] > 0.4) & (front[..., 2] < 0.3) & (front[..., 3] > 0.5)).any()
    assert not ((back[..., 1] > 0.4) & (back[..., 2] < 0.3) & (back[..., 3] > 0.5)).any()


def test_pictures_are_isolated_on_neutral_gray(addon, block_out, shelf):
    bpy.ops.mesh.primitive_cube_add(size=50, location=(0, 0, -30))
    bpy.context.object.select_set(False)
    for obj in block_out:
        obj.select_set(True)
    bpy.ops.recdreamer.capture_turntable()
    for template in shelf:
        pixels = addon("shelf.captures").load_pixels(template.path)
        alpha = pixels[..., 3]
        assert pixels.shape == (512, 512, 4)
        assert 0.05 < (alpha > 0.5).mean() < 0.6
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert not border.any(), "nothing is cut off"
        assert np.allclose(pixels[0, 0], (0.5, 0.5, 0.5, 0), atol=0.01)


def test_turntable_leaves_the_file_as_it_was(block_out, shelf):
    names = ("scenes", "cameras", "objects", "images", "materials")
    before = [
        [item.name for item in getattr(bpy.data, name) if item.name != "Render Result"] for name in names
    ]
    bpy.ops.recdreamer.capture_turntable()
    after = [
        [item.name for item in getattr(bpy.data, name) if item.name != "Render Result"] for name in names
    ]
    assert after == before
    assert bpy.context.selected_objects == block_out


def test_turntable_fills_the_picture_except_a_margin(extension, addon, shelf):
    bpy.ops.mesh.primitive_uv_sphere_add(segments=64, ring_count=32, radius=3, location=(5, 0, 0))
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    studio = addon("shelf.studio")
    half_fov = np.radians(studio.FOV_DEG / 2)
    share = np.tan(np.arcsin(np.sin(half_fov) / studio.FRAME_MARGIN)) / np.tan(half_fov)
    for template in shelf:
        covered = silhouette(addon, template)
        for axis in (0, 1):
            assert covered.any(axis).mean() == pytest.approx(share, abs=0.01)


def test_turntable_options(block_out, shelf):
    bpy.ops.object.select_all(action="DESELECT")
    bpy.ops.recdreamer.capture_turntable(subject="COLLECTION", num_views=3, elevation=math.radians(30))
    assert [t.label for t in shelf] == ["front", "120°", "240°"]
    assert [t.elevation_deg for t in shelf] == pytest.approx([30] * 3, abs=1e-4)


def test_turntable_of_several_elevations(block_out, shelf):
    bpy.ops.recdreamer.capture_turntable(
        num_views=2, num_elevations=3, elevation=math.radians(70), elevation_step=math.radians(20)
    )
    assert [t.label for t in shelf] == ["front"] * 3 + ["back"] * 3
    assert [t.elevation_deg for t in shelf] == pytest.approx([50, 70, 85] * 2, abs=1e-4), "below the pole"
    elevations = bpy.ops.recdreamer.capture_turntable(num_views=2, num_elevations=2) and shelf[6:]
    assert [t.elevation_deg for t in elevations] == pytest.approx([-2.5, 22.5] * 2, abs=1e-4)


def test_material_preview_has_neutral_light(addon, extension, shelf):
    """A material without viewport color, in a black scene."""
    bpy.ops.mesh.primitive_uv_sphere_add()
    material = addon("compat").new_node_material("green")
    next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED").inputs["Base Color"].default_value = (
        0.05, 0.6, 0.05, 1,
    )  # fmt: skip
    bpy.context.object.data.materials.append(material)
    names = ("scenes", "worlds", "lights", "cameras", "objects")
    before = {name: len(getattr(bpy.data, name)) for name in names}
    bpy.ops.recdreamer.capture_turntable(num_views=2, look="MATERIAL")
    for template in shelf:
        pixels = addon("shelf.captures").load_pixels(template.path)
        red, green, blue = pixels[pixels[..., 3] > 0.9][:, :3].mean(0)
        assert green > 0.5 and red < 0.5 and blue < 0.5
        assert pixels[0, 0, 3] == 0 and template.look == "MATERIAL"
    assert {name: len(getattr(bpy.data, name)) for name in names} == before


def test_rendered_look_uses_the_lights_of_the_scene(addon, extension, shelf):
    scene = bpy.context.scene
    bpy.ops.object.light_add(type="SUN")
    bpy.context.object.data.color = (1, 0, 0)
    bpy.context.object.data.energy = 5
    bpy.ops.mesh.primitive_cube_add(size=100, location=(0, 0, -60))
    bpy.ops.object.select_all(action="DESELECT")
    bpy.ops.mesh.primitive_uv_sphere_add()
    scene.render.engine, scene.cycles.device, scene.cycles.samples = "CYCLES", "CPU", 4
    before = [obj.name for obj in scene.objects]
    bpy.ops.recdreamer.capture_turntable(num_views=2, elevation=math.radians(60), look="RENDERED")
    pixels = addon("shelf.captures").load_pixels(shelf[0].path)
    red, green, _blue = pixels[pixels[..., 3] > 0.9][:, :3].mean(0)
    assert red > 0.2 and green < red / 3, "only the light of the scene's sun"
    assert pixels[0, 0, 3] == 0, "the ground is left out"
    assert [obj.name for obj in scene.objects] == before and len(bpy.data.scenes) == 1


def test_the_front_turns_the_camera_along(addon, block_out, shelf):
    bpy.ops.recdreamer.capture_turntable()
    for obj in block_out:
        obj.matrix_world = Matrix.Rotation(math.radians(90), 4, "Z") @ obj.matrix_world
    bpy.context.view_layer.update()
    bpy.ops.recdreamer.set_front(direction="90")
    bpy.ops.recdreamer.capture_turntable()
    for before, after in zip(shelf[:4], shelf[4:], strict=True):
        assert before.azimuth_deg == after.azimuth_deg
        assert (silhouette(addon, before) == silhouette(addon, after)).mean() > 0.995


def test_view_is_taken_from_the_camera_where_there_is_no_window(addon, block_out, shelf):
    templates = addon("shelf.captures")
    for azimuth_deg, label in ((0, "front"), (100, "right"), (190, "back"), (260, "left")):
        data = bpy.data.cameras.new("camera")
        camera = bpy.data.objects.new("camera", data)
        camera.matrix_world = templates.orbit_c2w(azimuth_deg, 20, 8, block_out[0].location)
        bpy.context.collection.objects.link(camera)
        bpy.context.scene.camera = camera
        bpy.context.view_layer.update()
        assert bpy.ops.recdreamer.capture_view() == {"FINISHED"}
        template = shelf[-1]
        assert template.label == label and template.source == "viewport"
        assert template.azimuth_deg == pytest.approx(azimuth_deg, abs=1e-3)
        assert template.elevation_deg == pytest.approx(20, abs=1e-3)
        assert 0.01 < silhouette(addon, template).mean() < 0.8


def test_a_view_without_the_object_makes_no_card(front_camera, block_out, shelf, preferences):
    for obj in block_out:
        obj.location.x += 50
    bpy.context.view_layer.update()
    assert "nothing in the middle of this view" in reported(bpy.ops.recdreamer.capture_view)
    assert not len(shelf) and not list((preferences.folder / "templates").glob("*.png"))


@pytest.mark.parametrize("azimuth_deg", [0, 37, 90, 180, 270, 359])
@pytest.mark.parametrize("elevation_deg", [-40, 0, 15, 80])
def test_camera_direction_is_what_was_asked(addon, azimuth_deg, elevation_deg):
    templates = addon("shelf.captures")
    c2w = templates.orbit_c2w(azimuth_deg, elevation_deg, 3, templates.Vector((1, 2, 3)))
    assert templates.direction_of(c2w) == pytest.approx((azimuth_deg, elevation_deg), abs=1e-3)
    assert c2w.col[0].z == pytest.approx(0, abs=1e-6), "the horizon is level"
    assert c2w.col[1].z > 0


def test_offscreen_drawing_of_a_view(addon, block_out, shelf, monkeypatch):
    """The picture of a 3D view, drawn without a window, which only Blender 5.2 can do."""
    import gpu

    if not hasattr(gpu, "init"):
        pytest.skip("this Blender cannot draw without a window")
    gpu.init()
    monkeypatch.setattr(addon("compat"), "can_draw_offscreen", lambda: True)
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    region = next(region for region in area.regions if region.type == "WINDOW")
    c2w = addon("shelf.captures").orbit_c2w(100, 20, 10, block_out[0].location)
    area.spaces.active.region_3d.view_matrix = c2w.inverted()
    bpy.context.view_layer.update()
    block_out[0].select_set(False)
    with bpy.context.temp_override(window=window, area=area, region=region):
        assert bpy.ops.recdreamer.capture_view() == {"FINISHED"}
        bpy.ops.object.select_all(action="DESELECT")
        assert bpy.ops.recdreamer.capture_view() == {"FINISHED"}
        area.spaces.active.region_3d.view_matrix = c2w
        assert bpy.ops.recdreamer.redo_template(index=1) == {"FINISHED"}
    assert silhouette(addon, shelf[0]).sum() < silhouette(addon, shelf[1]).sum(), "without the body"
    assert block_out[0].visible_get() and not bpy.context.scene.render.film_transparent
    assert shelf[0].label == shelf[1].label == "right"
    assert shelf[1].azimuth_deg == pytest.approx(shelf[0].azimuth_deg, abs=1e-3), (
        "captured again from its own camera"
    )
    assert area.spaces.active.overlay.show_overlays, "restored"
    pixels = addon("shelf.captures").load_pixels(shelf[0].path)
    assert 0 < (pixels[..., 3] > 0.5).mean() < 1


@pytest.fixture
def front_camera(addon, block_out):
    """The scene's camera in front of the block-out."""
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.matrix_world = addon("shelf.captures").orbit_c2w(0, 10, 12, block_out[0].location)
    bpy.context.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    bpy.context.view_layer.update()
    return camera


def test_a_view_is_of_the_selected_objects_else_of_everything(addon, front_camera, block_out, shelf):
    child = bpy.data.objects.new("child", block_out[1].data)
    child.parent, child.location = block_out[0], (0, 0, 3)
    bpy.context.collection.objects.link(child)
    for select in ("all", "body", "camera"):
        for obj in block_out:
            obj.select_set(select == "all" or (select == "body" and obj is block_out[0]))
        front_camera.select_set(select == "camera")
        bpy.ops.recdreamer.capture_view()
    everything, body, none = (silhouette(addon, template).mean() for template in shelf)
    assert 0 < body < everything
    assert none == everything
    bare = body
    child.hide_set(True)
    block_out[0].select_set(True)
    front_camera.select_set(False)
    bpy.ops.recdreamer.capture_view()
    assert silhouette(addon, shelf[-1]).mean() < bare, "children belong to it, hidden ones do not"


def test_the_front_counts_for_a_view(front_camera, shelf):
    bpy.context.scene.recdreamer.front = math.radians(90)
    bpy.ops.recdreamer.capture_view()
    assert shelf[0].label == "left" and shelf[0].azimuth_deg == pytest.approx(270, abs=1e-3)
    bpy.ops.recdreamer.set_front(direction="VIEW")
    assert bpy.context.scene.recdreamer.front_deg == pytest.approx(0, abs=1e-3)


def test_files_get_their_label_from_their_name(addon, block_out, shelf, tmp_path):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    for name in ("my_left_side.png", "ünnamed.png"):
        (tmp_path / name).write_bytes(shelf[0].path.read_bytes())
    image = bpy.data.images.new("tiff", 16, 16)
    image.filepath_raw, image.file_format = str(tmp_path / "right.tif"), "TIFF"
    image.save()
    names = ("my_left_side.png", "ünnamed.png", "right.tif")
    result = bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": name} for name in names])
    assert result == {"FINISHED"}
    assert [(t.label, t.has_camera) for t in shelf[2:]] == [
        ("left", False),
        ("right", False),
        ("right", False),
    ]
    assert [t.path.suffix for t in shelf[2:]] == [".png"] * 3
    assert all(t.path.is_file() for t in shelf)


def test_mirror_remove_clear(block_out, shelf):
    bpy.ops.recdreamer.capture_turntable()
    bpy.ops.recdreamer.remove_template(index=3)
    bpy.ops.recdreamer.mirror_template(index=1)
    assert [(t.label, t.azimuth_deg, t.mirrored) for t in shelf] == [
        ("front", 0, False),
        ("right", 90, False),
        ("left", 270, True),
        ("back", 180, False),
    ]
    assert shelf[1].image == shelf[2].image
    picture = shelf[0].path
    bpy.ops.recdreamer.clear_templates()
    assert not shelf and picture.is_file(), "undo finds the pictures again"
