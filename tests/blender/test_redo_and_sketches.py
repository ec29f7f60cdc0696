"""Recapture of single templates, and drawings as templates."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest


@pytest.fixture
def shelf(extension):
    return bpy.context.scene.recdreamer.templates


@pytest.fixture
def pixels(addon):
    return lambda template: addon("shelf.pictures").load_pixels(template.path)


@pytest.fixture
def look_from(addon, extension):
    """Place the scene's camera, which provides the current view in background mode."""

    def look_from(azimuth_deg: float, ortho: bool = False):
        data = bpy.data.cameras.new("camera")
        data.lens, data.shift_x = 60, 0.05
        if ortho:
            data.type, data.ortho_scale = "ORTHO", 7
        camera = bpy.data.objects.new("camera", data)
        camera.matrix_world = addon("shelf.captures").orbit_c2w(azimuth_deg, 10, 12, camera.location)
        bpy.context.collection.objects.link(camera)
        bpy.context.scene.camera = camera
        bpy.context.view_layer.update()
        return camera

    return look_from


def test_redo_of_a_turntable_view(block_out, shelf, pixels):
    bpy.ops.recdreamer.capture_turntable(elevation=math.radians(20))
    shelf[1].label, shelf[1].weight, shelf[1].enabled = "starboard", 2.5, False
    old = shelf[1].image, pixels(shelf[1])
    bpy.ops.recdreamer.redo_template(index=1)
    assert shelf[1].image != old[0]
    assert np.abs(pixels(shelf[1]) - old[1]).mean() < 0.01, "the same camera"
    block_out[1].scale *= 1.5
    bpy.ops.recdreamer.redo_template(index=1)
    assert (pixels(shelf[1])[..., 3] > 0.5).sum() > (old[1][..., 3] > 0.5).sum(), "the changed object"
    template = shelf[1]
    assert (template.label, template.weight, template.enabled) == ("starboard", 2.5, False)
    assert template.source == "turntable" and template.azimuth_deg == pytest.approx(90, abs=1e-3)
    assert template.elevation_deg == pytest.approx(20, abs=1e-3)
    assert [t.label for t in shelf] == ["front", "starboard", "back", "left"]


@pytest.mark.parametrize("ortho", [False, True])
def test_redo_of_a_view_is_from_its_own_camera(block_out, shelf, pixels, look_from, ortho):
    look_from(30, ortho)
    bpy.ops.recdreamer.capture_view()
    old = pixels(shelf[0])
    assert (old[..., 3] > 0.5).any()
    look_from(200)
    bpy.ops.recdreamer.redo_template(index=0)
    assert np.abs(pixels(shelf[0]) - old).mean() < 0.01
    assert shelf[0].azimuth_deg == pytest.approx(30, abs=1e-3)


def test_redo_of_a_mirrored_view_stays_the_other_side(block_out, shelf):
    bpy.ops.recdreamer.capture_turntable()
    bpy.ops.recdreamer.mirror_template(index=1)
    bpy.ops.recdreamer.redo_template(index=2)
    assert (shelf[2].label, shelf[2].mirrored) == ("left", True)
    assert shelf[2].azimuth_deg == pytest.approx(270, abs=1e-3)


def test_redo_of_a_file_takes_the_current_view(block_out, shelf, look_from, tmp_path):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    (tmp_path / "back.png").write_bytes(shelf[0].path.read_bytes())
    bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": "back.png"}])
    shelf[2].weight = 3
    look_from(180)
    bpy.ops.recdreamer.redo_template(index=2)
    assert (shelf[2].source, shelf[2].label, shelf[2].weight) == ("viewport", "back", 3)
    assert shelf[2].azimuth_deg == pytest.approx(180, abs=1e-3)
    with pytest.raises(RuntimeError, match="There is no template 9"):
        bpy.ops.recdreamer.redo_template(index=9)


