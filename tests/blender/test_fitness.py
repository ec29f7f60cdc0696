"""What becomes of the object is said before Generate, by the functions that the worker asks, too."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported


@pytest.fixture
def painted(settings):
    cube = add_cube()
    settings.start.kind, settings.start.object = "texture", cube
    return cube


def put_uvs(obj, uvs) -> None:
    layer = obj.data.uv_layers.active.uv
    layer.foreach_set("vector", np.broadcast_to(np.float32(uvs), (len(layer), 2)).ravel())


def read_uvs(obj) -> np.ndarray:
    uvs = np.empty(2 * len(obj.data.uv_layers.active.uv), np.float32)
    obj.data.uv_layers.active.uv.foreach_get("vector", uvs)
    return uvs.reshape(-1, 2)


@pytest.fixture(autouse=True)
def fresh(addon, monkeypatch):
    """Each redraw reads the mesh anew."""
    monkeypatch.setattr(addon("start.fitness"), "FRESH_S", 0)


def test_a_good_map(painted, sentence, draw):
    assert sentence() == ""
    assert "UV" not in " ".join(draw().texts)


def test_a_map_without_area(painted, sentence):
    put_uvs(painted, (0, 0))
    assert sentence() == (
        "'Cube': The UV map has no area: all its faces are points or lines. "
        "Unwrap the object again, or remove the UV map and a new one is made."
    )
    painted.data.uv_layers.remove(painted.data.uv_layers[0])
    assert sentence() == "", "and so it is"


def test_a_map_of_a_default_that_repeats(painted, sentence):
    put_uvs(painted, 3 * read_uvs(painted))
    assert "cross the border of their UV tile" in sentence()


def test_not_finite(painted, sentence):
    put_uvs(painted, (np.nan, 0))
    assert "coordinates that are no numbers" in sentence()


def test_overlaps_are_a_warning_only(painted, sentence, draw):
    for polygon in painted.data.polygons:
        for corner, loop in enumerate(polygon.loop_indices):
            painted.data.uv_layers.active.uv[loop].vector = ((0, 0), (1, 0), (1, 1), (0, 1))[corner]
    assert sentence() == ""
    assert "parts that overlap share their colors" in " ".join(draw().texts)


def test_what_modifiers_make_of_it_is_checked_too(painted, sentence):
    modifier = painted.modifiers.new("Mirror", "MIRROR")
    modifier.use_mirror_u, modifier.offset_u = True, -3.0
    assert sentence().startswith("'Cube': ") and "UV" in sentence()


def test_what_only_an_evaluation_of_its_own_can_know_is_checked_by_generate(painted, sentence):
    painted.modifiers.new("GeometryNodes", "NODES")
    put_uvs(painted, (0, 0))
    assert sentence() == ""
    assert "'Cube': The UV map has no area" in reported()


def with_materials(obj, *names):
    """On the faces in turn."""
    for name in names:
        obj.data.materials.append(bpy.data.materials.get(name) or bpy.data.materials.new(name))
    obj.data.polygons.foreach_set("material_index", np.arange(len(obj.data.polygons)) % len(names))
    return obj


@pytest.fixture
def said(draw):
    return lambda: " ".join(draw().texts)


def test_materials_that_become_one_are_said(settings, said):
    cube = with_materials(add_cube(), "oak", "tin")
    settings.start.kind, settings.start.object = "object", cube
    wanted = "The surface is made again, so that its 2 materials become one, with one texture."
    assert wanted in said()
    other = with_materials(add_cube((2, 0, 0)), "tin", "brass")
    other.parent = cube
    assert wanted.replace("2", "3") in said(), "those of its parts count"
    settings.start.use_children = False
    assert wanted in said()
    cube.data.polygons.foreach_set("material_index", [1] * 6)
    assert "materials" not in said()
    settings.start.kind = "texture"
    assert "materials" not in said()


def test_what_becomes_of_the_size_is_said(settings, said):
    cube = add_cube(scale=(1, 1, 2))
    bpy.context.view_layer.update()
    settings.start.kind, settings.start.object, settings.height = "object", cube, 0.5
    assert "m high, and its result" not in said(), "it keeps its size"
    settings.start.keep_size = False
    assert "The object is 2 m high, and its result will be 0.5 m high." in said()
    bpy.context.scene.unit_settings.scale_length = 0.01
    assert "The object is 0.02 m high, and its result will be 0.005 m high." in said()
    bpy.context.scene.unit_settings.scale_length = 1
    cube.scale = (2, 1, 0.01)
    bpy.context.view_layer.update()
    assert "The object is flat, 2 × 1 × 0.01 m" in said()
    settings.front = np.pi / 2
    assert "The object is flat, 1 × 2 × 0.01 m" in said(), "seen from its front"
    cube.scale = (0.01, 0.01, 1)
    bpy.context.view_layer.update()
    assert "less than a pixel of the 64" in said()
    settings.start.kind = "texture"
    assert "less than a pixel of the 64" in said()


def test_parts_that_are_left_out_are_said(settings, said):
    cube, part = add_cube(), add_cube((2, 0, 0))
    part.parent = cube
    settings.start.kind, settings.start.object = "object", cube
    assert "left out" not in said()
    part.hide_set(True)
    assert "Of 'Cube', 1 hidden object below it is left out." in said()


def test_what_cannot_be_read_says_nothing_and_draws(settings, said):
    settings.start.kind = "object"
    said()
    settings.start.object = bpy.data.objects.new("Empty", None)
    said()
    bpy.context.scene.collection.objects.link(settings.start.object)
    said()
    bpy.ops.object.text_add()
    settings.start.object, settings.start.keep_size = bpy.context.object, False
    assert "The object is flat" in said()
    cube = settings.start.object = add_cube()
    bpy.ops.object.mode_set(mode="EDIT")
    said()
    bpy.ops.object.mode_set(mode="OBJECT")
    cube.data.clear_geometry()
    said()


def with_nodes(obj, node="GeometryNodeSubdivideMesh"):
    """Geometry Nodes that hand the mesh through this node."""
    tree = bpy.data.node_groups.new("Nodes", "GeometryNodeTree")
    for side in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=side, socket_type="NodeSocketGeometry")
    given, middle, made = (tree.nodes.new(name) for name in ("NodeGroupInput", node, "NodeGroupOutput"))
    tree.links.new(given.outputs[0], middle.inputs[0])
    tree.links.new(middle.outputs[0], made.inputs[0])
    obj.modifiers.new("GeometryNodes", "NODES").node_group = tree
    return tree


UNKNOWN = (
    "Not checked yet: it has Geometry Nodes, instances, very many faces, or UVs that lie upon each other."
)


def test_what_the_panel_cannot_evaluate_is_said_by_a_check(settings, said):
    cube = with_materials(add_cube(), "oak", "tin")
    settings.start.kind, settings.start.object = "object", cube
    assert UNKNOWN not in said() and "2 materials become one" in said()
    tree = with_nodes(cube)
    assert UNKNOWN in said() and "materials" not in said()
    assert bpy.ops.recdreamer.check_start() == {"FINISHED"}
    assert UNKNOWN not in said() and "2 materials become one" in said()
    bpy.context.view_layer.update()
    assert UNKNOWN not in said(), "nothing has changed"
    tree.nodes["Subdivide Mesh"].inputs["Level"].default_value = 3
    bpy.context.view_layer.update()
    assert UNKNOWN in said(), "its mesh has changed"


def test_a_check_refuses_as_generate_does_without_holding_it_up(painted, sentence, said):
    with_nodes(painted)
    put_uvs(painted, (0, 0))
    wanted = "'Cube': The UV map has no area: all its faces are points or lines."
    assert wanted in reported(bpy.ops.recdreamer.check_start)
    assert wanted in said() and sentence() == "" and wanted in reported()
    painted.modifiers.clear()
    painted.data.update()
    bpy.context.view_layer.update()
    assert wanted in sentence(), "the panel sees it by itself now"


def test_large_meshes_are_read_by_a_check_only(settings, said, addon, monkeypatch):
    monkeypatch.setattr(addon("start.fitness"), "MAX_FACES", 5)
    settings.start.kind, settings.start.object = "object", add_cube((1e7, 0, 0))
    assert UNKNOWN in said()
    assert bpy.ops.recdreamer.check_start() == {"FINISHED"}, "captured at its base, as by Generate"
    assert UNKNOWN not in said()
    settings.start.object = bpy.data.objects.new("Empty", None)
    bpy.context.scene.collection.objects.link(settings.start.object)
    assert UNKNOWN not in said(), "which has no faces"


def test_triangles_that_are_left_out_are_said(settings, said):
    cube = add_cube()
    settings.start.kind, settings.start.object = "object", cube
    assert "left out" not in said()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.duplicate()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert "12 of the 24 triangles of the object have no area or lie upon others, and are left out." in said()


def test_a_map_that_takes_long_to_judge_is_left_to_a_check(painted, sentence, said, addon, monkeypatch):
    """The twelve triangles of a cube cross a dozen rows of the grid here; upon each other they cross thousands."""
    monkeypatch.setattr(addon("start.fitness"), "MAX_WORK", 1000)
    put_uvs(painted, (0.25, 0.5))
    assert UNKNOWN not in said() and "has no area" in sentence()
    for polygon in painted.data.polygons:
        for corner, loop in enumerate(polygon.loop_indices):
            painted.data.uv_layers.active.uv[loop].vector = ((0, 0), (1, 0), (1, 1), (0, 1))[corner]
    assert UNKNOWN in said() and "overlap" not in said() and sentence() == ""
    assert bpy.ops.recdreamer.check_start() == {"FINISHED"}
    assert UNKNOWN not in said() and "parts that overlap share their colors" in said()


def test_the_work_of_many_materials_counts(painted, said, addon, monkeypatch):
    monkeypatch.setattr(addon("start.fitness"), "MAX_WORK", 3000)
    assert UNKNOWN not in said()
    with_materials(painted, *"abcdef")
    assert UNKNOWN not in said()
    uvs = read_uvs(painted)
    uvs[12:] += (1, 0)
    layer = painted.data.uv_layers.active.uv
    layer.foreach_set("vector", uvs.ravel())
    painted.data.update()
    assert UNKNOWN in said(), "six materials in two tiles"


def test_a_redraw_does_not_look_at_the_map_again(painted, draw, addon, monkeypatch):
    """However long a verdict on it would take."""
    module, looks = addon("start.fitness"), []
    look = module.rows_of_grid
    monkeypatch.setattr(module, "rows_of_grid", lambda *args: looks.append(args) or look(*args))
    monkeypatch.setattr(module, "FRESH_S", 60)
    monkeypatch.setattr(module, "MAX_WORK", 10)
    for _ in range(3):
        assert UNKNOWN in " ".join(draw().texts)
    assert len(looks) == 1


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_an_object_without_extent_is_refused_before_there_is_a_job(settings, sentence, kind):
    cube = add_cube()
    settings.start.kind, settings.start.object = kind, cube
    assert sentence() == ""
    cube.data.vertices.foreach_set("co", np.zeros(24))
    cube.data.update()
    wanted = (
        "'Cube': The mesh to start from has no extent: all its faces are points or lines. Choose an object with a "
        "surface."
    )
    assert sentence() == wanted
    # Geometry Nodes may show anything, so that only Generate knows.
    cube.modifiers.new("GeometryNodes", "NODES")
    assert sentence() == "" and wanted in reported()


def test_an_object_far_from_the_origin_is_refused_before_there_is_a_job(settings, sentence):
    settings.start.kind, settings.start.object = "object", add_cube((1e7, 0, 0))
    bpy.context.view_layer.update()
    assert "too far for the precision of its coordinates. Move it to the origin" in sentence()


def test_materials_with_a_map_each_and_modifiers_are_refused_with_a_remedy(painted, sentence, addon):
    with_materials(painted, "oak", "tin")
    put_uvs(painted, np.tile(np.float32([(0, 0), (1, 0), (1, 1), (0, 1)]), (6, 1)))
    assert sentence() == ""
    painted.modifiers.new("Bevel", "BEVEL")
    wanted = f"'Cube': {' '.join(addon('start.fitness').NO_ROOM)}"
    assert sentence() == wanted
    painted.modifiers.new("GeometryNodes", "NODES")
    assert sentence() == "" and wanted in reported()
