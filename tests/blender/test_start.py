"""Where a job starts: what is written into its folder, and what is said when something is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import bpy
import numpy as np
import pytest


@pytest.fixture
def settings(fake_backend):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a red bear", "vsd"
    return settings


@pytest.fixture
def sentence(addon):
    """Why Generate is grey."""
    return lambda: addon("operators").why_not_generate(bpy.context)


@pytest.fixture
def generate(settings, settle):
    """Press Generate and wait; returns the job and what its start mesh holds."""

    def generate(**overrides):
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        job = settle()
        assert job.condition == "done", job.state
        path = job.folder.root / "start/mesh.npz"
        if not path.is_file():
            return job, None
        with np.load(path, allow_pickle=False) as arrays:
            return job, {name: arrays[name] for name in arrays.files}

    return generate


def reported(operator=None, **properties) -> str:
    with pytest.raises(RuntimeError) as caught:
        (operator or bpy.ops.recdreamer.generate)(**properties)
    return str(caught.value).strip()


def add_cube(location=(0, 0, 0), scale=(1, 1, 1)):
    bpy.ops.mesh.primitive_cube_add(size=1, location=location)
    cube = bpy.context.object
    cube.scale = scale
    return cube


def without_uvs(obj):
    while obj.data.uv_layers:
        obj.data.uv_layers.remove(obj.data.uv_layers[0])
    return obj


def volume(mesh) -> float:
    a, b, c = (mesh["verts"][mesh["faces"][:, corner]].astype(float) for corner in range(3))
    return float(np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6)


def test_without_a_choice_the_request_is_the_old_one(settings, generate):
    job, mesh = generate()
    assert mesh is None and not (job.folder.root / "start").exists()
    request = job.folder.read_request()
    assert (request.start, request.stages, request.start_mesh) == (
        "prompt",
        ("shape", "geometry", "texture"),
        "",
    )


def test_object_as_modifiers_and_transform_leave_it(settings, generate):
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
    cube.data.vertices[0].co.x -= 1  # So that one side is told from the other.
    settings.front = math.radians(90)
    settings.start.kind, settings.start.object = "object", cube
    job, mesh = generate()
    assert volume(mesh) > 0
    assert np.ptp(mesh["verts"], axis=0) == pytest.approx((2, 2, 1), rel=1e-5), "in metres, front to -Y"
    # In the world the spike looks along +X, which is the front.
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


def test_children_are_one_shape_with_it_also_when_hidden(settings, generate, block_out):
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
    assert len(settings.templates) == 4, "a turntable of what we have hidden"
    assert body.hide_render and head.hide_render
    assert np.array_equal(mesh["verts"], again["verts"]) and np.array_equal(mesh["faces"], again["faces"])
    settings.start.use_children = False
    assert len(generate()[1]["verts"]) == 8


def test_text_is_a_start_and_no_canvas(settings, generate, sentence):
    bpy.ops.object.text_add()
    text = bpy.context.object
    text.data.extrude = 0.2
    settings.start.kind, settings.start.object = "object", text
    assert sentence() == ""
    assert len(generate()[1]["faces"]) > 10
    settings.start.kind = "texture"
    assert sentence() == "'Text' is no mesh. Pick a mesh object, or convert it (Object › Convert)."
    settings.start.kind, settings.start.region = "object", "of another object"
    assert sentence() == "" and settings.start.region_object is None


@pytest.mark.parametrize(("kind", "domain"), [("BYTE_COLOR", "CORNER"), ("FLOAT_COLOR", "POINT")])
def test_colours_are_srgb_of_each_vertex(settings, generate, kind, domain):
    cube = add_cube()
    attribute = cube.data.color_attributes.new("paint", kind, domain)
    attribute.data.foreach_set("color", np.tile((0.2140411, 0.0, 1.0, 1.0), len(attribute.data)))
    cube.data.color_attributes.active_color = attribute
    settings.start.kind, settings.start.object = "object", cube
    _, mesh = generate()
    assert mesh["rgb"].shape == (8, 3) and mesh["rgb"].dtype == np.float32
    assert np.allclose(mesh["rgb"], (0.5, 0, 1), atol=5e-3)


def test_region_through_a_modifier(settings, generate, sentence):
    cube = add_cube()
    group = cube.vertex_groups.new(name="hat")
    settings.start.kind, settings.start.object, settings.start.region = "object", cube, "hat"
    assert "The vertex group 'hat' of 'Cube' is empty, so nothing may change." in reported()
    group.add([v.index for v in cube.data.vertices if v.co.z > 0], 1.0, "REPLACE")
    _, mesh = generate()
    assert np.array_equal(mesh["region"], (mesh["verts"][:, 2] > 0.5).astype(np.float32))
    subdivision = cube.modifiers.new("Subdivision", "SUBSURF")
    subdivision.subdivision_type, subdivision.levels = "SIMPLE", 1
    _, mesh = generate()
    assert len(mesh["region"]) == len(mesh["verts"]) == 26
    assert set(np.round(mesh["region"], 3)) == {0, 0.5, 1}
    cube.modifiers.clear()
    cube.modifiers.new("Remesh", "REMESH").voxel_size = 0.2
    assert "The vertex group 'hat' of 'Cube' is lost in its modifiers." in reported()
    cube.modifiers.clear()
    group.add(range(8), 1.0, "REPLACE")
    assert "The vertex group 'hat' of 'Cube' holds every vertex, so everything may change." in reported()
    cube.vertex_groups.clear()
    missing = "'Cube' has no vertex group or colour attribute 'hat'. Choose another region, or Everything."
    assert sentence() == missing


def paint_mask(obj, domain, kind, rgba):
    """A colour attribute whose value is `rgba` of the vertex's place."""
    mask = obj.data.color_attributes.new("mask", kind, domain)
    verts = (
        [v.index for v in obj.data.vertices]
        if domain == "POINT"
        else [c.vertex_index for c in obj.data.loops]
    )
    colors = [rgba(obj.data.vertices[index].co) for index in verts]
    mask.data.foreach_set("color_srgb", np.array(colors, np.float32).ravel())
    return mask


