"""Who works on a job: its lock or a fresh heart-beat of another computer says so, never a number in a file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.backend.recdreamer.shared.folder_lock import STOP, FolderLock
from recdreamer_extension.backend.recdreamer.shared.protocol import STALE_S, JobRequest, RequestError


@pytest.fixture
def registry(tmp_path):
    return JobRegistry(tmp_path / "data")


@pytest.fixture
def job(registry):
    return registry.create(JobRequest(prompt="a red bear"), [])


@pytest.fixture
def say(registry, job):
    """Let state.json of the job say something."""

    def say(**state):
        state = {"status": "running", "updated_s": time.time(), "host": socket.gethostname(), **state}
        temporary = job.folder.root / "state.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(job.folder.state)
        registry.poll()
        return job

    return say


@pytest.fixture
def bystander():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"the end\n")
    assert process.returncode == 0, "somebody has ended it"


@pytest.fixture(autouse=True)
def no_signals(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a signal to {args}")

    monkeypatch.setattr(os, "kill", refuse)


@pytest.mark.parametrize("pid", [None, -1, 0, 1, 10**30])
def test_a_number_in_a_file_is_nobody(registry, say, pid):
    job = say(pid=pid)
    assert job.condition == "interrupted" and job.why_not_stop and not job.why_not_resume
    registry.ask_to_stop(job, "pause")
    registry.delete(job)
    assert not job.folder.root.exists()


def test_nor_is_that_of_another_process(registry, say, bystander):
    job = say(pid=bystander.pid)
    assert job.condition == "interrupted"
    registry.ask_to_stop(job, "cancel")


@pytest.mark.parametrize("ahead_s", [60, 3 * 3600, 4.1e9])
@pytest.mark.parametrize("host", ["", "render-7"])
def test_a_time_in_the_future_does_not_count_as_a_heart_beat(registry, say, ahead_s, host):
    job = say(pid=-1, host=host, updated_s=time.time() + ahead_s)
    assert job.condition == "interrupted" and not job.why_not_resume
    registry.delete(job)


def test_another_computer_is_named_and_asked_through_the_folder(registry, say):
    job = say(pid=1, host="render-7")
    assert (job.condition, job.running_on) == ("running elsewhere", "render-7")
    assert job.why_not_resume and not job.why_not_stop
    with pytest.raises(RequestError, match="This job is running"):
        registry.delete(job)
    registry.ask_to_stop(job, "pause")
    assert (job.folder.root / STOP).read_text() == "pause"
    job = say(host="render-7", updated_s=time.time() - STALE_S - 1)
    assert (job.condition, job.running_on) == ("interrupted", "")
    registry.delete(job)


def test_a_heart_beat_that_stops_is_noticed_without_another_one(registry, say, monkeypatch):
    job = say(host="render-7")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + STALE_S + 1)
    assert registry.poll() and job.condition == "interrupted"


@pytest.mark.parametrize("status", ["running", "queued"])
def test_the_lock_tells_of_a_worker(registry, say, job, status):
    say(status=status, updated_s=0)
    lock = FolderLock(job.folder.root)
    registry.poll()
    assert job.condition == "running elsewhere" and job.running_on == socket.gethostname()
    with pytest.raises(RequestError, match="Stop it first"):
        registry.delete(job)
    lock.release()
    assert registry.poll()
    assert not job.why_not_resume


def test_a_damaged_job_with_a_worker_is_not_deleted(registry, job):
    job.folder.request.write_text("{")
    found = JobRegistry(registry.data_folder).jobs[0]
    lock = FolderLock(job.folder.root)
    with pytest.raises(RequestError, match="Stop it first"):
        registry.delete(found)
    lock.release()


def test_a_folder_that_cannot_be_written_is_said(registry, say, monkeypatch):
    job = say(host="render-7")
    (job.folder.root / STOP).mkdir()
    with pytest.raises(RequestError, match="cannot be asked to stop"):
        registry.ask_to_stop(job, "pause")
