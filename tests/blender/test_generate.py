"""From a block-out to a textured object in the scene, with the operators behind the buttons."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest
from mathutils import Vector


def press_generate(**overrides):
    assert bpy.ops.recdreamer.generate.poll()
    assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}


def test_four_templates_become_the_job(fake_backend, block_out, settle, preferences):
    assert bpy.ops.recdreamer.capture_turntable() == {"FINISHED"}
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a red bear"
    settings.templates[1].enabled = False
    press_generate()
    request = settle().folder.read_request()
    assert [(t.label, t.azimuth_deg, t.source) for t in request.templates] == [
        ("front", 0.0, "turntable"),
        ("back", 180.0, "turntable"),
        ("left", 270.0, "turntable"),
    ]
    assert request.templates[0].elevation_deg == pytest.approx(10, abs=1e-4)
    assert request.device == preferences.device
    folder = preferences.folder / "jobs"
    assert all((next(folder.iterdir()) / template.image).is_file() for template in request.templates)


def test_mesh_size_orientation_and_uvs(imported):
    obj, _ = imported
    mesh = obj.data
    assert (len(mesh.vertices), len(mesh.polygons)) == (8, 12), "welded"
    assert all(polygon.use_smooth for polygon in mesh.polygons)
    bpy.context.view_layer.update()
    assert np.allclose(obj.dimensions, (1.8, 0.9, 1.8), atol=1e-5), "metres, Z up"
    corners = np.array([obj.matrix_world @ Vector(corner) for corner in obj.bound_box])
    assert np.allclose(corners.min(0), (-0.9, -0.45, 0), atol=1e-5), "the origin is at the base"
    # The front of the fake result uses the lower left quarter of the texture.
    uvs = np.zeros(2 * len(mesh.loops), np.float32)
    mesh.uv_layers["UVMap"].uv.foreach_get("vector", uvs)
    for polygon in mesh.polygons:
        in_quarter = uvs.reshape(-1, 2)[polygon.loop_start : polygon.loop_start + 3].max() <= 0.5
        assert in_quarter == (polygon.normal.y < -0.9)


def test_material_has_the_texture_packed(imported, addon):
    obj, _job = imported
    material = obj.data.materials[0]
    principled = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    texture = principled.inputs["Base Color"].links[0].from_node
    image = texture.image
    assert principled.inputs["Roughness"].default_value == pytest.approx(
        addon("result.material").RESULT_ROUGHNESS
    )
    assert image.packed_file is not None and tuple(image.size) == (64, 64)
    assert image.colorspace_settings.name == "sRGB"
    lower_left = np.array(image.pixels[:]).reshape(64, 64, 4)[0, 0]
    assert np.allclose(lower_left[:3], np.array((220, 40, 30)) / 255, atol=0.01), "v goes up"


def test_custom_properties_record_how_it_was_made(imported):
    obj, job = imported
    assert obj.name == "a red béar"
    assert obj["recdreamer_job"] == job.id
    assert (obj["recdreamer_prompt"], obj["recdreamer_seed"]) == ("a red béar", 7)
    assert obj["recdreamer_method"] == "usd"
    assert json.loads(obj["recdreamer_settings"])["height_m"] == pytest.approx(1.8)


def test_the_result_is_visible_in_local_view(imported, view):
    obj, job = imported
    bpy.ops.mesh.primitive_cube_add()
    with view() as space:
        bpy.ops.view3d.localview()
        assert space.local_view and not obj.visible_get(viewport=space)
        bpy.ops.recdreamer.import_result(job_id=job.id)
        assert obj.visible_get(viewport=space)


def test_the_result_is_at_the_cursor_in_real_size(fake_backend, settle):
    scene = bpy.context.scene
    scene.unit_settings.scale_length = 0.01
    scene.cursor.location = (5, 6, 7)
    scene.recdreamer.prompt, scene.recdreamer.height = "a bear", 180
    press_generate()
    job = settle()
    assert job.request.height_m == pytest.approx(1.8)
    bpy.ops.recdreamer.import_result()
    bpy.context.view_layer.update()
    assert tuple(bpy.context.object.location) == (5, 6, 7)
    assert bpy.context.object.dimensions.z == pytest.approx(180, rel=1e-5)


def test_particles_stand_in_a_row_and_update_their_own_objects(fake_backend, settle):
    scene = bpy.context.scene
    scene.unit_settings.scale_length = 0.01
    scene.cursor.location = (5, 6, 7)
    scene.recdreamer.prompt = "a bear"
    press_generate(**{"optimize.num_particles": 3})
    settle()
    bpy.ops.recdreamer.import_result()
    bpy.context.view_layer.update()
    bears = bpy.context.selected_objects
    assert [bear["recdreamer_particle"] for bear in bears] == [0, 1, 2] and bpy.context.object == bears[0]
    width = bears[0].dimensions.x
    assert [bear.location.x for bear in bears] == pytest.approx(
        [5 + 1.2 * width * i for i in range(3)], rel=1e-5
    )
    assert {(bear.location.y, bear.location.z) for bear in bears} == {(6, 7)}
    assert len({bear.data.as_pointer() for bear in bears}) == 3
    bears[1].location, bears[2].name = (0, 0, 0), "the third"
    bpy.data.objects.remove(bears[0])
    bpy.ops.recdreamer.import_result()
    assert tuple(bears[1].location) == (0, 0, 0) and bears[2].name == "the third"
    assert sorted(bear["recdreamer_particle"] for bear in bpy.context.selected_objects) == [0, 1, 2]
    assert len(bpy.data.objects) == 3


def test_a_broken_particle_leaves_nothing_behind(fake_backend, settle):
    bpy.context.scene.recdreamer.prompt = "a bear"
    press_generate(**{"optimize.num_particles": 2})
    job = settle()
    (job.folder.result / "particle-1" / "albedo.png").write_bytes(b"no picture")
    counts = [len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images")]
    with pytest.raises(RuntimeError, match="texture of this job cannot be read"):
        bpy.ops.recdreamer.import_result()
    assert [len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images")] == counts


def test_pause_resume_cancel(fake_backend, addon, settle, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    press_generate(steps=2000)
    session = addon("session").session
    pump_until(lambda: session.shown.state.step > 2)
    assert bpy.ops.recdreamer.pause() == {"FINISHED"}
    assert settle().condition == "paused"
    assert bpy.ops.recdreamer.resume() == {"FINISHED"}
    pump_until(lambda: session.shown.condition == "running")
    assert bpy.ops.recdreamer.cancel() == {"FINISHED"}
    assert settle().condition == "cancelled"


def test_opening_another_file_loses_no_job(fake_backend, addon, settle, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    press_generate(steps=40)
    session = addon("session").session
    pump_until(lambda: session.shown.state.step > 2)
    bpy.ops.wm.read_homefile(use_empty=True)
    assert settle().condition == "done"
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}


def test_settings_of_an_earlier_job_are_restored(imported):
    _, job = imported
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.seed, settings.height = "other", 1, 9
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert (settings.prompt, settings.seed) == ("a red béar", 7)
    assert settings.height == pytest.approx(1.8)


def test_deleting_a_job_keeps_the_object(imported, addon):
    obj, job = imported
    assert bpy.ops.recdreamer.delete_job("EXEC_DEFAULT", job_id=job.id) == {"FINISHED"}
    assert not job.folder.root.exists()
    assert addon("session").session.shown is None
    assert obj.name in bpy.data.objects
    assert obj.data.materials[0].node_tree is not None
