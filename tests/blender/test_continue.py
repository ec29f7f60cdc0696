"""Jobs that start from an earlier result, and the place of their own results."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from .objects import add_cube, reported, volume


def test_continue_a_result(settings, generate, sentence):
    first, _ = generate()
    settings.start.kind = "continue"
    assert sentence().startswith("No result is chosen to start from.")
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
    assert sentence() == f"The job {first.id} was deleted. Choose another result to start from."


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
        return  # The stand-in cannot keep a region.
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose(corners_in_world(bpy.context.object), before, atol=1e-4)
    assert result.hide_get() and bpy.context.object != result
    bpy.data.objects.remove(bpy.context.object)
    bpy.data.objects.remove(result)
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose(corners_in_world(bpy.context.object), before, atol=1e-4), (
        "also after the earlier object was deleted"
    )


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
    rest = addon("objects.rest_positions")
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
    assert [job for job, _ in addon("start.properties")._search_jobs(settings.start, bpy.context, "")] == []
    done, _ = generate()
    assert addon("start.properties")._search_jobs(settings.start, bpy.context, "") == [
        (done.id, "a red bear")
    ]


def test_everything_clears_the_region_of_the_earlier_job(settings, generate):
    """Like the backend without a region, the stand-in makes a box at the origin."""
    cube = add_cube((3, 4, 5))
    cube.vertex_groups.new(name="hat").add([0, 1], 1, "REPLACE")
    settings.start.kind, settings.start.object, settings.start.region = "object", cube, "hat"
    first, _ = generate()
    bpy.ops.recdreamer.import_result(job_id=first.id)
    before = corners_in_world(bpy.context.object)
    bpy.ops.recdreamer.continue_selected()
    job, mesh = generate()
    assert job.request.start_mesh == "start/mesh.npz" and "region" not in mesh
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert np.allclose(corners_in_world(bpy.context.object), before, atol=1e-5)
    bpy.ops.recdreamer.continue_selected()
    assert generate()[1] is None, "the region is already cleared"
