"""Import a result again: its own data is updated, and the artist's changes are kept or reported."""

from __future__ import annotations

import bpy
import numpy as np
import pytest


def give_new_faces(job):
    """Replace the last face of the result by a tip."""
    path = job.folder.result / "mesh.npz"
    with np.load(path) as arrays:
        verts, faces, uvs = (arrays[name] for name in ("verts", "faces", "uvs"))
    extra = verts[faces[-1]].mean(0) + np.float32((0, 0, -0.1))
    tip = [(a, b, len(verts)) for a, b in zip(faces[-1], np.roll(faces[-1], -1), strict=True)]
    arrays = np.vstack((verts, extra)), np.vstack((faces[:-1], tip)), np.concatenate((uvs, uvs[:2]))
    np.savez(path, **dict(zip(("verts", "faces", "uvs"), arrays, strict=True)))


def change_result(job, **arrays):
    path = job.folder.result / "mesh.npz"
    with np.load(path) as old:
        np.savez(path, **{name: old[name] for name in old.files} | arrays)


def places(obj):
    return np.array([vertex.co for vertex in obj.data.vertices])


@pytest.fixture
def import_again(imported, addon):
    """Import the result again and return its remarks."""

    def import_again():
        said = []
        addon("result.scene_import").import_result(imported[1].folder.root, say=said.append)
        return said

    return import_again


def test_importing_again_keeps_the_transform(imported):
    obj, job = imported
    obj.location, obj.name = (1, 2, 3), "my bear"
    obj.modifiers.new("Bevel", "BEVEL")
    mesh = obj.data
    obj.vertex_groups.new(name="hat").add([4, 5], 0.5, "REPLACE")
    mesh.color_attributes.new("mask", "BYTE_COLOR", "CORNER")
    counts = [len(getattr(bpy.data, name)) for name in ("objects", "meshes", "materials", "images")]
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert tuple(obj.location) == (1, 2, 3) and obj.name == "my bear" and len(obj.modifiers) == 1
    assert obj.data == mesh and mesh.vertices[0].co.x == pytest.approx(-0.9)
    assert obj.vertex_groups["hat"].weight(5) == 0.5 and "mask" in mesh.color_attributes
    assert [len(getattr(bpy.data, n)) for n in ("objects", "meshes", "materials", "images")] == counts
    assert obj.data.name == obj.data.materials[0].name == "a red béar"


def test_vertex_groups_are_transferred_to_new_faces(imported, addon):
    obj, job = imported
    obj.vertex_groups.new(name="hat").add([v.index for v in obj.data.vertices if v.co.z > 1], 0.5, "REPLACE")
    obj.vertex_groups.new(name="none")
    obj.shape_key_add()
    obj.data.color_attributes.new("mask", "BYTE_COLOR", "CORNER")
    give_new_faces(job)
    said = []
    addon("result.scene_import").import_result(job.folder.root, say=said.append)
    assert said == [
        "'a red béar' has a new mesh: its vertex groups were transferred to the nearest vertices, "
        "and it lost the paint and shape keys of the old mesh."
    ]
    assert [group.name for group in obj.vertex_groups] == ["hat", "none"] and len(obj.data.vertices) == 9
    for vertex in obj.data.vertices:
        weights = [element.weight for element in vertex.groups]
        assert weights == ([0.5] if vertex.co.z > 1 else [])


def test_an_updated_result_keeps_an_applied_transform(imported):
    obj, job = imported
    obj.location, obj.rotation_euler.z, obj.scale = (1, 2, 3), 0.5, (2, 1, 1)
    bpy.ops.object.transform_apply()
    before = np.array([vertex.co for vertex in obj.data.vertices])
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose([vertex.co for vertex in obj.data.vertices], before, atol=1e-5)


