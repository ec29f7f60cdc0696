"""Quads made from a result, beside the original."""

from __future__ import annotations

import bpy
import numpy as np
import pytest


@pytest.fixture
def result(fake_backend, settle):
    """A closed, imported result."""
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    settle()
    bpy.ops.recdreamer.import_result()
    return bpy.context.object


@pytest.mark.parametrize("remesher", ["QUADRIFLOW", "VOXEL"])
def test_quads_beside_the_hidden_original(result, remesher):
    mesh, faces = result.data, len(result.data.polygons)
    result.modifiers.new("Subdivision", "SUBSURF").subdivision_type = "SIMPLE"
    assert bpy.ops.recdreamer.make_quads(target_faces=400, remesher=remesher) == {"FINISHED"}
    quads = bpy.context.object
    assert quads != result and quads.name == "a bear quads" and quads.select_get()
    assert result.hide_render and not quads.hide_render and "recdreamer_hidden" not in quads
    assert result.hide_get() and result.data == mesh and len(mesh.polygons) == faces
    assert {len(polygon.vertices) for polygon in quads.data.polygons} == {4}
    assert 150 < len(quads.data.polygons) < 1000
    assert not quads.data.materials and not quads.data.uv_layers and not quads.modifiers
    bpy.context.view_layer.update()
    assert np.allclose(quads.dimensions, (1, 0.5, 1), atol=0.1)
    assert "recdreamer_job" not in quads and quads["recdreamer_quads_of"] == result["recdreamer_job"]


def test_a_surface_that_quadriflow_cannot_remesh(result):
    mesh = bpy.data.meshes.new("fan")
    tips = [(1, 0, 0), (-1, 1, 0), (-1, -1, 0)]
    mesh.from_pydata([(0, 0, 0), (0, 0, 1), *tips], [], [(0, 1, 2), (0, 1, 3), (0, 1, 4)])
    result.data = mesh
    counts = len(bpy.data.objects), len(bpy.data.meshes)
    with pytest.raises(RuntimeError, match=r"QuadriFlow cannot remesh this surface.* Choose Voxel"):
        bpy.ops.recdreamer.make_quads(target_faces=400)
    assert (len(bpy.data.objects), len(bpy.data.meshes)) == counts
    assert bpy.context.object == result and not result.hide_get()


def test_the_texture_is_baked_from_the_original(result):
    bpy.context.scene.unit_settings.scale_length = 0.01
    result.location, result.rotation_euler.z = (3, 4, 5), 1
    bpy.ops.recdreamer.make_quads(target_faces=600, remesher="VOXEL")
    quads = bpy.context.object
    engine = bpy.context.scene.render.engine
    # Settings from the artist's earlier bakes.
    bake = bpy.context.scene.render.bake
    bake.target, bake.save_mode, bake.use_cage, bake.use_clear = "VERTEX_COLORS", "EXTERNAL", True, False
    bake.cage_object = quads
    assert bpy.ops.recdreamer.bake_quads(size_px=128) == {"FINISHED"}
    assert bpy.context.scene.render.engine == engine
    assert result.hide_get() and result.hide_render
    assert bpy.context.selected_objects == [quads] and bpy.context.object == quads
    (layer,) = quads.data.uv_layers
    (material,) = quads.data.materials
    image = next(node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE")
    assert image.packed_file is not None
    pixels = np.empty(128 * 128 * 4, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(128, 128, 4)
    # The fake result is red on its front and blue on the other sides.
    right = 0
    for polygon in quads.data.polygons:
        u, v = np.mean([layer.uv[loop].vector for loop in polygon.loop_indices], axis=0)
        red, _, blue, _ = pixels[int(v * 128), int(u * 128)]
        right += (red > blue) == (polygon.normal.y < -0.7)
    assert right > 0.9 * len(quads.data.polygons)
    bpy.data.objects.remove(result)
    assert not bpy.ops.recdreamer.bake_quads.poll()


@pytest.mark.parametrize("remesher", ["QUADRIFLOW", "VOXEL"])
def test_quads_of_a_painted_object_have_nothing_to_restore(fake_backend, settle, remesher):
    bpy.ops.mesh.primitive_cube_add()
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a bear", "vsd"
    settings.start.kind, settings.start.object = "texture", bpy.context.object
    bpy.ops.recdreamer.generate()
    settle()
    bpy.ops.recdreamer.import_result()
    bpy.ops.recdreamer.make_quads(target_faces=400, remesher=remesher)
    assert not bpy.ops.recdreamer.restore_materials.poll()
    assert not [each for each in bpy.context.object.data.attributes if "recdreamer" in each.name]


def test_quads_in_local_view(result, view):
    bpy.ops.recdreamer.make_quads(target_faces=600, remesher="VOXEL")
    quads = bpy.context.object
    with view() as space:
        bpy.ops.view3d.localview()
        assert not result.visible_get(viewport=space)
        assert bpy.ops.recdreamer.bake_quads(size_px=64) == {"FINISHED"}
        image = next(n.image for n in quads.data.materials[0].node_tree.nodes if n.type == "TEX_IMAGE")
        assert max(image.pixels[:3]) > 0 or max(image.pixels[4::4]) > 0
        assert not result.visible_get(viewport=space)


def test_only_results_can_become_quads(extension):
    bpy.ops.mesh.primitive_cube_add()
    assert not bpy.ops.recdreamer.make_quads.poll()
