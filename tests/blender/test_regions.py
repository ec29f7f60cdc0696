"""Regions of an object that a job may change, and the colors of the rest."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported


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
    assert "The vertex group 'hat' of 'Cube' contains every vertex, so everything may change." in reported()
    cube.vertex_groups.clear()
    missing = "'Cube' has no vertex group or color attribute 'hat'. Choose another region, or Everything."
    assert sentence() == missing


def paint_mask(obj, domain, kind, rgba):
    """Add a color attribute with the value `rgba(position)` at each vertex."""
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
    """Masks can be of any color; if all colors are equal, alpha is the mask."""

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
    assert np.ptp(mesh["rgb"]) < 0.01, "the mask is not a color of the fixed part"


def test_a_mask_that_is_all_black_or_all_white(settings, sentence):
    cube = add_cube()
    mask = paint_mask(cube, "CORNER", "BYTE_COLOR", lambda place: (0, 0, 0, 1))
    settings.start.kind, settings.start.object, settings.start.region = "texture", cube, "mask"
    assert sentence() == ""
    assert "The color attribute 'mask' of 'Cube' is black all over, so nothing may change." in reported()
    mask.data.foreach_set("color", [1] * (4 * len(mask.data)))
    assert "The color attribute 'mask' of 'Cube' is white all over, so everything may change." in reported()


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
    """Names and icons of the regions in the panel."""
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


@pytest.mark.parametrize(("kind", "domain"), [("BYTE_COLOR", "CORNER"), ("FLOAT_COLOR", "POINT")])
def test_colors_are_srgb_per_vertex(settings, generate, kind, domain):
    cube = add_cube()
    attribute = cube.data.color_attributes.new("paint", kind, domain)
    attribute.data.foreach_set("color", np.tile((0.2140411, 0.0, 1.0, 1.0), len(attribute.data)))
    cube.data.color_attributes.active_color = attribute
    settings.start.kind, settings.start.object = "object", cube
    _, mesh = generate()
    assert mesh["rgb"].shape == (8, 3) and mesh["rgb"].dtype == np.float32
    assert np.allclose(mesh["rgb"], (0.5, 0, 1), atol=5e-3)


def test_materials_color_the_part_outside_of_a_region(settings, generate):
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
