"""A painted texture on the artist's own object, and the images of a result."""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest


@pytest.fixture
def paint(fake_backend, settle):
    """Paint an object and return the finished job, which is not imported yet."""

    def paint(obj, **overrides):
        settings = bpy.context.scene.recdreamer
        settings.prompt, settings.method = "a red bear", "vsd"
        settings.start.kind, settings.start.object = "texture", obj
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        job = settle()
        assert job.condition == "done", job.state
        return job

    return paint


@pytest.fixture
def cube(extension):
    """A cube with two materials: blue on the top face, else green."""
    bpy.ops.mesh.primitive_cube_add(size=1, location=(1, 2, 3))
    cube = bpy.context.object
    for name in ("green", "blue"):
        cube.data.materials.append(bpy.data.materials.new(name))
    for polygon in cube.data.polygons:
        polygon.material_index = int(polygon.normal.z > 0.5)
    return cube


def slots(obj) -> list[str]:
    return [slot.material.name if slot.material else "" for slot in obj.material_slots]


def indices(obj) -> list[int]:
    return [polygon.material_index for polygon in obj.data.polygons]


def read_uvs(obj, name) -> np.ndarray:
    uvs = np.empty(2 * len(obj.data.loops), np.float32)
    obj.data.uv_layers[name].uv.foreach_get("vector", uvs)
    return uvs.reshape(-1, 2)


def images_of(material) -> dict[str, bpy.types.Image]:
    """Images by the socket of the Principled BSDF to which they are linked."""
    found = {}
    principled = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    for name in ("Base Color", "Normal"):
        for link in principled.inputs[name].links:
            node = link.from_node
            if node.type == "NORMAL_MAP":
                assert node.space == "TANGENT"
                node = node.inputs["Color"].links[0].from_node
            found[name] = node.image
    return found


def import_paint(job):
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}


def test_painting_changes_only_the_look_of_the_object(paint, cube):
    cube.modifiers.new("Bevel", "BEVEL")
    mesh, objects = cube.data, len(bpy.data.objects)
    uvs, former = read_uvs(cube, "UVMap"), indices(cube)
    job = paint(cube, normal=True)
    import_paint(job)
    assert len(bpy.data.objects) == objects and cube.data == mesh and len(cube.modifiers) == 1
    assert tuple(cube.location) == (1, 2, 3) and bpy.context.object == cube
    assert [layer.name for layer in mesh.uv_layers] == ["UVMap"]
    assert np.array_equal(read_uvs(cube, "UVMap"), uvs)
    assert slots(cube) == ["green", "blue", "a red bear"] and set(indices(cube)) == {2}
    material = mesh.materials[2]
    images = images_of(material)
    assert images["Base Color"].colorspace_settings.name == "sRGB"
    assert images["Normal"].colorspace_settings.name == "Non-Color"
    assert all(image.packed_file is not None for image in images.values())
    uv_nodes = [node for node in material.node_tree.nodes if node.type in ("UVMAP", "NORMAL_MAP")]
    assert len(uv_nodes) == 3 and all(node.uv_map == "UVMap" for node in uv_nodes)

    assert bpy.ops.recdreamer.restore_materials() == {"FINISHED"}
    assert indices(cube) == former and slots(cube) == ["green", "blue", "a red bear"]
    assert not bpy.ops.recdreamer.restore_materials.poll()
    import_paint(job)
    assert slots(cube) == ["green", "blue", "a red bear"] and set(indices(cube)) == {2}


