"""Redo of stages, and the state of a job after a redo that failed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import bpy
import pytest


def repeat(job):
    assert bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="texture") == {"FINISHED"}


def test_redo_of_the_texture_updates_the_object(imported, settle):
    obj, job = imported
    mesh = obj.data
    assert bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="texture") == {"FINISHED"}
    again = settle()
    assert again.id == job.id and again.condition == "done"
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert bpy.context.object == obj and obj.data == mesh
    seeds = json.loads(obj["recdreamer_repeated_seeds"])
    assert seeds == json.loads((job.folder.root / "seeds.json").read_text()) and list(seeds) == ["texture"]
    assert obj["recdreamer_seed"] == 7


def test_a_stage_that_did_not_run_cannot_be_redone(fake_backend, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.start.run_geometry = "a bear", False
    bpy.ops.recdreamer.generate()
    job = settle()
    assert job.stages_to_repeat == ("texture",)
    with pytest.raises(RuntimeError, match="This job did not run the geometry stage"):
        bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="geometry")


@pytest.mark.parametrize("end", ["die", "long"])
def test_the_earlier_result_is_usable_after_an_incomplete_redo(settings, generate, settle, pump_until, end):
    job, _ = generate(again=end)
    repeat(job)
    if end == "long":
        pump_until(lambda: job.state.step > 0)
        assert job.why_not_import and job.why_not_continue and job.why_not_repeat
        bpy.ops.recdreamer.pause()
    assert settle().condition == {"die": "failed", "long": "paused"}[end]
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert bpy.ops.recdreamer.continue_job(job_id=job.id) == {"FINISHED"}
    assert job.stages_to_repeat == ("geometry", "texture") and not job.why_not_resume
    (job.folder.result / "report.json").unlink()
    assert job.why_not_import == job.why_not_continue == "This job has no result yet."


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("busy", "Another worker is on this job already. Wait for it."),
        (
            "refuse",
            "The backend did not start: ModuleNotFoundError: No module named 'torch'. Check the Python",
        ),
    ],
)
def test_a_redo_that_does_not_start_leaves_the_job_done(settings, generate, settle, trouble, sentence):
    job, _ = generate(again=trouble)
    repeat(job)
    settle()
    assert f"{job.state.message} {job.state.hint}".startswith(sentence)
    assert job.condition == job.folder.read_state().status == "done"


def test_a_redo_without_an_interpreter_changes_nothing(settings, generate, preferences, tmp_path):
    job, _ = generate()
    before = job.folder.read_state()
    broken = tmp_path / "broken"
    broken.write_bytes(b"no program")
    broken.chmod(0o755)
    preferences.backend_python = str(broken)
    with pytest.raises(RuntimeError, match="The backend cannot be started"):
        repeat(job)
    assert job.folder.read_state() == before and job.condition == "done"


def test_a_redo_needs_confirmation(fake_backend, addon):
    cls, asked = addon("operators.jobs").RECDREAMER_OT_repeat_stage, {}
    manager = SimpleNamespace(invoke_confirm=lambda operator, event, **texts: asked.update(texts))
    cls.invoke(SimpleNamespace(stage="texture"), SimpleNamespace(window_manager=manager), None)
    assert asked["title"] == asked["confirm_text"] == "Redo Texture"
    for text in (asked["message"], cls.description(bpy.context, SimpleNamespace(stage="geometry"))):
        assert "The current result is replaced when the new one is finished" in text
