"""Blender closes while a job runs: at once, and the job does what was chosen for it, where it could be seen."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

import addon_utils
import bpy
import pytest

from .conftest import MODULE
from .objects import reported


@pytest.fixture
def running(settings, addon, pump_until):
    def running(**overrides):
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        job = addon("session").session.shown
        pump_until(lambda: overrides.get("fake") or job.state.step > 1)
        return job

    return running


def close_blender() -> float:
    """What Blender does with its add-ons when it closes; returns how long it takes, in seconds."""
    began = time.monotonic()
    addon_utils.disable(MODULE, default_set=False)
    return time.monotonic() - began


def wait_for(job, *statuses):
    deadline = time.monotonic() + 60
    while job.folder.read_state().status not in statuses:
        assert time.monotonic() < deadline, job.folder.read_state()
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def test_the_choice_is_seen_and_can_be_changed(running, draw, settings):
    job = running(steps=3000)
    assert "recdreamer.keep_running" in draw().operators and not job.client.keeps_running
    assert bpy.ops.recdreamer.keep_running(job_id=job.id) == {"FINISHED"}
    assert job.client.keeps_running
    assert bpy.ops.recdreamer.keep_running(job_id=job.id, keep=False) == {"FINISHED"}
    assert not job.client.keeps_running
    bpy.ops.recdreamer.pause(job_id=job.id)
    assert "recdreamer.keep_running" not in draw().operators, "it is stopping"


def test_a_job_that_does_not_run_has_no_choice(generate):
    job, _ = generate()
    assert "not run by this Blender" in reported(bpy.ops.recdreamer.keep_running, job_id=job.id)


def test_by_default_a_job_is_saved(running):
    job = running(steps=3000)
    assert close_blender() < 5
    wait_for(job, "paused")


def test_a_job_that_is_to_continue_does(running):
    job = running(steps=100, step_s=0.02)
    bpy.ops.recdreamer.keep_running(job_id=job.id)
    assert close_blender() < 5
    wait_for(job, "done")


def test_a_worker_that_loads_its_models_does_not_hold_blender(running):
    """It cannot be asked then: it saves and exits by itself, and Blender does not wait."""
    job = running(fake="mute")
    pid = job.client._process.pid
    try:
        assert close_blender() < 5, "10 s were the limit before"
        assert is_alive(pid), "nothing was killed"
    finally:
        os.kill(pid, signal.SIGKILL)
