"""Several jobs one after another, drafts with different seeds, and a pause while Blender renders."""

from __future__ import annotations

import json
from types import SimpleNamespace

import bpy
import pytest

from .objects import reported


@pytest.fixture
def press(settings, addon):
    """Press Generate; returns the job, which may wait."""
    session = addon("session").session

    def press(**overrides):
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        return session.shown

    return press


def test_generate_waits_and_the_next_starts_by_itself(press, addon, pump_until, draw):
    session = addon("session").session
    first, second, third = press(steps=3000), press(), press()
    assert [job.condition for job in (first, second, third)] == ["starting", "waiting", "waiting"]
    texts = draw().texts
    assert "Hold Queue" in texts and "a red bear · waiting for its turn" in texts and "Show Job" in texts
    assert "It starts after “a red bear”." in texts
    bpy.ops.recdreamer.move_in_queue(job_id=third.id, by=-1)
    pump_until(lambda: first.state.step > 1)
    assert second.condition == "waiting"
    bpy.ops.recdreamer.cancel(job_id=first.id)
    pump_until(lambda: second.condition == "done" and session.registry.running is None)
    assert third.condition == "done" and third.state.updated_s < second.state.updated_s


def test_a_waiting_job_says_what_it_waits_for(press, settings, addon, pump_until, settle, monkeypatch):
    session, why = addon("session").session, addon("panels.job_progress").why_waiting
    press(steps=3000)
    settings.prompt = "a blue bird"
    second = press()
    settings.prompt = "a yellow robot"
    third = press()
    assert (why(second), why(third)) == ("It starts after “a red bear”.", "It starts after “a blue bird”.")
    bpy.ops.recdreamer.hold_queue()
    assert why(second) == "The queue is held."
    bpy.ops.recdreamer.hold_queue(hold=False)
    session.paused_for_render = []
    assert why(second) == "It starts after the render."
    session.paused_for_render = None
    monkeypatch.setattr(addon("panels.job_progress"), "one_before", lambda registry, job: None)
    assert why(second) == "Another Blender uses its device."
    task = SimpleNamespace(
        is_running=True, title="Checking the templates", cancel=lambda: None, join=lambda: None
    )
    session.errand = SimpleNamespace(task=task, is_quiet=False)
    assert why(second) == "It starts when this is done: Checking the templates."
    session.errand = None


def test_a_held_queue_starts_nothing_until_it_goes_on(press, addon, pump_until, settle):
    bpy.ops.recdreamer.hold_queue()
    job = press()
    for _ in range(5):
        addon("session").pump()
    assert job.condition == "waiting"
    bpy.ops.recdreamer.hold_queue(hold=False)
    assert job.condition == "starting" and settle() is job and job.condition == "done"


def test_a_job_that_leaves_the_queue_can_be_resumed(press, addon, settle, draw):
    bpy.ops.recdreamer.hold_queue()
    job = press()
    bpy.ops.recdreamer.leave_queue(job_id=job.id)
    assert job.condition == "queued" and bpy.ops.recdreamer.leave_queue.poll()
    assert "a red bear · not started" in draw().texts
    assert "does not wait" in reported(bpy.ops.recdreamer.leave_queue, job_id=job.id)
    bpy.ops.recdreamer.hold_queue(hold=False)
    assert bpy.ops.recdreamer.resume(job_id=job.id) == {"FINISHED"}
    assert settle().condition == "done"


def test_a_backend_that_is_gone_holds_the_queue_and_says_why(press, addon, pump_until, fake_backend, draw):
    session = addon("session").session
    first, second = press(steps=3000), press()
    fake_backend.unlink()
    bpy.ops.recdreamer.cancel(job_id=first.id)
    pump_until(lambda: session.registry.queue.is_held)
    assert second.condition == "waiting" and session.queue_problem
    assert "Start Waiting Jobs" in draw().texts


def test_a_check_is_done_before_the_next_job(press, addon, pump_until, settings, block_out, settle):
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    session = addon("session").session
    first = press(steps=3000)
    pump_until(lambda: first.state.step > 1)
    assert bpy.ops.recdreamer.check_templates() == {"FINISHED"}
    second = press()
    for _ in range(20):
        addon("session").pump()
    assert session.errand.task.is_running, "it waits for the device"
    bpy.ops.recdreamer.cancel(job_id=first.id)
    pump_until(lambda: first.client is None and not session.errand.task.is_running)
    assert session.check is not None and not session.errand.task.problem
    pump_until(lambda: second.condition == "done")


def test_vary_makes_quick_drafts_and_one_goes_on_at_full_quality(settings, addon, pump_until, settle, draw):
    settings.quality, settings.seed = "standard", 5
    assert bpy.ops.recdreamer.vary() == {"FINISHED"}
    session = addon("session").session
    jobs = addon("operators.queue").siblings(session.shown)
    assert len(jobs) == 4 and session.shown is jobs[0]
    assert [job.request.quality for job in jobs] == ["quick"] * 4
    assert jobs[0].request.seed == 5 and len({job.request.seed for job in jobs}) == 4
    pump_until(lambda: all(job.condition == "done" for job in jobs))
    seen = draw()
    assert seen.operators.count("recdreamer.refine") == 4
    assert all(str(job.request.seed) in seen.texts for job in jobs)
    assert bpy.ops.recdreamer.refine(job_id=jobs[2].id, strength=0.25) == {"FINISHED"}
    final = settle()
    assert final.condition == "done" and final.request.quality == "standard"
    assert (final.request.start, final.request.strength) == ("continue", 0.25)
    assert final.request.start_job == str(jobs[2].folder.root)
    assert final.request.seed == jobs[2].request.seed
    assert addon("jobs.origin").origin_of(final.folder, final.request).of == jobs[2].id


def test_choosing_a_draft_takes_those_that_wait_out_of_the_queue(settings, addon, pump_until):
    assert bpy.ops.recdreamer.vary(count=3) == {"FINISHED"}
    session = addon("session").session
    first, *others = addon("operators.queue").siblings(session.shown)
    bpy.ops.recdreamer.hold_queue()
    pump_until(lambda: first.condition == "done")
    assert [job.condition for job in others] == ["waiting"] * 2
    bpy.ops.recdreamer.refine(job_id=first.id)
    assert [job.condition for job in others] == ["queued"] * 2 and session.shown.is_waiting


def test_jobs_pause_while_blender_renders(press, addon, pump_until, preferences):
    queue = addon("operators.queue")
    assert queue.before_render in bpy.app.handlers.render_init
    job = press(steps=3000)
    pump_until(lambda: job.state.step > 1)
    queue.before_render(bpy.context.scene)
    assert not job.client.stopping, "it is off by default"
    preferences.pause_while_rendering = True
    queue.before_render(bpy.data.scenes.new("ours"))
    assert not job.client.stopping, "templates are rendered in a scene that no window shows"
    queue.before_render(bpy.context.scene)
    pump_until(lambda: job.condition == "paused")
    waiting = press()
    for _ in range(5):
        addon("session").pump()
    assert waiting.condition == "waiting", "the render has the device"
    queue.after_render(bpy.context.scene)
    pump_until(lambda: job.condition == "running")
    assert waiting.condition == "waiting", "what was interrupted comes first"
    bpy.ops.recdreamer.cancel(job_id=job.id)
    pump_until(lambda: waiting.condition == "done")


def test_the_handlers_go_with_the_extension(addon):
    queue = addon("operators.queue")
    queue.unregister()
    assert queue.before_render not in bpy.app.handlers.render_init
    queue.register()
    assert bpy.app.handlers.render_init.count(queue.before_render) == 1