@pytest.mark.parametrize("domain", ["POINT", "CORNER"])
@pytest.mark.parametrize("kind", ["BYTE_COLOR", "FLOAT_COLOR"])
@pytest.mark.parametrize("channel", [1, 3])
def test_painted_mask_is_the_region(settings, generate, domain, kind, channel):
    """In any colour, or, where all is of one colour, in alpha."""

    def rgba(place):
        values = [0.0, 0.0, 0.0, 1.0]
        values[channel] = (0.2, 1.0)[place.z > 0]
        return values

    cube = add_cube()
    mask = paint_mask(cube, domain, kind, rgba)
    cube.data.color_attributes.active_color = mask
    cube.data.materials.append(bpy.data.materials.new("plain"))
    settings.start.kind, settings.start.object, settings.start.region = "object", cube, "mask"
    _, mesh = generate()
    expected = np.where(mesh["verts"][:, 2] > 0.5, 1, 0.2)
    assert mesh["region"].dtype == np.float32 and np.allclose(mesh["region"], expected, atol=2e-3)
    assert np.ptp(mesh["rgb"]) < 0.01, "the mask is no colour of what stays"


def test_a_mask_that_limits_nothing_or_allows_nothing(settings, sentence):
    cube = add_cube()
    mask = paint_mask(cube, "CORNER", "BYTE_COLOR", lambda place: (0, 0, 0, 1))
    settings.start.kind, settings.start.object, settings.start.region = "texture", cube, "mask"
    assert sentence() == ""
    assert "The colour attribute 'mask' of 'Cube' is black all over, so nothing may change." in reported()
    mask.data.foreach_set("color", [1] * (4 * len(mask.data)))
    assert "The colour attribute 'mask' of 'Cube' is white all over, so everything may change." in reported()


@pytest.mark.parametrize("name", [".sculpt_mask", ".select_vert"])
def test_sculpt_mask_and_selection(settings, generate, name):
    cube = add_cube()
    is_masked = name == ".sculpt_mask"
    attributes = cube.data.attributes
    attribute = attributes.get(name) or attributes.new(name, "FLOAT" if is_masked else "BOOLEAN", "POINT")
    attribute.data.foreach_set("value", [(v.co.z > 0) != is_masked for v in cube.data.vertices])
    settings.start.kind, settings.start.object = "object", cube
    assert name in [item[0] for item in region_items(settings)]
    settings.start.region_item = name
    child = add_cube((3, 0, 0))
    child.parent = cube
    _, mesh = generate()
    is_of_child = mesh["verts"][:, 0] > 0
    if is_masked:
        assert (mesh["region"][is_of_child] == 1).all(), "it has no mask"
    mesh = {key: mesh[key][~is_of_child] for key in ("verts", "region")}
    assert np.array_equal(mesh["region"], (mesh["verts"][:, 2] > 0.5).astype(np.float32))


