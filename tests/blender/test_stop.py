"""Stop asks what becomes of the job: keep it for later, import what is there, delete it; also one of another Blender."""

from __future__ import annotations

import json

import bpy
import pytest


@pytest.fixture
def session(addon):
    return addon("session").session


@pytest.fixture
def running(settings, pump_until, session):
    """A job with thousands of steps left."""

    def running(**overrides):
        overrides = {"steps": 3000, "step_s": 0.02} | overrides
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        job = session.shown
        pump_until(lambda: job.state.step > 2)
        return job

    return running


@pytest.fixture
def elsewhere(running, pump_until, session, settings):
    """The same, after Blender was closed and started again: its worker goes on."""

    def elsewhere():
        settings.keep_running = True
        job_id = running(fake="stubborn").id
        session.stop()
        pump_until(lambda: session.registry.find(job_id).condition == "running elsewhere")
        return session.registry.find(job_id)

    return elsewhere


def test_stop_asks(running, session, addon):
    """With a click it shows the three choices; a script that says nothing keeps the job."""
    stop = addon("operators.stop")
    assert [choice[0] for choice in stop.CHOICES] == ["KEEP", "IMPORT", "DELETE"]
    running()
    shown = []

    class Asking:
        bl_idname, job_id = stop.RECDREAMER_OT_cancel.bl_idname, ""
        properties = type("Properties", (), {"is_property_set": lambda self, name: False})()

    context = type("Context", (), {})()
    context.window_manager = type(
        "Manager", (), {"popup_menu": lambda self, draw, title: shown.append(draw)}
    )()
    assert stop.RECDREAMER_OT_cancel.invoke(Asking(), context, None) == {"FINISHED"}
    from .recorder import RecorderLayout

    layout = RecorderLayout()
    shown[0](type("Menu", (), {"layout": layout})(), context)
    assert layout.record.texts == ["Keep for Later", "Import What Is There", "Delete"]
    assert session.registry.running is not None  # Nothing has happened yet.


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_keep_for_later(running, elsewhere, where, pump_until):
    job = running() if where == "here" else elsewhere()
    assert bpy.ops.recdreamer.cancel(job_id=job.id) == {"FINISHED"}
    pump_until(lambda: job.condition == "cancelled")
    assert not job.why_not_resume and job.folder.root.is_dir()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_delete(running, elsewhere, where, pump_until, session):
    job = running() if where == "here" else elsewhere()
    assert bpy.ops.recdreamer.cancel(job_id=job.id, then="DELETE") == {"FINISHED"}
    assert job.folder.root.is_dir()  # Not before its worker has ended.
    pump_until(lambda: session.registry.find(job.id) is None)
    assert not job.folder.root.exists()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_import_what_is_there(running, elsewhere, where, pump_until, session):
    """The job makes its mesh of the steps that were done, and the object is in the scene."""
    job = running() if where == "here" else elsewhere()
    assert bpy.ops.recdreamer.cancel(job_id=job.id, then="IMPORT") == {"FINISHED"}
    pump_until(lambda: not session.after_stop)
    job = session.registry.find(job.id)
    assert job.condition == "done" and [obj.name for obj in bpy.data.objects] == ["a red bear"]
    assert job.request.stages == ("shape",)
    assert 2 < job.request.overrides["optimize.num_steps"] < 3000
    whole = json.loads((job.folder.root / "job-whole.json").read_text())
    assert "optimize.num_steps" not in whole["overrides"] and len(whole["stages"]) == 3
    assert not session.queue_problem


def test_nothing_to_import_yet(settings, session, addon):
    bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": "mute"}))
    with pytest.raises(RuntimeError, match="There is nothing to import yet"):
        bpy.ops.recdreamer.cancel(then="IMPORT")
    assert session.registry.running is not None and session.after_stop == {}
    session.registry.shut_down(timeout_s=0)


def test_not_in_edit_mode(running, pump_until, session, block_out):
    """The result waits for the button instead of changing what is edited."""
    bpy.context.view_layer.objects.active = block_out[0]
    job = running()
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.recdreamer.cancel(then="IMPORT")
    pump_until(lambda: not session.after_stop)
    assert job.condition == "done" and "a red bear" not in bpy.data.objects
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}