def test_importing_again_and_painting_again(paint, cube):
    first = paint(cube)
    import_paint(first)
    counts = [len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images")]
    import_paint(first)
    assert [len(getattr(bpy.data, n)) for n in ("objects", "meshes", "materials", "images")] == counts
    assert slots(cube) == ["green", "blue", "a red bear"]
    import_paint(paint(cube))
    assert slots(cube) == ["green", "blue", "a red bear", "a red bear.001"] and set(indices(cube)) == {3}
    bpy.ops.recdreamer.restore_materials()
    assert set(indices(cube)) == {0, 1}, "the artist's own, not those of the first painting"


def test_an_object_without_materials_gets_an_empty_slot_to_restore(paint):
    bpy.ops.mesh.primitive_cube_add()
    cube = bpy.context.object
    import_paint(paint(cube))
    assert slots(cube) == ["", "a red bear"] and set(indices(cube)) == {1}
    bpy.ops.recdreamer.restore_materials()
    assert set(indices(cube)) == {0}


def test_only_the_faces_of_the_region_are_painted(paint, cube):
    group = cube.vertex_groups.new(name="hat")
    group.add([v.index for v in cube.data.vertices if v.co.z > 0], 1.0, "REPLACE")
    bpy.context.scene.recdreamer.start.region = "hat"
    import_paint(paint(cube))
    for polygon in cube.data.polygons:
        assert polygon.material_index == (0 if polygon.normal.z < -0.5 else 2)


def test_only_white_areas_of_a_mask_are_painted(paint, cube):
    mask = cube.data.color_attributes.new("mask", "BYTE_COLOR", "POINT")
    mask.data.foreach_set("color_srgb", [v for vert in cube.data.vertices for v in (vert.co.z > 0, 0, 0, 1)])
    bpy.context.scene.recdreamer.start.region = "mask"
    job = paint(cube)
    cube.data.color_attributes.remove(cube.data.color_attributes["mask"])
    import_paint(job)
    for polygon in cube.data.polygons:
        assert polygon.material_index == (0 if polygon.normal.z < -0.5 else 2)


def test_a_painting_is_not_continued(paint, cube):
    job = paint(cube)
    import_paint(job)
    with pytest.raises(RuntimeError, match="This job only painted an object"):
        bpy.ops.recdreamer.continue_job(job_id=job.id)
    assert not bpy.ops.recdreamer.continue_selected.poll()


def test_a_uv_map_is_made_where_there_is_none(paint, cube):
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    bpy.ops.mesh.primitive_circle_add(fill_type="NGON")
    circle = bpy.context.object
    circle.data.uv_layers.remove(circle.data.uv_layers[0])
    circle.scale.x = -1
    for obj in (cube, circle):
        meshes, objects = len(bpy.data.meshes), len(bpy.data.objects)
        job = paint(obj)
        assert not obj.data.uv_layers, "nothing changes before the import"
        assert (len(bpy.data.meshes), len(bpy.data.objects)) == (meshes, objects)
        assert bpy.context.object == circle and bpy.context.selected_objects == [circle]
        with np.load(job.folder.root / "start/mesh.npz") as arrays:
            faces, uvs = arrays["faces"], arrays["uvs"]
        assert uvs.min() >= 0 and uvs.max() <= 1 and uvs.std() > 0.1
        import_paint(job)
        (layer,) = obj.data.uv_layers
        assert layer.name == "RecDreamer" and layer.active_render
        # Every face corner has the UV of its corner in the job.
        at = read_uvs(obj, "RecDreamer")
        for polygon in obj.data.polygons:
            for loop in polygon.loop_indices:
                of_vertex = uvs[faces == obj.data.loops[loop].vertex_index]
                assert np.abs(of_vertex - at[loop]).max(1).min() < 1e-6
        material = obj.data.materials[-1]
        assert next(node for node in material.node_tree.nodes if node.type == "UVMAP").uv_map == "RecDreamer"
        import_paint(job)
        assert len(obj.data.uv_layers) == 1
        bpy.context.view_layer.objects.active = circle
        cube.select_set(False)
        circle.select_set(True)


def test_the_worker_unwraps_where_blender_cannot(paint, cube, addon, monkeypatch):
    """The fake worker projects UVs from the front: u from left to right, v upward."""
    monkeypatch.setattr(addon("operators.start_files"), "smart_uvs", lambda mesh, context: None)
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    cube.scale.x, cube.rotation_euler.x = -1, 0.3
    job = paint(cube)
    said = []
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    assert not said
    verts = np.array([cube.matrix_world @ v.co for v in cube.data.vertices])
    places = (verts - verts.min(0)) / np.ptp(verts, axis=0)
    loops = [loop.vertex_index for loop in cube.data.loops]
    assert np.allclose(read_uvs(cube, "RecDreamer"), places[loops][:, [0, 2]], atol=1e-5)


def test_a_seam_inside_faces_is_reported(paint, cube, addon, monkeypatch):
    monkeypatch.setattr(addon("operators.start_files"), "smart_uvs", lambda mesh, context: None)
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    job = paint(cube, seams=True)
    said = []
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    assert said[0].startswith("A seam of the new UV map crosses 6 of 6 faces")


def test_found_again_under_another_name(paint, cube):
    job = paint(cube)
    cube.name = "my bear"
    bpy.ops.mesh.primitive_cube_add()
    bpy.context.object.name = "Cube"
    import_paint(job)
    assert set(indices(cube)) == {2}


def test_if_the_painted_object_is_missing_a_copy_is_painted(paint, cube, addon):
    job, said = paint(cube), []
    bpy.data.objects.remove(cube)
    bpy.ops.mesh.primitive_cube_add()
    other = bpy.context.object
    assert other.name == "Cube"
    (copy,) = addon("result.scene_import").import_result(job.folder.root, hide_start=True, say=said.append)
    assert said == ["'Cube' is not in this scene, so the texture is on a copy of the original mesh."]
    assert slots(other) == [] and slots(copy) == ["a red bear"] and not other.hide_get()
    assert tuple(copy.location) == pytest.approx((1, 2, 2.5))


def test_a_shared_mesh_is_not_painted(paint, cube):
    job = paint(cube)
    bpy.ops.object.select_all(action="DESELECT")
    cube.select_set(True)
    bpy.ops.object.duplicate(linked=True)
    sentence = "'Cube' shares its mesh with 1 other object. Make it single-user first"
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.recdreamer.import_result(job_id=job.id)
    assert slots(cube) == ["green", "blue"]
    cube.data = cube.data.copy()
    import_paint(job)
    assert slots(cube) == ["green", "blue", "a red bear"]


def edit_faces(cube):
    bpy.ops.object.select_all(action="DESELECT")
    cube.select_set(True)
    bpy.context.view_layer.objects.active = cube
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.subdivide()
    bpy.ops.object.mode_set(mode="OBJECT")


def edit_uvs(cube):
    cube.data.uv_layers["UVMap"].uv[0].vector.x += 0.1


def rename_uvs(cube):
    cube.data.uv_layers["UVMap"].name = "other"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_faces, "The faces of 'Cube' were edited since the job was made"),
        (edit_uvs, "The UV map of 'Cube' was edited since the job was made"),
        (rename_uvs, "'Cube' no longer has the UV map 'UVMap'"),
    ],
)
def test_an_edited_mesh_stays_and_a_copy_is_painted(paint, cube, addon, edit, reason):
    job, said = paint(cube), []
    edit(cube)
    faces = len(cube.data.polygons)
    (copy,) = addon("result.scene_import").import_result(job.folder.root, hide_start=True, say=said.append)
    assert said == [f"{reason}, so the texture is on a copy of the original mesh; 'Cube' is unchanged."]
    assert slots(cube) == ["green", "blue"] and len(cube.data.polygons) == faces and not cube.hide_get()
    assert copy != cube and len(copy.data.polygons) == 12 and slots(copy) == ["a red bear"]
    bpy.context.view_layer.update()
    corners = np.array([copy.matrix_world @ vertex.co for vertex in copy.data.vertices])
    assert np.allclose((corners.min(0), corners.max(0)), ((0.5, 1.5, 2.5), (1.5, 2.5, 3.5)), atol=1e-5)
    assert addon("result.scene_import").import_result(job.folder.root, say=said.append) == [copy]


