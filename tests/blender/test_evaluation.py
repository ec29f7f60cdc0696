"""Start mesh, size and turntable are of the same object: the one that viewports show."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported


@pytest.fixture
def from_object(settings):
    """Start from an object, with an automatic turntable."""

    def from_object(obj):
        settings.method, settings.start.kind, settings.start.object = "usd", "object", obj
        return obj

    return from_object


@pytest.fixture
def pictures(settings, addon):
    """Opacity of the automatic templates: front, right, back, left."""
    return lambda: [addon("shelf.pictures").load_pixels(card.path)[..., 3] for card in settings.templates]


def shape_of(picture: np.ndarray) -> tuple[float, float]:
    """Width and height of what a picture shows, in pixels; nothing is cut off at its border."""
    assert not picture[[0, -1]].any() and not picture[:, [0, -1]].any(), "cut off"
    rows, columns = np.nonzero(picture > 0.5)
    return float(np.ptp(columns)), float(np.ptp(rows))


def add_nodes(obj, *, join: bool, distance: float = 3.0, count: int = 1):
    """Geometry Nodes that show a box of 1 m × 1 m × 2 m beside the object, or only that."""
    tree = bpy.data.node_groups.new("nodes", "GeometryNodeTree")
    for side in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=side, socket_type="NodeSocketGeometry")
    names = ("NodeGroupInput", "NodeGroupOutput", "GeometryNodeInstanceOnPoints", "GeometryNodePoints")
    given, out, instance, points = (tree.nodes.new(name) for name in names)
    cube = tree.nodes.new("GeometryNodeMeshCube")
    cube.inputs["Size"].default_value = (1, 1, 2)
    points.inputs["Position"].default_value = (distance, 0, 0)
    points.inputs["Count"].default_value = count
    tree.links.new(points.outputs[0], instance.inputs["Points"])
    tree.links.new(cube.outputs[0], instance.inputs["Instance"])
    if join:
        both = tree.nodes.new("GeometryNodeJoinGeometry")
        for source in (given, instance):
            tree.links.new(source.outputs[0], both.inputs[0])
        tree.links.new(both.outputs[0], out.inputs[0])
    else:
        tree.links.new(instance.outputs[0], out.inputs[0])
    obj.modifiers.new("nodes", "NODES").node_group = tree


def test_modifiers_that_only_renders_have_do_not_count(from_object, generate, pictures):
    cube = from_object(add_cube())
    array = cube.modifiers.new("Array", "ARRAY")
    array.count, array.show_viewport = 3, False
    smooth = cube.modifiers.new("Subdivision", "SUBSURF")
    smooth.levels, smooth.render_levels, smooth.subdivision_type = 0, 1, "CATMULL_CLARK"
    _, mesh = generate()
    assert len(mesh["verts"]) == 8
    for picture in pictures():
        width, height = shape_of(picture)
        assert width == pytest.approx(height, abs=40), "one cube, not three"
        assert (picture > 0.5).sum() > 0.9 * width * height, "with its corners"


def test_modifiers_that_only_viewports_have_count(from_object, generate, pictures):
    cube = from_object(add_cube())
    array = cube.modifiers.new("Array", "ARRAY")
    array.count, array.show_render = 3, False
    _, mesh = generate()
    assert len(mesh["verts"]) == 24
    width, height = shape_of(pictures()[0])
    assert 2.2 < width / height < 3.2


@pytest.mark.parametrize(("join", "width_m", "count"), [(True, 4, 16), (False, 1, 8)])
def test_instances_are_part_of_the_shape(from_object, generate, pictures, join, width_m, count):
    cube = from_object(add_cube())
    add_nodes(cube, join=join)
    job, mesh = generate()
    assert np.ptp(mesh["verts"], axis=0) == pytest.approx((width_m, 1, 2), abs=1e-5)
    assert len(mesh["verts"]) == count and job.request.height_m == pytest.approx(2)
    width, height = shape_of(pictures()[0])
    assert width / height == pytest.approx(width_m / 2, rel=0.2)
    assert len(bpy.data.objects) == 1 and len(bpy.data.scenes) == 1, "the copies are gone"


def test_a_region_does_not_include_instances(settings, generate):
    cube = add_cube()
    cube.vertex_groups.new(name="all").add(range(8), 1, "REPLACE")
    add_nodes(cube, join=True)
    settings.start.kind, settings.start.object, settings.start.region = "object", cube, "all"
    _, mesh = generate()
    assert sorted(mesh["region"].tolist()) == [0] * 8 + [1] * 8


def test_instances_cannot_be_painted(settings):
    cube = add_cube()
    add_nodes(cube, join=True)
    settings.start.kind, settings.start.object = "texture", cube
    message = reported()
    assert "'Cube' shows instances, which are not in its mesh and cannot be painted." in message
    assert "Realize Instances" in message


def test_too_many_instances_end_with_a_sentence(from_object, settings):
    add_nodes(from_object(add_cube()), join=True, count=20_000)
    assert "The object shows more than 10,000 instances." in reported()
    assert len(bpy.data.scenes) == 1 and not settings.templates


@pytest.fixture
def root(extension):
    """An Empty with two meshes below it, as importers of glTF and FBX make them."""
    bpy.ops.object.empty_add()
    root = bpy.context.object
    root.name = "Root"
    for x in (0, 2):
        add_cube((x, 0, 0)).parent = root
    return root


def test_the_empty_of_an_imported_model_can_be_a_start(
    from_object, generate, pictures, root, sentence, settings
):
    from_object(root)
    assert sentence() == ""
    _, mesh = generate()
    assert np.ptp(mesh["verts"], axis=0) == pytest.approx((3, 1, 1)) and len(mesh["verts"]) == 16
    assert shape_of(pictures()[0])[0] > 2 * shape_of(pictures()[0])[1]
    settings.start.use_children = False
    assert sentence() == "'Root' is an Empty. Enable Include Children, or pick one of the meshes below it."
    settings.start.kind = "texture"
    assert sentence() == (
        "'Root' is an Empty, which cannot be painted. "
        "Pick one of the meshes below it, or join them (Object › Join) and pick the result."
    )


def test_an_empty_without_meshes(settings, sentence, root):
    settings.start.kind, settings.start.object = "object", root
    for child in root.children:
        child.hide_set(True)
    assert sentence() == "All meshes below the Empty 'Root' are hidden. Show them, or pick one."
    for child in root.children:
        bpy.data.objects.remove(child)
    assert sentence() == "'Root' is an Empty without meshes below it. Pick a mesh object."


def test_a_collection_instance_can_be_a_start(from_object, generate):
    cube = add_cube()
    collection = bpy.data.collections.new("parts")
    collection.objects.link(cube)
    empty = bpy.data.objects.new("instance", None)
    empty.instance_type, empty.instance_collection, empty.scale.x = "COLLECTION", collection, 2
    bpy.context.collection.objects.link(empty)
    from_object(empty)
    _, mesh = generate()
    assert np.ptp(mesh["verts"], axis=0) == pytest.approx((2, 1, 1))


def test_hidden_children_are_left_out(from_object, generate, pictures):
    cube = from_object(add_cube())
    child = add_cube((5, 0, 0))
    child.parent = cube
    child.hide_set(True)
    _, mesh = generate()
    assert len(mesh["verts"]) == 8
    assert mesh["notes"].tobytes().decode() == "Of 'Cube', 1 hidden object below it is left out."
    assert shape_of(pictures()[0])[0] < 2 * shape_of(pictures()[0])[1]


def test_materials_of_object_and_mesh_are_shown(addon, from_object, generate, settings):
    """The copies that are rendered show the slots of the object, not only those of its mesh."""
    cube = from_object(add_cube())
    colors = {"of mesh": (1, 0, 0, 1), "of object": (0, 1, 0, 1)}
    materials = {}
    for name, color in colors.items():
        materials[name] = addon("compat").new_node_material(name)
        materials[name].diffuse_color = color
    cube.data.materials.append(materials["of mesh"])
    cube.material_slots[0].link = "OBJECT"
    cube.material_slots[0].material = materials["of object"]
    generate()
    pixels = addon("shelf.pictures").load_pixels(settings.templates[0].path)
    red, green, _ = pixels[pixels[..., 3] > 0.9][:, :3].mean(0)
    assert green > 0.5 > red
