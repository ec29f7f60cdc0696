"""What the artist sees after Import: beside what is there, framed, with its texture; and a result as an asset."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported


@pytest.fixture
def done(generate):
    return generate()[0]


def box_of(obj) -> tuple[np.ndarray, np.ndarray]:
    bpy.context.view_layer.update()
    corners = np.array(
        [obj.matrix_world @ __import__("mathutils").Vector(corner) for corner in obj.bound_box]
    )
    return corners.min(0), corners.max(0)


def test_a_new_result_stands_beside_what_is_there(done):
    cube, far = add_cube(scale=(2, 2, 2)), add_cube(location=(30, 0, 0))
    next_to_it = add_cube(location=(1.6, 0, 0.5))
    bpy.context.scene.cursor.location = (0, 0, 0)
    bpy.ops.recdreamer.import_result(job_id=done.id)
    low, high = box_of(bpy.context.object)
    for other in (cube, far, next_to_it):
        other_low, other_high = box_of(other)
        assert (low >= other_high).any() or (high <= other_low).any(), other.name
    assert low[0] < 5 and bpy.context.object.location.y == 0


def test_an_empty_place_is_taken_as_it_is(done):
    add_cube(location=(5, 0, 0))
    bpy.context.scene.cursor.location = (1, 2, 3)
    bpy.ops.recdreamer.import_result(job_id=done.id)
    assert tuple(bpy.context.object.location) == (1, 2, 3)


def test_a_selected_empty_is_the_place(done):
    add_cube()
    bpy.ops.object.empty_add(location=(3, 4, 5), rotation=(0, 0, 1))
    empty = bpy.context.object
    empty.scale = (2, 2, 2)
    bpy.context.view_layer.update()
    bpy.ops.recdreamer.import_result(job_id=done.id)
    bear = bpy.context.object
    assert np.allclose(bear.matrix_world, empty.matrix_world) and bear != empty


def test_solid_shading_shows_the_texture_unless_it_was_set_to_something_else(done, view):
    with view() as space:
        assert (space.shading.type, space.shading.color_type) == ("SOLID", "MATERIAL")
        bpy.ops.recdreamer.import_result(job_id=done.id, show_texture=False)
        assert space.shading.color_type == "MATERIAL"
        bpy.ops.recdreamer.import_result(job_id=done.id)
        assert space.shading.color_type == "TEXTURE"
        space.shading.color_type = "RANDOM"
        bpy.ops.recdreamer.import_result(job_id=done.id)
        assert space.shading.color_type == "RANDOM"


def test_a_new_result_is_framed_and_an_updated_one_is_not(done, view):
    bpy.context.scene.cursor.location = (50, 0, 0)
    with view() as space:
        space.region_3d.view_location = (0, 0, 0)
        bpy.ops.recdreamer.import_result(job_id=done.id)
        assert space.region_3d.view_location.x == pytest.approx(50, abs=1)
        space.region_3d.view_location = (0, 0, 0)
        bpy.ops.recdreamer.import_result(job_id=done.id)
        assert tuple(space.region_3d.view_location) == (0, 0, 0)


def test_a_result_becomes_an_asset_with_a_picture(done):
    bpy.ops.recdreamer.import_result(job_id=done.id)
    bear = bpy.context.object
    assert bpy.ops.recdreamer.mark_asset() == {"FINISHED"}
    assert bear.asset_data.description == "a red bear"
    assert {tag.name for tag in bear.asset_data.tags} == {"red", "bear"}
    assert tuple(bear.preview.image_size) == (256, 256)
    pixels = np.empty(256 * 256 * 4, np.float32)
    bear.preview.image_pixels_float.foreach_get(pixels)
    middle = pixels.reshape(256, 256, 4)[128, 128]
    assert middle[0] > 0.6 > 0.4 > middle[2] and middle[3] == 1, "the red disc of the preview"
    bpy.ops.recdreamer.mark_asset(tags="hero, toy")
    assert {tag.name for tag in bear.asset_data.tags} == {"red", "bear", "hero", "toy"}


def test_only_results_become_assets(done):
    add_cube()
    assert "Make an imported result" in reported(bpy.ops.recdreamer.mark_asset)