@pytest.mark.parametrize("has_new_faces", [False, True])
def test_materials_of_the_artist_are_kept(imported, import_again, has_new_faces):
    obj, job = imported
    own, other = (bpy.data.materials.new(name) for name in ("own", "other"))
    obj.data.materials[0] = own
    obj.data.materials.append(other)
    for polygon in obj.data.polygons:
        polygon.material_index = int(polygon.normal.y < -0.9)
    if has_new_faces:
        give_new_faces(job)
    for _ in range(2):
        said = import_again()
        assert [m.name.removesuffix(".001") for m in obj.data.materials] == ["own", "other", "a red béar"]
        for polygon in obj.data.polygons:
            assert polygon.material_index == int(polygon.normal.y < -0.9)
        if has_new_faces:
            give_new_faces(job)
            assert "its materials were transferred to the nearest faces" in said[0]
    assert own.name in bpy.data.materials


def test_a_kept_material_is_reported(imported, import_again):
    obj, _ = imported
    obj.data.materials[0] = bpy.data.materials.new("own")
    assert import_again() == ["'a red béar' keeps its own material; the new one is in its last slot."]
    assert import_again() == []


def test_a_material_without_nodes_is_replaced(imported, import_again):
    obj, job = imported
    job_id = obj.data.materials[0]["recdreamer_job"]
    obj.data.materials[0] = bpy.data.materials.new("flat")
    obj.data.materials[0]["recdreamer_job"] = job_id
    give_new_faces(job)
    import_again()
    assert [m.name.removesuffix(".001") for m in obj.data.materials] == [
        "a red béar"
    ] and "flat" not in bpy.data.materials


def test_lost_uv_maps_are_reported(imported, import_again):
    obj, job = imported
    obj.data.uv_layers.new(name="light")
    assert import_again() == [] and "light" in obj.data.uv_layers
    give_new_faces(job)
    assert import_again() == ["'a red béar' has a new mesh: it lost the UV map 'light' of the old mesh."]


def test_vertices_moved_by_hand_are_kept_if_the_shape_is_the_same(imported, import_again):
    obj, job = imported
    obj.location, obj.scale = (1, 2, 3), (2, 1, 1)
    bpy.ops.object.transform_apply()
    obj.data.vertices[0].co.x -= 1
    before = places(obj)
    assert import_again() == [] and np.array_equal(places(obj), before)
    with np.load(job.folder.result / "mesh.npz") as arrays:
        change_result(job, verts=arrays["verts"] * np.float32(1.5))
    assert import_again() == ["'a red béar' has a new shape; vertices moved by hand were reset."]
    assert import_again() == []
    job_verts = (places(obj) - (1, 2, 3)) / (2, 1, 1)
    assert np.allclose(job_verts.max(0), (1.35, 0.675, 2.7), atol=1e-4)


@pytest.mark.parametrize("has_new_verts", [False, True])
def test_a_mirrored_result_is_not_turned_inside_out(imported, import_again, addon, has_new_verts):
    obj, job = imported
    obj.scale.x = -1
    bpy.ops.object.transform_apply()
    obj.vertex_groups.new(name="hat").add([4], 0.5, "REPLACE")
    obj.data.color_attributes.new("mask", "BYTE_COLOR", "CORNER")
    if has_new_verts:
        with np.load(job.folder.result / "mesh.npz") as arrays:
            change_result(job, verts=arrays["verts"] * np.float32(1.5))
    mesh, outward = obj.data, addon("result.mesh")._is_wound_outward
    uvs, was_outward = [tuple(corner.vector) for corner in mesh.uv_layers["UVMap"].uv], outward(mesh)
    assert import_again() == []
    assert obj.data == mesh and outward(mesh) == was_outward
    assert np.allclose([corner.vector for corner in mesh.uv_layers["UVMap"].uv], uvs)
    assert obj.vertex_groups["hat"].weight(4) == 0.5 and "mask" in mesh.color_attributes
    give_new_faces(job)
    import_again()
    assert obj.data == mesh and len(mesh.vertices) == 9 and outward(mesh) == was_outward
