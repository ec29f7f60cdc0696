"""Start from an object: the files in the job's folder, and the messages about missing input."""

from __future__ import annotations

import math
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported, volume


def test_by_default_a_job_starts_from_the_prompt(settings, generate):
    job, mesh = generate()
    assert mesh is None and not (job.folder.root / "start").exists()
    request = job.folder.read_request()
    assert (request.start, request.stages, request.start_mesh) == (
        "prompt",
        ("shape", "geometry", "texture"),
        "",
    )


def test_modifiers_and_transform_are_applied(settings, generate):
    cube = add_cube((3, 4, 5), (1, 2, 3))
    cube.modifiers.new("Bevel", "BEVEL").width = 0.1
    cube.rotation_euler.z = math.radians(90)
    settings.start.kind, settings.start.object, settings.start.strength = "object", cube, 0.4
    settings.start.stages = {"texture", "shape"}
    job, mesh = generate()
    request = job.folder.read_request()
    assert request.start_mesh == "start/mesh.npz" and request.strength == pytest.approx(0.4)
    assert request.stages == ("shape", "texture")
    assert request.height_m == pytest.approx(3, rel=1e-5), "it keeps its size"
    verts, faces = mesh["verts"], mesh["faces"]
    assert verts.dtype == np.float32 and faces.dtype == np.int32 and len(verts) > 8
    assert np.allclose(verts.min(0), (-1, -0.5, 0), atol=1e-5) and np.allclose(
        verts.max(0), (1, 0.5, 3), atol=1e-5
    )
    assert mesh["uvs"].shape == (len(faces), 3, 2) and mesh["uvs"].dtype == np.float32
    assert 5.5 < volume(mesh) < 6, "counter-clockwise seen from outside"
    assert "region" not in mesh and "rgb" not in mesh
    assert len(bpy.data.scenes) == 1


def test_front_unit_and_mirrored_scale(settings, generate):
    scene = bpy.context.scene
    scene.unit_settings.scale_length = 0.01
    cube = add_cube((100, 0, 50), (100, 200, 100))
    cube.scale.x = -100
    cube.data.vertices[0].co.x -= 1  # Make the sides distinguishable.
    settings.front = math.radians(90)
    settings.start.kind, settings.start.object = "object", cube
    job, mesh = generate()
    assert volume(mesh) > 0
    assert np.ptp(mesh["verts"], axis=0) == pytest.approx((2, 2, 1), rel=1e-5), "in metres, front to -Y"
    # In the world the spike points along +X, which is the front.
    spike = mesh["verts"][np.argmax(np.abs(mesh["verts"] - mesh["verts"].mean(0)).max(1))]
    assert mesh["verts"][:, 1].min() == pytest.approx(spike[1], abs=1e-6)

    bpy.ops.recdreamer.import_result(job_id=job.id)
    bpy.context.view_layer.update()
    result = bpy.context.object
    assert result.rotation_euler.z == pytest.approx(math.radians(90))
    assert result.dimensions.z == pytest.approx(100, rel=1e-5)
    assert tuple(result.location) == pytest.approx((150, 0, 0), abs=1e-2), "the middle of its base"
    assert cube.hide_get() and not result.hide_get()
    assert cube.hide_render and not result.hide_render


def test_own_height_and_a_visible_start(settings, generate):
    cube = add_cube()
    settings.start.kind, settings.start.object, settings.start.keep_size = "object", cube, False
    settings.height = 2.5
    job, _ = generate()
    assert job.request.height_m == pytest.approx(2.5)
    bpy.ops.recdreamer.import_result(job_id=job.id, hide_start=False)
    assert not cube.hide_get()


def test_children_are_included_also_when_hidden(settings, generate, block_out):
    body, head, nose = block_out
    for part in (head, nose):
        part.parent = body
        part.matrix_parent_inverse = body.matrix_world.inverted()
    settings.start.kind, settings.start.object = "object", body
    nose.hide_render = True
    job, mesh = generate()
    assert len(mesh["verts"]) == 8 + len(head.data.vertices)
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert body.hide_get() and head.hide_get() and not nose.hide_get()
    assert body.hide_render and head.hide_render
    for part in (body, head):
        part.hide_set(False)
        part.hide_render = False
    head.name = "my head"
    bpy.ops.mesh.primitive_cube_add()
    bpy.context.object.name = "Sphere"
    bpy.data.objects.remove(next(obj for obj in bpy.data.objects if obj.get("recdreamer_job")))
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert head.hide_get() and not bpy.data.objects["Sphere"].hide_get()
    bpy.data.objects.remove(bpy.data.objects["Sphere"])
    settings.method = "usd"
    _, again = generate()
    assert len(settings.templates) == 4, "objects that the add-on hid are captured, too"
    assert body.hide_render and head.hide_render
    assert np.array_equal(mesh["verts"], again["verts"]) and np.array_equal(mesh["faces"], again["faces"])
    settings.start.use_children = False
    assert len(generate()[1]["verts"]) == 8