def region_items(settings):
    """What the panel offers: name and icon."""
    module = __import__(type(settings.start).__module__, fromlist=["_region_items"])
    return [(item[0], item[3]) for item in module._region_items(settings.start, bpy.context)]


def test_one_list_of_regions(settings, sentence):
    cube = add_cube()
    cube.vertex_groups.new(name="hat").add([0], 1, "REPLACE")
    paint_mask(cube, "POINT", "FLOAT_COLOR", lambda place: (0, 0, 0, 1))
    start = settings.start
    start.kind, start.object = "object", cube
    items = region_items(settings)
    assert items[:3] == [("EVERYTHING", "WORLD"), ("hat", "GROUP_VERTEX"), ("mask", "GROUP_VCOL")]
    assert start.region_item == "EVERYTHING"
    start.region_item = "mask"
    assert start.region == "mask" and sentence() == ""
    cube.data.color_attributes.remove(cube.data.color_attributes["mask"])
    assert region_items(settings)[-1] == ("mask", "ERROR") and start.region_item == "mask"
    start.region_item = "EVERYTHING"
    assert start.region == "" and region_items(settings) == [item for item in items if item[0] != "mask"]


def test_materials_colour_what_a_region_leaves(settings, generate):
    cube = add_cube()
    cube.vertex_groups.new(name="hat").add([0], 1, "REPLACE")
    plain, pictured = (bpy.data.materials.new(name) for name in ("plain", "pictured"))
    for material in (plain, pictured):
        if bpy.app.version < (5, 0, 0):
            material.use_nodes = True
        cube.data.materials.append(material)
    inputs = plain.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (0.2140411, 0, 1, 1)
    settings.start.kind, settings.start.object = "object", cube
    assert "rgb" not in generate()[1], "only a region needs it"
    settings.start.region = "hat"
    assert np.allclose(generate()[1]["rgb"], (0.5, 0, 1), atol=1e-3)
    image = bpy.data.images.new("picture", 4, 4)
    image.pixels.foreach_set(np.tile(np.float32((0.5, 0.25, 0, 1)), 16))
    texture = pictured.node_tree.nodes.new("ShaderNodeTexImage")
    texture.image = image
    inputs = pictured.node_tree.nodes["Principled BSDF"].inputs
    pictured.node_tree.links.new(texture.outputs["Color"], inputs["Base Color"])
    cube.data.polygons.foreach_set("material_index", [1] * 6)
    assert np.allclose(generate()[1]["rgb"], (0.5, 0.25, 0), atol=5e-3)
    cube.data.materials.clear()
    assert "rgb" not in generate()[1]


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


def test_settings_of_a_job_bring_its_object_back(settings, generate):
    cube = add_cube()
    cube.vertex_groups.new(name="hat").add([0, 1], 1, "REPLACE")
    start = settings.start
    start.kind, start.object, start.region, start.strength = "object", cube, "hat", 0.2
    start.stages = {"shape"}
    job, _ = generate()
    cube.name = "my cube"
    start.kind, start.object, start.region, start.strength = "prompt", None, "", 0.9
    start.stages = {"shape", "texture"}
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert (start.kind, start.object, start.region, start.stages) == ("object", cube, "hat", {"shape"})
    assert start.strength == pytest.approx(0.2)


def test_all_of_the_panel_comes_back(settings, generate, preferences):
    settings.method, settings.pose_mode, settings.quality, settings.seed = "usd", "marginal", "quick", 7
    settings.prior, settings.keep_running, settings.height = "some/prior", True, 3
    body, head = add_cube(), add_cube((0, 0, 1))
    head.parent = body
    start = settings.start
    start.kind, start.object, start.strength, start.use_children = "object", body, 0.2, False
    start.keep_size, start.stages, settings.front = False, {"shape"}, 1
    bpy.ops.recdreamer.capture_turntable()
    settings.templates[0].weight, settings.templates[1].enabled = 2, False
    bpy.ops.recdreamer.mirror_template(index=3)
    job, _ = generate()

    def panel():
        names = (
            "prompt",
            "method",
            "pose_mode",
            "quality",
            "seed",
            "prior",
            "keep_running",
            "height",
            "front",
        )
        of_start = ("kind", "object", "strength", "use_children", "keep_size", "stages", "region")
        cards = {(t.label, t.source, t.mirrored, t.weight, t.azimuth_deg) for t in settings.enabled_templates}
        values = [getattr(settings, name) for name in names] + [getattr(start, name) for name in of_start]
        return values, cards, preferences.device

    before = panel()
    settings.method, settings.pose_mode, settings.quality, settings.seed = "vsd", "camera", "standard", 1
    settings.prior, settings.keep_running, settings.height, settings.front = "builtin", False, 1, 0
    start.kind, start.object, start.strength, start.use_children = "prompt", None, 0.9, True
    start.keep_size, start.stages, preferences.device = True, {"texture"}, "auto"
    for index in (3, 1, 0):
        settings.templates.remove(index)
    settings.templates[0].weight = 5
    settings.templates[1].enabled = False
    settings.templates.add().label = "of the artist"
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert panel() == before
    assert len(settings.templates) == 5 and not settings.templates[2].enabled
    bpy.ops.recdreamer.use_settings(job_id=job.id)
    assert len(settings.templates) == 5, "none twice"


