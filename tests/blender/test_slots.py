"""Material slots: from the artist's object into the job, and from a result that keeps them into the scene."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube
from .test_paint import images_of


def with_slots(obj, *names):
    """Slots of these names ("" for an empty one) on the faces in turn."""
    for name in names:
        obj.data.materials.append(bpy.data.materials.new(name) if name else None)
    obj.data.polygons.foreach_set("material_index", np.arange(len(obj.data.polygons)) % len(names))
    return obj


def captured(addon, *objects):
    arrays = addon("start.mesh_capture").capture_mesh(objects, bpy.context).arrays
    text = arrays["slot_names"].tobytes().decode().split("\n") if "slots" in arrays else []
    return arrays, [text[slot] for slot in arrays.get("slots", ())]


def test_the_slots_of_an_object_go_with_its_faces_also_empty_ones(extension, addon):
    cube = with_slots(add_cube(), "skin", "", "eyes")
    arrays, names = captured(addon, cube)
    assert names == ["skin", "skin", "", "", "eyes", "eyes"] * 2
    assert arrays["slot_names"].tobytes() == b"skin\n\neyes"


def test_parts_of_several_objects_share_the_slot_of_a_material_that_they_share(extension, addon):
    first, second = with_slots(add_cube(), "oak", "tin"), add_cube((3, 0, 0))
    second.data.materials.append(bpy.data.materials["tin"])
    third = add_cube((6, 0, 0))
    arrays, names = captured(addon, first, second, third)
    assert names == ["oak", "oak", "tin", "tin"] * 3 + ["tin"] * 12 + [""] * 12
    assert arrays["slots"].max() == 2


def test_an_object_without_materials_has_no_slots(extension, addon):
    assert "slots" not in captured(addon, add_cube())[0]


def test_one_part_without_uvs_leaves_those_of_the_others(extension, addon):
    first, second = add_cube(), add_cube((3, 0, 0))
    second.data.uv_layers.remove(second.data.uv_layers[0])
    arrays, _ = captured(addon, first, second)
    uvs = arrays["uvs"]
    assert np.isfinite(uvs[:12]).all() and np.isnan(uvs[12:]).all()
    second.data.uv_layers.new(name="UVMap")
    assert np.isfinite(captured(addon, first, second)[0]["uvs"]).all()


def test_one_part_without_a_color_attribute_leaves_those_of_the_others(extension, addon):
    """It has the color of its material, or that of no material."""
    painted, red, plain = add_cube(), add_cube((3, 0, 0)), add_cube((6, 0, 0))
    colors = painted.data.color_attributes.new("Color", "FLOAT_COLOR", "POINT")
    colors.data.foreach_set("color", np.tile((0.0, 0.0, 1.0, 1.0), 8))
    material = addon("compat").new_node_material("red")
    addon("compat").principled_of(material).inputs["Base Color"].default_value = (1, 0, 0, 1)
    red.data.materials.append(material)
    arrays, _ = captured(addon, painted, red, plain)
    for part, wanted in zip(np.split(arrays["rgb"], 3), ((0, 0, 1), (1, 0, 0), (0.8, 0.8, 0.8)), strict=True):
        np.testing.assert_allclose(part, np.tile(wanted, (8, 1)), atol=1e-5)
    assert "rgb" not in captured(addon, red, plain)[0], "the shape alone is wanted"


@pytest.fixture
def import_slots(imported, addon):
    """Give the result of a job these slots and import it again, as new if `is_new`."""

    def import_slots(names, of_face, is_new=True):
        _, job = imported
        path = job.folder.result / "mesh.npz"
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in ("verts", "faces", "uvs")}
        kept["slots"] = np.resize(of_face, len(kept["faces"])).astype(np.int32)
        kept["slot_names"] = np.frombuffer("\n".join(names).encode(), np.uint8)
        np.savez(path, **kept)
        if is_new:
            for old in [o for o in bpy.context.scene.objects if o.get("recdreamer_job") == job.id]:
                bpy.data.objects.remove(old)
            bpy.data.batch_remove(list(bpy.data.materials))
        (found,) = addon("result.scene_import").import_result(job.folder.root, say=lambda line: None)
        return found, kept["slots"]

    return import_slots


def indices(obj):
    return [polygon.material_index for polygon in obj.data.polygons]


def test_a_result_has_the_slots_of_its_start_and_they_share_its_pictures(import_slots):
    obj, slots = import_slots(("skin", "", "eyes"), (0, 2, 2))
    assert [m.name for m in obj.data.materials] == ["skin", "a red béar", "eyes"]
    assert indices(obj) == slots.tolist()
    pictures = [{n.image for n in m.node_tree.nodes if n.type == "TEX_IMAGE"} for m in obj.data.materials]
    assert pictures[0] and pictures.count(pictures[0]) == 3
    bpy.data.batch_remove([m for m in bpy.data.materials if m.name == "skin"])
    assert all(image.users for image in pictures[1])


def test_importing_again_renews_each_slot_and_keeps_what_the_artist_has_put_into_one(import_slots):
    obj, slots = import_slots(("skin", "eyes"), (0, 1))
    own = obj.data.materials[1] = bpy.data.materials.new("own")
    count = len(bpy.data.materials)
    skin, before = obj.data.materials[0], images_of(obj.data.materials[0])["Base Color"].session_uid
    again, _ = import_slots(("skin", "eyes"), (0, 1), is_new=False)
    assert again == obj and indices(obj) == slots.tolist()
    assert [m.name for m in obj.data.materials] == ["skin", "own"] and obj.data.materials[1] == own
    assert obj.data.materials[0] == skin and len(bpy.data.materials) == count
    assert images_of(skin)["Base Color"].session_uid != before


def test_a_result_without_slots_has_one_material_of_its_name(imported):
    obj, _ = imported
    assert [m.name for m in obj.data.materials] == ["a red béar"] and set(indices(obj)) == {0}


@pytest.mark.parametrize("of_face", [(-1,), (5000,)])
def test_slots_that_a_damaged_result_has_are_refused_in_one_sentence(import_slots, extension, of_face):
    with pytest.raises(Exception, match="material slot below 0, or beyond"):
        import_slots(("skin",), of_face)
