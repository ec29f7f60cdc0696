"""Find objects that jobs started from or made: duplicates, deleted objects, a job without a placement."""

from __future__ import annotations

import bpy
import pytest


@pytest.fixture
def cube(extension):
    bpy.ops.mesh.primitive_cube_add()
    return bpy.context.object


@pytest.fixture
def generate(settings, settle):
    """Press Generate and wait for the job."""

    def generate():
        assert bpy.ops.recdreamer.generate() == {"FINISHED"}
        job = settle()
        assert job.condition == "done", job.state
        return job

    return generate


def test_a_duplicate_gets_an_id_of_its_own(cube, settings, generate, addon):
    scene = bpy.context.scene
    settings.start.kind, settings.start.object = "object", cube
    generate()
    first = cube["recdreamer_object"]
    bpy.ops.object.duplicate()
    copy = bpy.context.object
    generate()
    assert cube["recdreamer_object"] == copy["recdreamer_object"] == first, "the older one keeps it"
    settings.start.object = copy
    generate()
    second = copy["recdreamer_object"]
    assert cube["recdreamer_object"] == first != second
    find_start = addon("objects.object_keys").find_start
    assert find_start("Cube", second, scene) == copy and find_start("Cube", "", scene) == cube
    bpy.data.objects.remove(copy)
    assert find_start("Cube", second, scene) is None


def test_without_its_placement_the_result_is_at_the_cursor(cube, settings, generate, addon):
    settings.start.kind, settings.start.object = "object", cube
    job = generate()
    (job.folder.root / "start/placement.json").unlink()
    bpy.context.scene.cursor.location, said = (1, 2, 3), []
    (result,) = addon("result.scene_import").import_result(job.folder.root, hide_start=True, say=said.append)
    assert tuple(result.location) == (1, 2, 3) and not settings.start.object.hide_get()
    assert said == ["The position of the start object is unknown, so the result is at the 3D cursor."]


def test_a_deleted_result_is_imported_again(cube, settings, generate):
    job = generate()
    bpy.ops.recdreamer.import_result(job_id=job.id)
    first = settings.start.object = bpy.context.object
    bpy.ops.object.delete()
    assert first.name in bpy.data.objects, "the pointer keeps it"
    bpy.ops.recdreamer.import_result(job_id=job.id)
    assert bpy.context.object != first and bpy.context.object.name in bpy.context.scene.objects
    settings.start.kind, settings.start.job = "continue", job.id
    assert settings.start.region_object == bpy.context.object