def test_missing_things(settings, sentence):
    start = settings.start
    start.kind = "object"
    assert sentence() == "No object is picked to start from. Pick one with the eyedropper."
    start.kind = "texture"
    assert sentence() == "No object is picked to paint. Pick one with the eyedropper."
    start.kind, start.object = "object", add_cube()
    start.stages = set()
    assert sentence() == "All stages are switched off. Switch on Shape, Geometry or Texture."
    start.stages = {"geometry"}
    assert sentence() == ""
    start.kind = "prompt"
    assert "Without the shape stage there is nothing to begin with." in sentence()
    start.kind = "object"
    bpy.ops.object.mode_set(mode="EDIT")
    assert sentence() == "'Cube' is in Edit Mode. Leave Edit Mode first."
    bpy.ops.object.mode_set(mode="OBJECT")
    start.object.hide_viewport = True
    assert "'Cube' is disabled in viewports." in sentence()
    start.object.hide_viewport = False
    bpy.context.scene.collection.objects.unlink(start.object)
    assert sentence() == "'Cube' is not in this scene any more. Pick another object."


def test_meshes_that_are_none(settings, sentence, addon, monkeypatch, preferences):
    start = settings.start
    bpy.ops.mesh.primitive_plane_add()
    start.kind, start.object = "object", bpy.context.object
    assert "'Plane' is flat." in reported()
    start.object.data.clear_geometry()
    assert "'Plane' has no faces. Add some, or pick another object." in reported()
    start.kind = "texture"
    assert sentence() == "'Plane' has no faces to paint on. Add some, or pick another object."
    start.kind, start.object = "object", add_cube()
    monkeypatch.setattr(addon("mesh_capture"), "MAX_TRIANGLES", 10)
    assert "'Cube' has 12 triangles, more than 10. Add a Decimate modifier" in reported()
    assert not list((preferences.folder / "jobs").glob("*")), "no half job is left"
    assert len(bpy.data.scenes) == 1


def test_no_uv_map_and_modifiers(settings):
    cube = without_uvs(add_cube())
    cube.modifiers.new("Subdivision", "SUBSURF")
    settings.start.kind, settings.start.object = "texture", cube
    assert "'Cube' has no UV map, and its modifiers make other faces than it has." in reported()


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


def test_continue_a_result(settings, generate, sentence):
    first, _ = generate()
    settings.start.kind = "continue"
    assert sentence().startswith("There is no result to continue.")
    assert bpy.ops.recdreamer.continue_job(job_id=first.id) == {"FINISHED"}
    settings.prompt, settings.seed = "a red bear with a hat", 5
    job, mesh = generate()
    request = job.folder.read_request()
    assert (request.start, request.start_job, mesh) == ("continue", str(first.folder.root), None)
    assert (request.prompt, request.seed) == ("a red bear with a hat", 5)

    settings.start.kind = "prompt"
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert (settings.start.kind, settings.start.job) == ("continue", first.id)
    bpy.ops.recdreamer.delete_job("EXEC_DEFAULT", job_id=first.id)
    assert sentence() == f"The job {first.id} is gone. Choose another result to continue."


def test_continue_the_active_object_with_a_region(settings, generate):
    assert not bpy.ops.recdreamer.continue_selected.poll()
    first, _ = generate()
    bpy.ops.recdreamer.import_result(job_id=first.id)
    result = bpy.context.object
    result.location, result.rotation_euler.z = (7, 8, 9), 1
    result.vertex_groups.new(name="hat").add([4, 5, 6, 7], 1, "REPLACE")
    assert bpy.ops.recdreamer.continue_selected() == {"FINISHED"}
    settings.start.region = "hat"
    job, mesh = generate()
    assert job.folder.read_request().start_mesh == "start/mesh.npz"
    assert np.allclose(mesh["verts"].min(0), (-0.5, -0.25, 0), atol=1e-6), "in the space of its job"
    assert np.array_equal(mesh["region"], [0, 0, 0, 0, 1, 1, 1, 1])
    bpy.data.objects.remove(result)
    assert generate()[1] is None, "without the object there is no region"


