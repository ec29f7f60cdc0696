"""A better version of a result by another job: it takes the place of the earlier one, which keeps all that it has."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .nasty import NASTY
from .objects import reported
from .test_contract import SIZES, differences, is_of_mesh, split, state
from .test_import_again import change_result

OWN = {f"object property recdreamer_{name}" for name in ("job", "settings", "seed")}


@pytest.fixture
def refine(imported, settle):
    """Refine the imported draft and wait; returns the better job."""
    _, draft = imported

    def refine():
        assert bpy.ops.recdreamer.refine(job_id=draft.id) == {"FINISHED"}
        job = settle()
        assert job.condition == "done" and job.id != draft.id
        return job

    return refine


@pytest.fixture
def put(addon):
    """Import a result; returns its object and the remarks."""

    def put(job, **options):
        said = []
        (obj,) = addon("result.scene_import").import_result(job.folder.root, say=said.append, **options)
        return obj, said

    return put


def give_other_faces(job):
    """A mesh whose faces share no vertices, a little larger."""
    with np.load(job.folder.result / "mesh.npz") as arrays:
        verts, faces, uvs = (arrays[name] for name in ("verts", "faces", "uvs"))
    corners = np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
    change_result(job, verts=verts[faces].reshape(-1, 3) * np.float32(1.01), faces=corners, uvs=uvs)


def make_it_the_artists(obj):
    """Place, parent, name and modify an object, and give it a group, a material of its own and a constraint."""
    parent = bpy.data.objects.new("shelf", None)
    bpy.context.scene.collection.objects.link(parent)
    obj.parent, obj.name = parent, "my bear"
    obj.location, obj.rotation_euler.z, obj.scale = (1, 2, 3), 0.5, (2, 2, 2)
    obj.modifiers.new("Bevel", "BEVEL")
    obj.constraints.new("LIMIT_LOCATION")
    obj.vertex_groups.new(name="hat").add([v.index for v in obj.data.vertices if v.co.z > 1], 0.5, "REPLACE")
    obj["note"] = "mine"
    material = obj.data.materials[0]
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.125
    material.name = "my skin"
    obj.data.materials.append(bpy.data.materials.new("gold"))
    for polygon in obj.data.polygons:
        polygon.material_index = int(polygon.normal.y < -0.9)


@pytest.mark.parametrize("has_other_faces", [False, True])
def test_the_refined_draft_is_in_the_place_of_the_draft(imported, refine, put, has_other_faces):
    obj, _ = imported
    make_it_the_artists(obj)
    bpy.context.view_layer.update()
    place, counts = obj.matrix_world.copy(), (len(bpy.data.objects), len(bpy.data.materials))
    uid, modifiers, constraints = obj.session_uid, obj.modifiers[:], obj.constraints[:]
    better = refine()
    if has_other_faces:
        give_other_faces(better)
    texture = better.folder.result / "albedo.png"
    texture.write_bytes((better.folder.root / "previews/000001.png").read_bytes())
    found, _ = put(better)
    bpy.context.view_layer.update()
    assert found.session_uid == uid and (len(bpy.data.objects), len(bpy.data.materials)) == counts
    assert found.name == "my bear" and found.parent.name == "shelf" and found["note"] == "mine"
    assert found.matrix_world == place and found.modifiers[:] == modifiers
    assert found.constraints[:] == constraints and [m.name for m in found.data.materials] == [
        "my skin",
        "gold",
    ]
    assert found["recdreamer_job"] == found.data.materials[0]["recdreamer_job"] == better.id
    assert len(found.data.vertices) == (36 if has_other_faces else 8)
    for vertex in found.data.vertices:
        assert [element.weight for element in vertex.groups] == ([0.5] if vertex.co.z > 1 else [])
    for polygon in found.data.polygons:
        assert polygon.material_index == int(polygon.normal.y < -0.9)
    nodes = found.data.materials[0].node_tree.nodes
    image = next(node.image for node in nodes if node.type == "TEX_IMAGE")
    assert tuple(image.size) == (128, 128), "the texture of the better job"
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    assert shader.inputs["Roughness"].default_value == 0.125
    again, said = put(better)
    assert again == found and len(bpy.data.objects) == counts[0] and said == []


@pytest.mark.parametrize("kind", NASTY)
def test_a_better_version_keeps_all_that_the_artist_has_added(imported, refine, put, kind):
    """The contract of renewing, for another job with the same faces."""
    obj, _ = imported
    NASTY[kind](obj)
    before = state()
    _, said = put(refine())
    renewed = {"attribute UVMap", "UV map UVMap", "UV maps"} if kind == "no_uv_map" else set()
    found = {part for _, part in split(differences(before, state()), obj)}
    if kind != "odd_topology":
        assert {part for part in found if "recdreamer" not in part and "uv_layer_" not in part} <= renewed, (
            said
        )
        return
    assert {part for part in found if not is_of_mesh(f": {part}") and "recdreamer" not in part} <= SIZES, said


@pytest.mark.parametrize("kind", NASTY)
def test_a_better_version_with_other_faces_keeps_what_is_not_on_them(imported, refine, put, kind):
    obj, _ = imported
    NASTY[kind](obj)
    before, better = state(), refine()
    give_other_faces(better)
    _, said = put(better)
    after = state()
    parts = differences(before, after)
    changed = {part for _, part in split(parts, obj) if part in after[obj.name]}
    assert {part for part in changed if not is_of_mesh(f": {part}") and "recdreamer" not in part} <= SIZES, (
        said
    )
    of_others = [part for part in parts if not part.startswith(f"{obj.name}: ")]
    assert set(of_others) <= {f"child: object matrix_{space}" for space in ("world", "local")}


def test_a_retry_with_another_seed_takes_the_place_and_the_next_one_too(imported, put, settle, draw):
    obj, first = imported
    bpy.context.view_layer.objects.active = obj
    assert "New Seed" in draw().texts
    obj.location = (4, 5, 6)
    for _ in range(2):
        assert bpy.ops.recdreamer.retry(job_id=first.id, change="seed") == {"FINISHED"}
        second = settle()
        assert bpy.ops.recdreamer.retry(job_id=second.id, change="seed") == {"FINISHED"}
        third = settle()
        # The job between them was not imported.
        found, _ = put(third)
        assert found == obj and tuple(obj.location) == (4, 5, 6) and obj["recdreamer_job"] == third.id
        assert obj["recdreamer_seed"] == third.request.seed
        obj["recdreamer_job"] = first.id
    assert len([one for one in bpy.data.objects if one.type == "MESH"]) == 1


def test_nothing_is_replaced_if_nothing_is_to_be(imported, refine, put):
    obj, draft = imported
    better = refine()
    new, _ = put(better, replaces="NOTHING")
    assert new != obj and obj["recdreamer_job"] == draft.id
    assert put(better)[0] == new, "its own object comes first"


def test_another_prompt_is_no_better_version(imported, generate, put, settings):
    obj, _ = imported
    settings.prompt = "a blue bird"
    job, _ = generate()
    assert put(job)[0] != obj


def test_any_result_replaces_the_active_one_if_asked_to(imported, generate, settings, draw):
    obj, _ = imported
    obj.location.x = 5
    settings.prompt = "a blue bird"
    job, _ = generate()
    bpy.context.view_layer.objects.active = obj
    assert "Replace Selected" in draw().texts
    assert bpy.ops.recdreamer.import_result(job_id=job.id, replaces="ACTIVE") == {"FINISHED"}
    assert (
        obj["recdreamer_job"] == job.id and obj.location.x == 5 and obj["recdreamer_prompt"] == "a blue bird"
    )
    assert len([one for one in bpy.data.objects if one.type == "MESH"]) == 1
    assert "Replace Selected" not in draw().texts
    bpy.ops.mesh.primitive_cube_add()
    text = reported(bpy.ops.recdreamer.import_result, job_id=job.id, replaces="ACTIVE")
    assert "The active object is not an imported result. Select the one to replace." in text


def test_a_result_that_goes_on_from_another_stands_where_that_one_did(imported, settle, settings, put):
    """Its origin is the middle of its base, wherever that was in the earlier mesh, and stays there."""
    obj, first = imported
    with np.load(first.folder.result / "mesh.npz") as arrays:
        change_result(first, verts=arrays["verts"] + np.float32((0.5, 0, 0)))
    put(first)
    obj.location, obj.rotation_euler.z = (1, 2, 3), 0.5
    settings.start.kind, settings.start.job = "continue", first.id
    assert bpy.ops.recdreamer.generate() == {"FINISHED"}
    job = settle()
    bpy.context.view_layer.update()
    before = sorted(tuple(round(x, 4) for x in obj.matrix_world @ v.co) for v in obj.data.vertices)
    bpy.context.view_layer.objects.active = obj
    for _ in range(2):
        found, _ = put(job, replaces="ACTIVE")
        assert found == obj
        after = sorted(tuple(round(x, 4) for x in obj.matrix_world @ v.co) for v in obj.data.vertices)
        assert np.allclose(before, after, atol=1e-3)


def test_a_hidden_one_is_said_to_be(imported, refine, put):
    obj, _ = imported
    obj.hide_set(True)
    assert f"{obj.name!r} is hidden." in put(refine())[1]


def test_both_can_be_compared_after_one_has_replaced_the_other(imported, refine, put):
    _, draft = imported
    better = refine()
    put(better)
    assert bpy.ops.recdreamer.show_other(job_id=draft.id, other_id=better.id) == {"FINISHED"}
    shown = [one for one in bpy.data.objects if one.type == "MESH" and one.visible_get()]
    assert len([one for one in bpy.data.objects if one.type == "MESH"]) == 2 and len(shown) == 1


def test_a_result_of_another_file_is_left_alone(imported, refine, put, tmp_path):
    obj, _ = imported
    bpy.data.libraries.write(str(tmp_path / "other.blend"), {obj})
    bpy.data.objects.remove(obj)
    with bpy.data.libraries.load(str(tmp_path / "other.blend"), link=True) as (there, here):
        here.objects = there.objects
    (linked,) = here.objects
    bpy.context.scene.collection.objects.link(linked)
    new, _ = put(refine())
    assert new != linked and new.library is None and linked.library is not None


def test_a_better_painting_is_in_the_slot_of_the_first(fake_backend, settle, settings, put, addon):
    bpy.ops.mesh.primitive_cube_add()
    cube = bpy.context.object
    settings.start.kind, settings.start.object = "texture", cube
    assert bpy.ops.recdreamer.vary(count=2) == {"FINISHED"}
    session = addon("session").session
    draft = addon("operators.queue").siblings(session.shown)[0]
    settle()
    put(draft)
    materials = len(cube.data.materials)
    assert bpy.ops.recdreamer.refine(job_id=draft.id) == {"FINISHED"}
    better = session.shown
    settle()
    assert better.request.start == "texture" and better.request.quality == "standard"
    found, _ = put(better)
    assert found == cube and len(cube.data.materials) == materials and len(bpy.data.meshes) == 1
    assert cube.data.materials[-1]["recdreamer_painted_by"] == cube["recdreamer_painted_by"] == better.id


def test_a_refined_draft_of_an_object_stands_where_that_one_is(fake_backend, settle, settings, put, addon):
    """Also if the draft was never imported."""
    bpy.ops.mesh.primitive_cube_add(location=(3, 4, 5))
    settings.start.kind, settings.start.object = "object", bpy.context.object
    assert bpy.ops.recdreamer.generate() == {"FINISHED"}
    draft = settle()
    assert bpy.ops.recdreamer.refine(job_id=draft.id) == {"FINISHED"}
    found, _ = put(settle())
    assert tuple(found.location) == pytest.approx((3, 4, 4))