def test_a_moved_vertex_keeps_its_texture(paint, cube, addon):
    job, said = paint(cube), []
    cube.location.x += 1
    cube.data.vertices[0].co.x -= 1
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    assert said == ["The shape of 'Cube' was edited since the job was made; the texture follows its UV map."]
    assert set(indices(cube)) == {2}


def test_an_unchanged_mesh_is_not_called_edited(paint, cube, addon):
    job, said = paint(cube), []
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.object.mode_set(mode="OBJECT")
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    assert not said


def test_a_ninth_uv_map_is_refused(paint, cube):
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    job = paint(cube)
    for _ in range(8):
        cube.data.uv_layers.new()
    with pytest.raises(RuntimeError, match="'Cube' has 8 UV maps, the most that Blender allows"):
        bpy.ops.recdreamer.import_result(job_id=job.id)
    assert slots(cube) == ["green", "blue"] and not bpy.data.images


def test_a_scaled_object_is_unwrapped_as_it_looks(paint, cube):
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
    cube.scale = (8, -1, 1)
    job = paint(cube)
    with np.load(job.folder.root / "start/mesh.npz") as arrays:
        corners, uvs = arrays["verts"][arrays["faces"]], arrays["uvs"]
    # Texels per metre along the sides of each triangle.
    density = np.linalg.norm(np.roll(uvs, 1, 1) - uvs, axis=2) / np.linalg.norm(
        np.roll(corners, 1, 1) - corners, axis=2
    )
    assert density.max() < 1.05 * density.min()


