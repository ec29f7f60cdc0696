"""The non-destructive contract: painting and renewing change what the artist has asked for, and nothing else.

Everything of every object in the scene is compared before and after, bit by bit (everything.py), for objects
with all that an add-on easily damages (nasty.py).
"""

from __future__ import annotations

import json

import bpy
import numpy as np
import pytest

from .everything import OURS, of_object
from .nasty import NASTY
from .test_import_again import change_result

UV_ROLES = {f"mesh uv_layer_{name}{what}" for name in ("clone", "stencil") for what in ("", "_index")}
"""Which UV map has them follows from the first one that there is."""
INDEX = "attribute material_index"


def state() -> dict[str, dict]:
    """Everything of every object by its name."""
    bpy.context.view_layer.update()
    return {obj.name: of_object(obj) for obj in bpy.data.objects}


def differences(before: dict, after: dict) -> list[str]:
    """What is different or missing, and what has been added, but for what is the add-on's own."""
    found = []
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            found.append(f"object {name!r} {'added' if name in after else 'lost'}")
            continue
        old, new = before[name], after[name]
        for part in sorted(old.keys() | new.keys()):
            if old.get(part, "missing") != new.get(part, "missing") and not is_ours(part):
                found.append(f"{name}: {part}")
    return found


def is_ours(part: str) -> bool:
    return part.removeprefix("attribute ").startswith(OURS)


def material_indices(obj) -> np.ndarray:
    """The slot that each face shows; Blender shows the last one for an index that is too large."""
    indices = np.empty(len(obj.data.polygons), np.int32)
    obj.data.polygons.foreach_get("material_index", indices)
    return indices.clip(0, max(0, len(obj.material_slots) - 1))


