"""What one poll of Blender's timer may cost: counts, because times depend on the machine; the benchmark has those."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import client as client_module
from recdreamer_extension.addon.jobs import registry as registry_module
from recdreamer_extension.addon.jobs.child_process import MAX_READ
from recdreamer_extension.addon.jobs.registry import (
    LOOKS_PER_POLL,
    OPENED_AT_ONCE,
    OPENED_PER_POLL,
    JobRegistry,
)
from recdreamer_extension.addon.jobs.task import BACKEND
from recdreamer_extension.backend.recdreamer.shared.protocol import PROTOCOL_VERSION, JobFolder, JobRequest

NUM_JOBS = 300


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A data folder with many finished jobs."""
    text = JobRequest(prompt="a red bear").to_json()
    for index in range(NUM_JOBS):
        folder = tmp_path / "jobs" / f"20260101-{index:06d}-a-red-bear"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(text)
        (folder / "state.json").write_text(json.dumps({"status": "paused", "step": index, "total": NUM_JOBS}))
    return tmp_path


@pytest.fixture
def counted(monkeypatch) -> dict[str, int]:
    """How often folders are listed, opened and looked at."""
    counts = {"listed": 0, "opened": 0, "looked": 0}

    def count(owner, name: str, key: str) -> None:
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            counts[key] += key != "listed" or Path(args[0]).name == "jobs"
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(registry_module.os, "scandir", "listed")
    count(JobRegistry, "_open", "opened")
    count(JobRegistry, "_read_state", "looked")
    return counts


def settled(root: Path) -> JobRegistry:
    """A registry that has opened all folders, which have been as they are for a while."""
    os.utime(root / "jobs", (time.time() - 60, time.time() - 60))
    registry = JobRegistry(root)
    while registry.is_behind:
        registry.poll()
    return registry


def test_folders_are_opened_a_few_at_a_time_newest_first(many, counted):
    registry = JobRegistry(many)
    assert counted["opened"] == OPENED_AT_ONCE == len(registry.jobs)
    assert registry.jobs[0].id.startswith("20260101-000299") and registry.is_behind
    assert registry.poll()
    assert counted["opened"] == OPENED_AT_ONCE + OPENED_PER_POLL
    assert counted["looked"] == counted["opened"]  # The idle ones wait until all are open.
    assert registry.find("20260101-000000-a-red-bear").state.step == 0  # On demand, out of turn.
    while registry.is_behind:
        registry.poll()
    assert len(registry.jobs) == NUM_JOBS == counted["opened"]
    assert [job.id for job in registry.jobs] == sorted((job.id for job in registry.jobs), reverse=True)


def test_a_poll_looks_at_a_few_of_the_idle_jobs(many, counted):
    registry = settled(many)
    counted.update(listed=0, opened=0, looked=0)
    assert not registry.poll()
    assert counted == {"listed": 0, "opened": 0, "looked": LOOKS_PER_POLL}