def test_tiles_become_one_tiled_image(paint, cube, tmp_path):
    uvs = read_uvs(cube, "UVMap")
    tiles = np.repeat(np.arange(6) % 3, 4)
    layer = cube.data.uv_layers["UVMap"]
    layer.uv.foreach_set("vector", (uvs + np.stack([tiles, tiles // 2], 1)).astype(np.float32).ravel())
    job = paint(cube, normal=True)
    names = sorted(path.name for path in job.folder.result.glob("*.png"))
    assert names == [f"{kind}.{tile}.png" for kind in ("albedo", "normal") for tile in (1001, 1002, 1013)]
    import_paint(job)
    for image in images_of(cube.data.materials[-1]).values():
        assert image.source == "TILED" and sorted(tile.number for tile in image.tiles) == [1001, 1002, 1013]
        assert tuple(image.size) == (64, 64) and len(image.packed_files) == 3
    for path in job.folder.result.glob("*.png"):
        path.unlink()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    image = bpy.data.images["a red bear albedo"]
    assert image.source == "TILED" and len(image.packed_files) == 3


def test_a_broken_tile_leaves_nothing_behind(paint, cube):
    uvs = read_uvs(cube, "UVMap") + np.float32((1, 0))
    uvs[:4] -= np.float32((1, 0))
    cube.data.uv_layers["UVMap"].uv.foreach_set("vector", uvs.ravel())
    job = paint(cube)
    (job.folder.result / "albedo.1002.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="The texture of this job cannot be read"):
        bpy.ops.recdreamer.import_result(job_id=job.id)
    assert not bpy.data.images and slots(cube) == ["green", "blue"]


def test_a_normal_map_of_a_new_object(fake_backend, settle):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides='{"normal": true}')
    job = settle()
    import_paint(job)
    images = images_of(bpy.context.object.data.materials[0])
    assert images["Normal"].colorspace_settings.name == "Non-Color"
    (job.folder.result / "normal.png").write_bytes(b"")
    with pytest.raises(RuntimeError, match="The texture of this job cannot be read"):
        bpy.ops.recdreamer.import_result(job_id=job.id)
    assert len(bpy.data.images) == 2


def upon_each_other(obj) -> np.ndarray:
    """Give each face of a cube the whole UV tile, and the faces two materials in turn."""
    layer = obj.data.uv_layers["UVMap"].uv
    uvs = np.tile(np.float32([(0, 0), (1, 0), (1, 1), (0, 1)]), (6, 1))
    layer.foreach_set("vector", uvs.ravel())
    obj.data.polygons.foreach_set("material_index", [0, 1] * 3)
    return uvs


def test_materials_with_a_map_each_are_painted_apart_and_the_map_of_the_artist_stays(paint, cube):
    uvs = upon_each_other(cube)
    job = paint(cube)
    import_paint(job)
    assert [layer.name for layer in cube.data.uv_layers] == ["UVMap", "RecDreamer"]
    np.testing.assert_array_equal(read_uvs(cube, "UVMap"), uvs)
    # The second material is painted one tile further up, at the same place within it.
    moved = uvs + np.repeat([(0, 0), (0, 1)] * 3, 4, axis=0)
    np.testing.assert_allclose(read_uvs(cube, "RecDreamer"), moved, atol=1e-6)
    material = cube.data.materials[indices(cube)[0]]
    nodes = material.node_tree.nodes
    assert {node.uv_map for node in nodes if node.type == "UVMAP"} == {"RecDreamer"}
    image = images_of(material)["Base Color"]
    assert image.source == "TILED" and sorted(tile.number for tile in image.tiles) == [1001, 1011]