def test_text_can_be_a_start_but_not_be_painted(settings, generate, sentence):
    bpy.ops.object.text_add()
    text = bpy.context.object
    text.data.extrude = 0.2
    settings.start.kind, settings.start.object = "object", text
    assert sentence() == ""
    assert len(generate()[1]["faces"]) > 10
    settings.start.kind = "texture"
    assert sentence() == "'Text' is not a mesh. Pick a mesh object, or convert it (Object › Convert)."
    settings.start.kind, settings.start.region = "object", "of another object"
    assert sentence() == "" and settings.start.region_object is None


def test_tiles_stay_and_loose_parts_go(settings, generate):
    cube = add_cube()
    uvs = np.empty(2 * 24, np.float32)
    cube.data.uv_layers.active.uv.foreach_get("vector", uvs)
    uvs[::2] += 1
    cube.data.uv_layers.active.uv.foreach_set("vector", uvs)
    mesh = cube.data
    mesh.vertices.add(1)
    mesh.vertices[8].co = (50, 50, 50)
    settings.start.kind, settings.start.object = "texture", cube
    job, arrays = generate()
    assert len(arrays["verts"]) == 8 and arrays["faces"].max() == 7
    assert arrays["uvs"][..., 0].min() >= 1 and arrays["uvs"][..., 0].max() <= 2
    assert job.folder.read_request().stages == ("texture",)


def test_missing_input(settings, sentence):
    start = settings.start
    start.kind = "object"
    assert sentence() == "No object is picked to start from. Pick one with the eyedropper."
    start.kind = "texture"
    assert sentence() == "No object is picked to paint. Pick one with the eyedropper."
    start.kind, start.object = "object", add_cube()
    start.stages = set()
    assert sentence() == "All stages are disabled. Enable Shape, Geometry or Texture."
    start.stages = {"geometry"}
    assert sentence() == ""
    start.kind = "prompt"
    assert "Without the shape stage the job has no shape to begin with." in sentence()
    start.kind = "object"
    bpy.ops.object.mode_set(mode="EDIT")
    assert sentence() == "'Cube' is in Edit Mode. Leave Edit Mode first."
    bpy.ops.object.mode_set(mode="OBJECT")
    start.object.hide_viewport = True
    assert "'Cube' is disabled in viewports." in sentence()
    start.object.hide_viewport = False
    bpy.context.scene.collection.objects.unlink(start.object)
    assert sentence() == "'Cube' is no longer in this scene. Pick another object."


def test_unusable_meshes(settings, sentence, addon, monkeypatch, preferences):
    start = settings.start
    bpy.ops.mesh.primitive_plane_add()
    start.kind, start.object = "object", bpy.context.object
    assert "'Plane' is flat." in reported()
    start.object.data.clear_geometry()
    assert "'Plane' has no faces. Add some, or pick another object." in reported()
    start.kind = "texture"
    assert sentence() == "'Plane' has no faces to paint on. Add some, or pick another object."
    start.kind, start.object = "object", add_cube()
    monkeypatch.setattr(addon("start.mesh_capture"), "MAX_TRIANGLES", 10)
    assert "'Cube' has 12 triangles, more than 10. Add a Decimate modifier" in reported()
    assert not list((preferences.folder / "jobs").glob("*")), "no half job is left"
    assert len(bpy.data.scenes) == 1


def test_no_uv_map_and_modifiers(settings):
    cube = add_cube()
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    cube.modifiers.new("Subdivision", "SUBSURF")
    settings.start.kind, settings.start.object = "texture", cube
    assert "'Cube' has no UV map, and its modifiers change its faces." in reported()


def test_turntable_of_the_start_fills_an_empty_shelf(settings, generate):
    cube = add_cube()
    settings.method, settings.start.kind, settings.start.object = "usd", "object", cube
    cube.hide_set(True)
    job, _ = generate()
    assert [t.label for t in job.folder.read_request().templates] == ["front", "right", "back", "left"]
    assert len(settings.templates) == 4 and Path(settings.templates[0].path).is_file()
    generate()
    assert len(settings.templates) == 4, "only once"
    pictures = [template.image for template in settings.templates]
    cube.location.x += 1
    cube.name = "my cube"
    generate()
    assert [template.image for template in settings.templates] == pictures, "it looks the same"
    cube.data.vertices[0].co.x -= 1
    generate()
    again = [template.image for template in settings.templates]
    assert len(again) == 4 and not set(again) & set(pictures), "it has changed"
    settings.start.object = add_cube((0, 0, 0), (3, 1, 1))
    job, _ = generate()
    assert len(settings.templates) == 4 and not {t.image for t in settings.templates} & set(again)
    assert len(job.folder.read_request().templates) == 4
    settings.templates[0].taken_of = ""
    settings.start.object = cube
    again = [template.image for template in settings.templates]
    generate()
    assert [template.image for template in settings.templates] == again, "one of the artist's own"
    settings.templates.clear()
    settings.start.auto_turntable = False
    job, _ = generate()
    assert not job.folder.read_request().templates


def test_half_a_million_faces_take_seconds(settings, addon):
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=500, y_subdivisions=500)
    grid = bpy.context.object
    grid.data.vertices[0].co.z = 1
    started = time.monotonic()
    captured = addon("start.mesh_capture").capture_mesh([grid], bpy.context)
    assert len(captured.arrays["faces"]) == 500_000
    assert time.monotonic() - started < 20