@pytest.fixture
def own(extension):
    """An artist's object with one material, on a UV map."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=5)
    obj = bpy.context.object
    obj.data.materials.append(bpy.data.materials.new("mine"))
    return obj


def import_job(job, addon) -> list[str]:
    said = []
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    return said


def paint(obj, settle, **overrides):
    """The finished job that paints an object."""
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a red bear", "vsd"
    settings.start.kind, settings.start.object = "texture", obj
    assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
    job = settle()
    assert job.condition == "done", job.state
    return job


@pytest.mark.parametrize("kind", NASTY)
def test_painting_an_object_keeps_all_that_it_has(own, fake_backend, settle, addon, kind):
    NASTY[kind](own)
    before, slots, shown = state(), list(own.material_slots), material_indices(own)
    maps = [layer.name for layer in own.data.uv_layers]
    job = paint(own, settle)
    assert differences(before, state()) == []

    said = import_job(job, addon)
    new_map = [] if maps else ["attribute RecDreamer", "UV map RecDreamer", "UV maps"]
    allowed = {f"{own.name}: {part}" for part in ["slots", "material a red bear", INDEX, *new_map]}
    allowed |= {f"{own.name}: {part}" for part in UV_ROLES if not maps}
    assert [part for part in differences(before, state()) if part not in allowed] == [], said
    after = of_object(own)
    assert after["slots"][: len(slots)] == before[own.name]["slots"], "slots of the artist"
    assert after["slots"][len(slots) :] == [("DATA", "a red bear")], "the painted one comes last"
    assert set(material_indices(own)) == {len(slots)}, "all faces are painted"

    assert bpy.ops.recdreamer.restore_materials() == {"FINISHED"}
    assert (material_indices(own) == shown).all(), "each face is back in its slot"
    later = import_job(job, addon)
    assert of_object(own).keys() == after.keys(), later


@pytest.mark.parametrize("kind", NASTY)
def test_renewing_a_result_keeps_all_that_the_artist_has_added(imported, addon, kind):
    obj, job = imported
    NASTY[kind](obj)
    before = state()
    said = import_job(job, addon)
    renewed = ["attribute UVMap", "UV map UVMap", "UV maps", *UV_ROLES] if kind == "no_uv_map" else []
    allowed = {f"{obj.name}: {part}" for part in renewed}
    found = [part for part in differences(before, state()) if part not in allowed]
    if kind != "odd_topology":
        assert found == [], said
        return
    # The artist has changed the faces, so the mesh is one with other faces.
    assert {part for _, part in split(found, obj) if not is_of_mesh(f": {part}")} <= SIZES, said


def is_of_mesh(part: str) -> bool:
    return any(word in part for word in (": attribute", ": face", ": corner", ": edges", ": weights"))


@pytest.mark.parametrize("kind", NASTY)
def test_a_better_version_with_other_faces_keeps_all_but_what_is_on_its_faces(imported, addon, kind):
    """The new mesh has other vertices, so what is on single ones goes, and it is said; all else stays."""
    obj, job = imported
    NASTY[kind](obj)
    before = state()
    with np.load(job.folder.result / "mesh.npz") as arrays:
        verts, faces, uvs = (arrays[name] for name in ("verts", "faces", "uvs"))
    corners = np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
    change_result(job, verts=verts[faces].reshape(-1, 3) * np.float32(1.01), faces=corners, uvs=uvs)
    said = " ".join(import_job(job, addon))
    after = state()
    assert len(obj.data.vertices) == 3 * len(faces)
    parts = differences(before, after)
    of_others = [part for part in parts if not part.startswith(f"{obj.name}: ")]
    # It is on the third vertex, which is at another place.
    assert set(of_others) <= {f"child: object matrix_{space}" for space in ("world", "local")}
    lost = {part for name, part in split(parts, obj) if part not in after[name]}
    lost -= {
        part for part in lost if part.startswith(("attribute .hide", "attribute .select", "attribute sharp_"))
    }
    for part in lost - {"shape keys"}:
        words = (
            "shape keys",
            "paint",
            "custom normals",
            "seams",
            "UV map",
            "others",
            part.split(maxsplit=1)[1],
        )
        assert any(word in said for word in words), (part, said)
    changed = {part for _, part in split(parts, obj) if part in after[obj.name]}
    assert {part for part in changed if not is_of_mesh(f": {part}")} <= SIZES, said


SIZES = {
    "mesh texspace_location",
    "mesh texspace_size",
    "object dimensions",
    "UV maps",
    "UV map UVMap",
    "colors",
}
SIZES |= {"object active_shape_key_index", "attributes active", "attributes active_color"}
SIZES |= UV_ROLES
"""What follows from another shape."""


def split(parts: list[str], obj) -> list[tuple[str, str]]:
    return [
        (obj.name, part.removeprefix(f"{obj.name}: ")) for part in parts if part.startswith(f"{obj.name}: ")
    ]


def test_a_material_that_the_artist_has_changed_keeps_its_changes(imported, addon):
    obj, job = imported
    material = obj.data.materials[0]
    material["note"], material.name = "mine", "my skin"
    principled = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    principled.inputs["Roughness"].default_value = 0.125
    principled.inputs["Metallic"].driver_add("default_value").driver.expression = "0.5"
    added = material.node_tree.nodes.new("ShaderNodeTexNoise")
    added.name = "my noise"
    before = state()
    images = [node.image.name for node in material.node_tree.nodes if node.type == "TEX_IMAGE"]
    texture = job.folder.result / "albedo.png"
    texture.write_bytes((job.folder.root / "previews/000001.png").read_bytes())
    import_job(job, addon)
    assert differences(before, state()) == []
    assert obj.data.materials[0] == material
    shown = [node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE"]
    assert [image.name for image in shown] == images and tuple(shown[0].size) == (128, 128)
    assert len(bpy.data.materials) == 1 and len(bpy.data.images) == len(images)


def test_a_material_on_another_object_stays_as_it_is_there(imported, addon):
    obj, job = imported
    other = bpy.data.objects.new("other", obj.data.copy())
    bpy.context.scene.collection.objects.link(other)
    material = other.data.materials[0]
    image = next(node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE")
    import_job(job, addon)
    assert other.data.materials[0] == material and obj.data.materials[0] != material
    assert next(n.image for n in material.node_tree.nodes if n.type == "TEX_IMAGE") == image
    assert image.name in bpy.data.images


def test_a_shared_mesh_keeps_all_that_it_has_on_both_objects(imported, addon):
    obj, job = imported
    NASTY["attributes_of_all_kinds"](obj)
    NASTY["colors"](obj)
    other = bpy.data.objects.new("other", obj.data)
    bpy.context.scene.collection.objects.link(other)
    before = state()
    import_job(job, addon)
    mesh = ("mesh name", "object data", "object active_material")
    found = [part for part in differences(before, state()) if not part.endswith(mesh)]
    assert [part for part in found if "material a red" not in part and "slots" not in part] == []
    assert other.data != obj.data


def test_painting_a_region_leaves_what_the_other_faces_show(own, fake_backend, settle, addon):
    """A face with an index that is too large shows the last material, also when there is one more."""
    NASTY["slots_that_are_not_there"](own)
    center = own.data.polygons[1].center
    far = max(own.data.vertices, key=lambda vertex: (vertex.co - center).length).index
    assert far not in own.data.polygons[1].vertices
    own.vertex_groups.new(name="hat").add([far], 1.0, "REPLACE")
    settings = bpy.context.scene.recdreamer
    settings.start.region = "hat"
    shown = material_indices(own)
    import_job(paint(own, settle), addon)
    now = material_indices(own)
    assert now[1] == shown[1] and set(now[now != shown]) == {1}


def test_shape_keys_follow_a_new_shape_with_the_same_faces(imported, addon):
    obj, job = imported
    NASTY["shape_keys"](obj)
    keys = obj.data.shape_keys.key_blocks
    smile = [key.co - own.co for key, own in zip(keys["smile"].data, keys["Basis"].data, strict=True)]
    with np.load(job.folder.result / "mesh.npz") as arrays:
        change_result(job, verts=arrays["verts"] * np.float32(1.5))
    before = state()
    assert import_job(job, addon) == []
    found = {part for _, part in split(differences(before, state()), obj)}
    allowed = {"attribute position", "corner normals"}
    assert {part for part in found if not part.startswith("shape key ")} <= SIZES | allowed
    for key, own, moved in zip(keys["smile"].data, keys["Basis"].data, smile, strict=True):
        assert (key.co - own.co - moved).length < 1e-5
    assert keys["Basis"].data[0].co.x == pytest.approx(-1.35)


def test_other_faces_twice(imported, addon):
    """The second time the faces are those of the first, so that what was added between stays."""
    obj, job = imported
    with np.load(job.folder.result / "mesh.npz") as arrays:
        faces = np.roll(arrays["faces"], 1, axis=0)[:-1]
        change_result(job, faces=faces, uvs=np.roll(arrays["uvs"], 1, axis=0)[:-1])
    import_job(job, addon)
    NASTY["attributes_of_all_kinds"](obj)
    before = state()
    assert import_job(job, addon) == [] and differences(before, state()) == []