def test_redo_of_nothing_keeps_the_picture(block_out, shelf):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    image = shelf[0].image
    for obj in block_out:
        obj.hide_set(True)
    with pytest.raises(RuntimeError, match="Show an object"):
        bpy.ops.recdreamer.redo_template(index=0)
    assert shelf[0].image == image


def test_weight_goes_into_the_job(block_out, shelf):
    bpy.ops.recdreamer.capture_turntable()
    settings = bpy.context.scene.recdreamer
    settings.prompt, shelf[0].weight = "a bear", 2.5
    assert [t.weight for t in settings.to_request().templates] == [2.5, 1, 1, 1]


def test_grease_pencil_is_a_sketch(block_out, shelf, pixels, look_from):
    is_legacy = bpy.app.version < (4, 3, 0)
    (bpy.ops.object.gpencil_add if is_legacy else bpy.ops.object.grease_pencil_add)(type="MONKEY")
    bpy.context.object.scale = (2, 2, 2)
    block_out[0].select_set(True)
    look_from(0)
    assert bpy.ops.recdreamer.capture_sketch() == {"FINISHED"}
    assert (shelf[0].source, shelf[0].label) == ("sketch", "front")
    picture = pixels(shelf[0])
    opaque = picture[..., 3] > 0.5
    assert opaque[256, 256] and not opaque[[0, -1]].any()
    assert picture[opaque][:, :3].min() < 0.2, "the lines"
    red, green, _blue, _alpha = np.moveaxis(picture, -1, 0)
    assert not ((red > 0.4) & (green < 0.25) & opaque).any(), "nothing of the red block-out"
    bpy.ops.recdreamer.redo_template(index=0)
    assert shelf[0].source == "sketch"
    assert np.abs(pixels(shelf[0]) - picture).mean() < 0.01


def test_no_drawing(block_out, look_from, shelf):
    look_from(0)
    with pytest.raises(RuntimeError, match="no Grease Pencil drawing in view"):
        bpy.ops.recdreamer.capture_sketch()
    assert not shelf


def test_closed_lines_become_paper(addon):
    drawing = np.zeros((40, 60, 4), np.float32)
    drawing[10, 10:31, 3] = drawing[30, 10:31, 3] = drawing[10:31, 10, 3] = drawing[10:31, 30, 3] = 1
    drawing[10:20, 40, 3] = drawing[10, 40:50, 3] = 1  # An open corner encloses nothing.
    filled = addon("shelf.pictures").fill_outline(drawing)
    assert (filled[11:30, 11:30] == 1).all(), "white paper"
    assert (filled[10, 10:31, :3] == 0).all(), "black lines"
    assert (filled[..., 3] > 0).sum() == 21 * 21 + 19


def test_the_arrow_shows_the_front(addon, block_out):
    gizmo = addon("shelf.front_gizmo")
    assert not gizmo.RECDREAMER_GGT_front.poll(bpy.context)
    bpy.context.scene.recdreamer.show_front = True
    assert gizmo.RECDREAMER_GGT_front.poll(bpy.context)
    bpy.context.view_layer.update()
    place = gizmo.place_of_front(bpy.context)
    assert place.z == pytest.approx(0, abs=1e-5) and place.x == pytest.approx(0, abs=1e-5)
    for direction, along in (("0", (0, -1, 0)), ("90", (1, 0, 0)), ("180", (0, 1, 0)), ("270", (-1, 0, 0))):
        bpy.ops.recdreamer.set_front(direction=direction)
        matrix = gizmo.arrow_matrix(place, bpy.context.scene.recdreamer.front)
        assert tuple(matrix.col[2].xyz) == pytest.approx(along, abs=1e-5)
        assert matrix.translation == place
    gizmo._set_front(math.pi / 2)
    assert bpy.context.scene.recdreamer.front_deg == pytest.approx(270), "turned clockwise"
    assert gizmo._get_front() == pytest.approx(-1.5 * math.pi)
    for obj in block_out:
        obj.select_set(False)
    bpy.context.scene.cursor.location = (1, 2, 3)
    assert tuple(gizmo.place_of_front(bpy.context)) == (1, 2, 3)
