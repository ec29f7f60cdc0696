"""What artists do and what disks do around a job: several scenes, a folder that cannot be written, a full disk."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import bpy
import pytest

from .objects import add_cube, reported


@pytest.fixture
def jobs(addon):
    return lambda: list(addon("session").session.registry.jobs)


def test_three_scenes_have_prompts_of_their_own_and_each_gets_its_result(fake_backend, settle, jobs):
    window = bpy.context.window_manager.windows[0]
    scenes = [bpy.context.scene, bpy.data.scenes.new("two"), bpy.data.scenes.new("three")]
    for number, scene in enumerate(scenes):
        window.scene = scene
        scene.recdreamer.prompt, scene.recdreamer.method = f"a bear {number}", "vsd"
        assert bpy.ops.recdreamer.generate() == {"FINISHED"}
    settle()
    by_prompt = {job.request.prompt: job for job in jobs()}
    assert {job.condition for job in by_prompt.values()} == {"done"} and len(by_prompt) == 3
    for number, scene in enumerate(scenes):
        window.scene = scene
        assert bpy.ops.recdreamer.import_result(job_id=by_prompt[f"a bear {number}"].id) == {"FINISHED"}
    assert [[obj.name for obj in scene.objects] for scene in scenes] == [
        ["a bear 0"],
        ["a bear 1"],
        ["a bear 2"],
    ]
    # The same result in another scene is another object.
    window.scene = scenes[0]
    assert bpy.ops.recdreamer.import_result(job_id=by_prompt["a bear 2"].id) == {"FINISHED"}
    assert len(scenes[0].objects) == 2 and len(scenes[2].objects) == 1


def test_a_scene_that_is_deleted_while_its_job_runs(fake_backend, settle, jobs):
    window = bpy.context.window_manager.windows[0]
    first, second = bpy.context.scene, bpy.data.scenes.new("two")
    window.scene = second
    second.recdreamer.prompt, second.recdreamer.method = "a bear", "vsd"
    second.recdreamer.start.kind, second.recdreamer.start.object = "object", add_cube()
    assert bpy.ops.recdreamer.generate() == {"FINISHED"}
    window.scene = first
    bpy.data.scenes.remove(second)
    assert settle().condition == "done"
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}
    assert [obj.name for obj in first.objects] == ["a bear"]


@contextmanager
def no_writing(monkeypatch, below: Path, code: int):
    """Nothing below a folder can be made or opened for writing, as by a mount that is read-only or full."""
    make, open_file = os.mkdir, os.open

    def refuse(path) -> None:
        if Path(os.fsdecode(path)).is_relative_to(below):
            raise OSError(code, os.strerror(code), str(path))

    def mkdir(path, *args, **kwargs):
        refuse(path)
        return make(path, *args, **kwargs)

    def opened(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            refuse(path)
        return open_file(path, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir)
        patch.setattr(os, "open", opened)
        yield


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_generate_in_a_folder_that_cannot_be_written_says_so(
    settings, preferences, jobs, settle, monkeypatch, code
):
    folder = Path(preferences.data_folder)
    with no_writing(monkeypatch, folder, code):
        said = reported()
    assert os.strerror(code) in said and "\n" not in said.removeprefix("Error: ").strip(), said
    assert "data folder" in said or "Free some space" in said
    assert not jobs() and not list(folder.glob("jobs/*"))
    assert bpy.ops.recdreamer.generate() == {"FINISHED"} and settle().condition == "done"


def test_a_full_disk_under_a_start_mesh_leaves_no_job(settings, jobs, settle):
    resource = pytest.importorskip("resource")
    settings.start.kind, settings.start.object = "object", add_cube()
    modifier = settings.start.object.modifiers.new("Subdivision", "SUBSURF")
    modifier.levels = 4
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        said = reported()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Free some space" in said and not jobs()
    assert bpy.ops.recdreamer.generate() == {"FINISHED"} and settle().condition == "done"