def corners_in_world(obj):
    bpy.context.view_layer.update()
    return np.array([obj.matrix_world @ vertex.co for vertex in obj.data.vertices])


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("has_region", [False, True])
def test_a_continued_result_takes_the_place_of_the_earlier(settings, generate, is_applied, has_region):
    bpy.context.scene.unit_settings.scale_length = 0.1
    settings.height = 15
    first, _ = generate()
    bpy.ops.recdreamer.import_result(job_id=first.id)
    result = bpy.context.object
    result.vertex_groups.new(name="hat").add([4, 5, 6, 7], 1, "REPLACE")
    result.location, result.rotation_euler.z = (7, 8, 9), 1
    result.scale *= 2
    if is_applied:
        result.scale.x *= -2
        bpy.ops.object.transform_apply()
    before = corners_in_world(result)
    bpy.ops.recdreamer.continue_selected()
    settings.start.region, settings.height = "hat" if has_region else "", 99
    job, mesh = generate()
    assert job.request.height_m == pytest.approx(9.9 if has_region else 1.5)
    if has_region:
        assert np.allclose(mesh["verts"].max(0), (0.75, 0.375, 1.5), atol=1e-5), "in the space of its job"
        assert volume(mesh) > 0
        return  # The stand-in makes no mesh that keeps a region.
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose(corners_in_world(bpy.context.object), before, atol=1e-4)
    assert result.hide_get() and bpy.context.object != result
    bpy.data.objects.remove(bpy.context.object)
    bpy.data.objects.remove(result)
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose(corners_in_world(bpy.context.object), before, atol=1e-4), "also once that is gone"


def test_a_continued_result_of_another_height(settings, generate):
    first, _ = generate()
    bpy.ops.recdreamer.import_result(job_id=first.id)
    result = bpy.context.object
    result.location, result.scale = (7, 8, 9), (3, 3, 3)
    bpy.ops.recdreamer.continue_selected()
    settings.start.keep_size, settings.height = False, 2.5
    job, _ = generate()
    bpy.ops.recdreamer.import_result(job_id=job.id, hide_start=False)
    corners = corners_in_world(bpy.context.object)
    assert corners.min(0)[2] == pytest.approx(9) and np.ptp(corners[:, 2]) == pytest.approx(2.5)
    assert not result.hide_get()


def test_vertices_moved_by_hand_do_not_move_the_space_of_the_job(settings, generate, addon):
    bpy.ops.mesh.primitive_uv_sphere_add()
    sphere = bpy.context.object
    rest = addon("rest")
    rest.write_rest(sphere.data, np.array([vertex.co for vertex in sphere.data.vertices]))
    for vertex in sphere.data.vertices:
        vertex.co.z += 2 * (vertex.co.z > 0.3)
    assert np.array_equal(rest.frame_of(sphere.data), np.eye(4))
    sphere.rotation_euler, sphere.location, sphere.scale = (1, 2, 3), (4, 5, 6), (1, 2, 3)
    bpy.context.view_layer.update()
    matrix = np.array(sphere.matrix_world)
    bpy.ops.object.transform_apply()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.subdivide()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert np.allclose(rest.frame_of(sphere.data), matrix, atol=1e-3)


def test_a_job_without_a_result_is_not_continued(settings, generate, addon, settle):
    bpy.ops.recdreamer.generate(overrides='{"fake": "fail"}')
    failed = settle()
    assert "This job has no result yet." in reported(bpy.ops.recdreamer.continue_job, job_id=failed.id)
    assert settings.start.kind == "prompt"
    assert [job for job, _ in addon("start")._search_jobs(settings.start, bpy.context, "")] == []
    done, _ = generate()
    assert addon("start")._search_jobs(settings.start, bpy.context, "") == [(done.id, "a red bear")]


def test_half_a_million_faces_take_seconds(settings, addon):
    import time

    bpy.ops.mesh.primitive_grid_add(x_subdivisions=500, y_subdivisions=500)
    grid = bpy.context.object
    grid.data.vertices[0].co.z = 1
    started = time.monotonic()
    captured = addon("mesh_capture").capture_mesh([grid], bpy.context)
    assert len(captured.arrays["faces"]) == 500_000
    assert time.monotonic() - started < 20
