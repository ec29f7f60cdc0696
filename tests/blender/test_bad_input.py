"""Every mistake gets a clear message with a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import pytest

from .objects import reported


def test_no_backend(extension, sentence):
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert sentence() == "The backend is not installed yet. Press Install Backend in the preferences."
    assert not bpy.ops.recdreamer.generate.poll()


def test_interpreter_that_does_not_exist(preferences, sentence, tmp_path):
    preferences.backend_python = str(tmp_path / "nowhere")
    assert "does not exist. Choose another one in the preferences" in sentence()
    assert "does not exist" in reported(bpy.ops.recdreamer.check_backend)


def test_interpreter_without_the_backend(preferences, settle, addon, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    preferences.backend_python = "/bin/true"
    bpy.ops.recdreamer.generate()
    job = settle()
    assert job.condition == "failed"
    assert "did not start" in job.state.message and "preferences" in job.state.hint
    preferences.backend_python = "/bin/false"
    bpy.ops.recdreamer.check_backend()
    session = addon("session").session
    pump_until(lambda: not session.task.is_running)
    assert session.task.problem.startswith("Checking the backend failed")


def test_empty_prompt(fake_backend, sentence):
    bpy.context.scene.recdreamer.prompt = "  "
    assert sentence() == "The prompt is empty. Describe the object, for example: a red bear."


def test_one_template_only(fake_backend, block_out, sentence):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a bear"
    assert sentence() == ""
    settings.templates[0].enabled = False
    assert "show 1 pose class" in sentence() and "Add templates of other views" in sentence()


def test_template_without_a_name_or_a_picture(fake_backend, block_out, sentence):
    bpy.ops.recdreamer.capture_turntable()
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a bear"
    settings.templates[2].path.unlink()
    assert sentence() == "The image of template 'back' is missing. Recapture or remove the template."
    settings.templates[0].label = " "
    assert sentence() == "A template has no pose. Name its pose, for example: front."


def test_pictures_of_another_computer_are_named_once_and_removed_together(
    fake_backend, block_out, sentence, draw, tmp_path
):
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a bear"
    bpy.ops.recdreamer.capture_turntable()
    settings.templates[3].label = "front"
    for template in list(settings.templates)[:3]:
        template.path.unlink()
    assert sentence() == ("The images of 3 templates are missing. Press Remove Missing, or recapture them.")
    seen = draw()
    assert " ".join(seen.texts).count("3 of 4 pictures are not on this computer.") == 1
    assert "recdreamer.remove_missing_templates" in seen.operators
    # A stranger's file may name any path, but none outside of the templates folder is looked at.
    (tmp_path / "elsewhere.png").write_bytes(settings.templates[3].path.read_bytes())
    settings.templates[0].image = str(tmp_path / "elsewhere.png")
    settings.templates[1].image = "\\\\server\\share\\x.png"
    assert settings.templates[0].is_missing and settings.templates[1].path.name == "x.png"
    assert bpy.ops.recdreamer.remove_missing_templates() == {"FINISHED"}
    assert len(settings.templates) == 1 and not settings.templates[0].is_missing


def test_data_folder_that_cannot_be_written(fake_backend, preferences, tmp_path):
    (tmp_path / "file").write_text("")
    preferences.data_folder = str(tmp_path / "file/data")
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert "cannot be written" in reported(bpy.ops.recdreamer.generate)
    assert "or choose another data folder" in reported(bpy.ops.recdreamer.capture_turntable)


def test_turntable_of_nothing(extension):
    assert "Nothing is selected" in reported(bpy.ops.recdreamer.capture_turntable)
    bpy.ops.object.camera_add()
    assert "Nothing is selected" in reported(bpy.ops.recdreamer.capture_turntable)
    bpy.ops.mesh.primitive_plane_add(size=0)
    assert "has no size" in reported(bpy.ops.recdreamer.capture_turntable)
    assert len(bpy.data.scenes) == 1 and not bpy.context.scene.recdreamer.templates


def test_view_without_a_camera(extension):
    assert "The scene has no camera" in reported(bpy.ops.recdreamer.capture_view)


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_not_an_image(extension, tmp_path, content):
    (tmp_path / "front.png").write_bytes(content)
    message = reported(bpy.ops.recdreamer.add_files, directory=str(tmp_path), files=[{"name": "front.png"}])
    assert "front.png" in message and message.count("Error") == 1
    assert not bpy.context.scene.recdreamer.templates
    assert not bpy.data.images.get("front.png")


def test_no_file_chosen(extension):
    assert "No file was chosen" in reported(bpy.ops.recdreamer.add_files)


def test_truncated_job(fake_backend, settle, addon):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    job = settle()
    job.folder.request.write_text(job.folder.request.read_text()[:30])
    addon("session").session.stop()
    found = addon("session").session.shown
    assert found.condition == "damaged"
    assert "job.json cannot be read" in reported(bpy.ops.recdreamer.resume)
    assert "no result" in reported(bpy.ops.recdreamer.import_result)


@pytest.mark.parametrize(
    ("name", "sentence"), [("mesh.npz", "mesh of this job"), ("albedo.png", "texture of this job")]
)
def test_damaged_result(fake_backend, settle, name, sentence):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    path = settle().folder.result / name
    path.write_bytes(path.read_bytes()[:20] if name == "mesh.npz" else b"")
    assert f"The {sentence} cannot be read" in reported(bpy.ops.recdreamer.import_result)
    assert not bpy.data.objects and not bpy.data.meshes and not bpy.data.materials


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("die", "ended unexpectedly (code 7"),
        ("other protocol", "uses protocol 99"),
        ("refuse", "No module named 'torch'"),
    ],
)
def test_worker_trouble(fake_backend, settle, mode, sentence):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": mode}))
    assert sentence in settle().state.message


def test_overrides_that_are_not_json(fake_backend):
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert "Expecting" in reported(bpy.ops.recdreamer.generate, overrides="{")


def test_a_folder_that_would_be_started_is_not_opened(fake_backend, settle, addon, monkeypatch):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    job = settle()
    job.folder.root.rename(job.folder.root.with_name("bear.app"))
    addon("session").pump()
    message = reported(bpy.ops.recdreamer.open_folder, job_id="bear.app")
    assert "looks like that of a program. Rename it without a dot first." in message


def test_actions_without_a_job_say_that_there_is_none(extension):
    for name in ("import_result", "pause", "cancel", "show_job", "use_settings", "delete_job", "open_folder"):
        message = reported(
            getattr(bpy.ops.recdreamer, name), **({"job_id": "x"} if name == "show_job" else {})
        )
        assert "There is no job" in message, Path(name)