def test_what_others_do_to_an_idle_job_is_seen_after_one_round(many):
    registry = settled(many)
    folder = JobFolder(many / "jobs/20260101-000007-a-red-bear")
    folder.state.with_suffix(".new").write_text(json.dumps({"status": "failed", "message": "No."}))
    folder.state.with_suffix(".new").replace(folder.state)
    seen = [registry.poll() for _ in range(NUM_JOBS // LOOKS_PER_POLL + 1)]
    assert any(seen) and registry.find(folder.root.name).condition == "failed"


def test_new_and_removed_folders_are_seen_at_once(many):
    registry = settled(many)
    new = many / "jobs/20270101-000000-new"
    new.mkdir()
    (new / "job.json").write_text(JobRequest(prompt="a blue bird").to_json())
    assert registry.poll() and registry.jobs[0].id == new.name
    (new / "job.json").unlink()
    new.rmdir()
    assert registry.poll() and registry.jobs[0].id != new.name


def test_a_changed_folder_is_read_in_parts(many, monkeypatch):
    """What is made or deleted meanwhile is right when all is read, and what is known is never dropped."""
    registry = settled(many)
    monkeypatch.setattr(registry_module, "NAMES_PER_POLL", 50)
    before, new = {job.id for job in registry.jobs}, many / "jobs/20270101-000000-new"
    new.mkdir()
    (new / "job.json").write_text(JobRequest(prompt="a blue bird").to_json())
    registry.poll()
    assert registry.is_behind and registry._reading is not None and len(registry._reading[1]) == 50
    ours = registry.create(JobRequest(prompt="a green fox"), [])
    shutil.rmtree(many / "jobs/20260101-000005-a-red-bear")
    polls = 1
    while registry.is_behind:
        registry.poll()
        polls += 1
        assert ours in registry.jobs
    assert NUM_JOBS // 50 <= polls <= 2 * NUM_JOBS // 50 + 4
    os.utime(many / "jobs", (time.time() - 30, time.time() - 30))
    registry.refresh()
    gone = "20260101-000005-a-red-bear"
    assert {job.id for job in registry.jobs} == (before - {gone}) | {new.name, ours.id}
    assert not [job for job in registry.jobs if job.problem]
    assert [job.id for job in registry.jobs] == sorted((job.id for job in registry.jobs), reverse=True)


def test_a_full_look_finds_what_was_made_while_it_was_read_in_parts(many, monkeypatch):
    registry = settled(many)
    monkeypatch.setattr(registry_module, "NAMES_PER_POLL", 50)
    (many / "jobs/20270101-000000-a").mkdir()
    registry.poll()
    new = many / "jobs/20270101-000001-b"
    new.mkdir()
    (new / "job.json").write_text(JobRequest(prompt="a blue bird").to_json())
    registry.refresh()
    assert registry.find(new.name) is not None


def test_a_folder_that_is_gone_before_it_is_opened_is_no_damaged_job(many):
    registry = JobRegistry(many)
    shutil.rmtree(many / "jobs/20260101-000000-a-red-bear")
    while registry._unopened:
        registry.poll()
    assert len(registry.jobs) == NUM_JOBS - 1 and not [job for job in registry.jobs if job.problem]


def test_a_poll_takes_no_more_than_one_event_of_each_type(tmp_path, fake_command, monkeypatch):
    registry = JobRegistry(tmp_path)
    applied = []
    original = client_module.apply_event
    monkeypatch.setattr(
        client_module, "apply_event", lambda state, event: applied.append(event) or original(state, event)
    )
    job = registry.create(JobRequest(prompt="a red bear", overrides={"steps": 3, "chatter": 20_000}), [])
    registry.start(job, fake_command, BACKEND)
    worker = job.client
    worker._process.wait()
    assert registry.poll()
    assert len(applied) <= len(client_module.EVENTS)
    assert [event["step"] for event in applied if event["type"] == "progress"] == [3]
    assert job.condition == "done"  # In the first poll after the end, whatever was said before.


def test_a_worker_that_nobody_has_looked_at_for_hours_is_not_taken_for_silent(tmp_path):
    """A script renders an animation between Generate and the next poll; its events come five times a second."""
    event = json.dumps({"type": "progress", "step": 7, "total": 9, "it_per_s": 5.0, "eta_s": 100.0})
    script = tmp_path / "worker.py"
    script.write_text(
        f"""
import time
print({json.dumps({"type": "hello", "protocol": PROTOCOL_VERSION})!r})
for _ in range({MAX_READ // len(event) + 1}):
    print({event!r})
print("x", flush=True)
time.sleep(600)
"""
    )
    registry = JobRegistry(tmp_path / "data")
    job = registry.create(JobRequest(prompt="a red bear"), [])
    registry.start(job, [sys.executable, str(script)], BACKEND)
    worker = job.client
    give_up_s = time.monotonic() + 60
    while os.fstat(worker._process._output.fileno()).st_size <= MAX_READ:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    worker._deadline = time.monotonic()
    assert registry.poll() and registry.poll()
    assert job.condition == "running" and job.state.step == 7 and not job.state.message
    registry.shut_down(kill=True)
