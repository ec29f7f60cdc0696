"""Stages of a job run once more, and what is left when that comes to nothing."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import pytest


def repeat(job):
    assert bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="texture") == {"FINISHED"}


def test_texture_once_more_renews_the_object(imported, settle):
    obj, job = imported
    mesh = obj.data
    assert bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="texture") == {"FINISHED"}
    again = settle()
    assert again.id == job.id and again.condition == "done"
    assert again.request.seed != 7 and again.request == again.folder.read_request()
    assert (again.folder.root / "again.txt").read_text() == "texture"
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert bpy.context.object == obj and obj.data == mesh and obj["recdreamer_seed"] == again.request.seed


def test_what_did_not_run_is_not_repeated(fake_backend, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.start.run_geometry = "a bear", False
    bpy.ops.recdreamer.generate()
    job = settle()
    assert job.stages_to_repeat == ("texture",)
    with pytest.raises(RuntimeError, match="This job has no stage geometry"):
        bpy.ops.recdreamer.repeat_stage(job_id=job.id, stage="geometry")


@pytest.mark.parametrize("trouble", ["fail", "cancel"])
def test_the_earlier_result_outlives_a_repeat_that_fails(
    settings, generate, settle, addon, pump_until, trouble
):
    job, _ = generate(again=trouble)
    repeat(job)
    if trouble == "cancel":
        assert job.why_not_import and job.why_not_continue and job.why_not_repeat
        pump_until(lambda: job.state.step > 0)
        bpy.ops.recdreamer.cancel()
    assert settle().condition == {"fail": "failed", "cancel": "cancelled"}[trouble]
    assert bpy.ops.recdreamer.import_result(job_id=job.id) == {"FINISHED"}
    assert bpy.ops.recdreamer.continue_job(job_id=job.id) == {"FINISHED"}
    assert job.stages_to_repeat == ("geometry", "texture")
    (job.folder.result / "report.json").unlink()
    assert job.why_not_import == job.why_not_continue == "This job has no result yet."


@pytest.mark.parametrize("trouble", ["refuse", "interpreter"])
def test_a_repeat_that_cannot_begin_leaves_the_job_done(
    settings, generate, settle, preferences, trouble, tmp_path
):
    job, _ = generate(again=trouble)
    before = job.folder.read_state()
    if trouble == "refuse":
        repeat(job)
        assert settle().state.message == "The stage texture is not part of this job. Repeat another."
        assert job.state.hint == ""
    else:
        broken = tmp_path / "broken"
        broken.write_bytes(b"no program")
        broken.chmod(0o755)
        preferences.backend_python = str(broken)
        with pytest.raises(RuntimeError, match="The backend cannot be started"):
            repeat(job)
        assert job.folder.read_state() == before
    assert job.condition == "done" and job.folder.read_state().status == "done"


def test_it_is_asked_for_before_a_result_is_replaced(fake_backend, addon):
    cls, asked = addon("operators").RECDREAMER_OT_repeat_stage, {}
    manager = SimpleNamespace(invoke_confirm=lambda operator, event, **texts: asked.update(texts))
    cls.invoke(SimpleNamespace(stage="texture"), SimpleNamespace(window_manager=manager), None)
    assert asked["title"] == asked["confirm_text"] == "Texture Again"
    for text in (asked["message"], cls.description(bpy.context, SimpleNamespace(stage="geometry"))):
        assert "The earlier result is replaced once the new one is there" in text
