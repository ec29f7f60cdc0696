"""Job folders and their workers, against a fake worker that speaks the protocol."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from recdreamer_extension.addon import describe
from recdreamer_extension.addon.jobs import client
from recdreamer_extension.addon.jobs import registry as module
from recdreamer_extension.addon.jobs.child_process import worker_environment
from recdreamer_extension.addon.jobs.placement import PLACEMENT, StartPlacement
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.addon.jobs.task import BACKEND
from recdreamer_extension.backend.recdreamer.shared.protocol import (
    STALE_S,
    START_MESH,
    JobFolder,
    JobRequest,
    JobState,
    RequestError,
    Template,
    write_atomically,
)


@pytest.fixture
def registry(tmp_path):
    registry = JobRegistry(tmp_path / "Ünï codé dir")
    yield registry
    registry.shut_down(timeout_s=0)


@pytest.fixture
def start(registry, fake_command):
    def start(**overrides):
        job = registry.create(JobRequest(prompt="a red bear", overrides=overrides), [])
        registry.start(job, fake_command, BACKEND)
        return job

    return start


@pytest.fixture
def settle(registry, wait_until):
    def settle(job):
        wait_until(lambda: registry.poll() and job.client is None)

    return settle


def is_alive(pid: int) -> bool:
    """False for a zombie process, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_runs_to_its_result(registry, start, settle, wait_until):
    job = start(steps=20, step_s=0.02)
    assert registry.running is job
    assert job.condition == "starting"
    assert job.why_not_resume and job.why_not_import and not job.why_not_stop
    wait_until(lambda: registry.poll() and job.state.step > 3)
    assert job.condition == "running"
    assert job.state.total == 20
    assert job.state.pose_distribution["front"] == 0.4
    assert job.preview is not None and job.preview.is_file()
    settle(job)
    assert job.condition == "done"
    assert registry.running is None
    assert not job.why_not_import and job.why_not_resume and job.why_not_stop


def test_another_blender_reads_the_job_from_its_folder(registry, start, settle):
    job = start()
    settle(job)
    other = JobRegistry(registry.data_folder)
    assert [(found.id, found.condition) for found in other.jobs] == [(job.id, "done")]
    assert other.jobs[0].request == job.request
    assert other.jobs[0].state == job.state


def test_pause_and_resume(registry, start, settle, wait_until, fake_command):
    job = start(steps=300, step_s=0.01)
    wait_until(lambda: registry.poll() and job.state.step > 1)
    registry.ask_to_stop(job, "pause")
    assert job.condition == "pausing" and job.why_not_stop
    settle(job)
    assert job.condition == "paused"
    before = job.state
    registry.start(job, fake_command, BACKEND)
    assert job.condition == "starting" and job.state.preview == before.preview, "the picture stays visible"
    assert before.total > 0 and describe.status_line(job.state, 3.0) == "Starting the backend  3 s"
    assert not describe.speed(job.state), "nothing runs yet"
    registry.ask_to_stop(job, "cancel")
    settle(job)
    assert job.condition == "cancelled"


def test_a_worker_that_ignores_a_stop_is_killed(registry, start, settle, wait_until, monkeypatch):
    monkeypatch.setattr(client, "STOP_GRACE_S", 0.2)
    job = start(fake="stubborn", steps=3000)
    wait_until(lambda: registry.poll() and job.state.step > 0)
    pid = job.client._process.pid
    registry.ask_to_stop(job, "cancel")
    settle(job)
    assert job.condition == "cancelled"
    assert not is_alive(pid)
    assert job.folder.read_state().status == "cancelled", "the folder has the final state"


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (
            "refuse",
            "did not start: ModuleNotFoundError: No module named 'torch'. Check the Python interpreter",
        ),
        ("die", "ended unexpectedly (code 7: Segmentation fault). Press Resume"),
        ("other protocol", "uses protocol 99, but this add-on needs 1. Install the add-on and the backend"),
        (
            "fail",
            "There is not enough memory for this job. Close other programs, or use the quick quality or fewer views "
            "per step.",
        ),
    ],
)
def test_trouble_is_one_sentence_and_what_to_do(start, settle, mode, sentence):
    job = start(fake=mode)
    settle(job)
    assert job.condition == "failed"
    assert sentence in f"{job.state.message} {job.state.hint}"
    assert job.folder.read_state().message == job.state.message
    assert not job.why_not_resume


def test_a_worker_that_never_says_hello(start, settle, monkeypatch):
    monkeypatch.setattr(client, "HELLO_TIMEOUT_S", 0.3)
    job = start(fake="mute")
    settle(job)
    assert job.condition == "failed"
    assert "did not answer within" in job.state.message


@pytest.mark.parametrize("is_at_work", [True, False])
def test_killed_worker(registry, start, settle, wait_until, is_at_work):
    """Loading the libraries may need more memory than there is, too."""
    job = start(steps=3000) if is_at_work else start(fake="mute")
    if is_at_work:
        wait_until(lambda: registry.poll() and job.state.step > 0)
    os.kill(job.client._process.pid, 9)
    settle(job)
    assert job.condition == "failed"
    assert "memory" in job.state.message
    assert not job.why_not_resume


def test_a_wrong_interpreter(registry):
    job = registry.create(JobRequest(prompt="a red bear"), [])
    with pytest.raises(RequestError, match="cannot be started"):
        registry.start(job, [str(registry.data_folder / "no such python")], BACKEND)
    assert registry.running is None
    assert job.condition == "queued"


def test_a_program_that_is_not_python(registry, settle):
    job = registry.create(JobRequest(prompt="a red bear"), [])
    registry.start(job, ["true"], BACKEND)
    settle(job)
    assert job.condition == "failed"
    assert "did not start: it exited with code 0" in job.state.message


def test_switching_off_leaves_no_process(registry, start, wait_until):
    job = start(steps=3000)
    wait_until(lambda: registry.poll() and job.state.step > 0)
    pid = job.client._process.pid
    registry.shut_down(timeout_s=5)
    assert not is_alive(pid)
    assert job.folder.read_state().status == "paused"
    assert job.condition == "paused"


def test_closing_blender_does_not_wait_for_a_worker_that_is_slow(registry, start, wait_until):
    """It is left to save and exit by itself."""
    job = start(fake="mute")
    pid, began = job.client._process.pid, time.monotonic()
    registry.shut_down(kill=False)
    assert time.monotonic() - began < 3 and is_alive(pid) and job.client is None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_a_worker_that_cannot_be_killed_does_not_hold_blender_up(registry, start, monkeypatch):
    """It hangs in a driver."""
    job = start(fake="mute")
    pid, worker = job.client._process.pid, job.client
    with monkeypatch.context() as patch:
        patch.setattr(worker._process, "kill", lambda: None)
        registry.shut_down(timeout_s=0)
    assert is_alive(pid) and worker.is_settled and job.condition == "paused"
    worker._process.kill()


@pytest.mark.parametrize("choice", ["stay", "leave"])
def test_what_a_job_does_at_the_end_can_be_chosen_while_it_runs(registry, fake_command, wait_until, choice):
    request = JobRequest(
        prompt="a red bear", keep_running=choice == "leave", overrides={"steps": 60, "step_s": 0.02}
    )
    job = registry.create(request, [])
    registry.start(job, fake_command, BACKEND)
    wait_until(lambda: registry.poll() and job.state.step > 0)
    assert job.client.keeps_running == (choice == "leave")
    job.client.keep_running(choice == "stay")
    pid = job.client._process.pid
    registry.shut_down(kill=False)
    wait_until(lambda: not is_alive(pid))
    assert job.folder.read_state().status == ("done" if choice == "stay" else "paused")


def test_a_job_can_continue_without_blender(registry, fake_command, wait_until):
    request = JobRequest(prompt="a red bear", keep_running=True, overrides={"fake": "stubborn", "steps": 100})
    job = registry.create(request, [])
    registry.start(job, fake_command, BACKEND)
    wait_until(lambda: registry.poll() and job.state.step > 0)
    pid = job.client._process.pid
    registry.shut_down(timeout_s=0)
    assert is_alive(pid)
    registry.refresh()
    assert job.condition == "running elsewhere"
    assert job.why_not_resume and not job.why_not_stop
    registry.ask_to_stop(job, "cancel")
    wait_until(lambda: not is_alive(pid))


def test_a_lost_worker_is_noticed_by_its_age(registry):
    job = registry.create(JobRequest(prompt="a red bear"), [])
    lost = JobState(status="running", updated_s=time.time() - STALE_S - 1)
    write_atomically(job.folder.state, json.dumps(asdict(lost)))
    assert registry.poll()
    assert job.condition == "interrupted"
    assert not job.why_not_resume
    assert not registry.poll(), "nothing new"


def test_templates_are_copied_into_the_job(registry, tmp_path):
    pictures = [tmp_path / "a b.PNG", tmp_path / "ü.png"]
    for picture in pictures:
        picture.write_bytes(picture.name.encode())
    templates = tuple(Template(label=label, image="elsewhere") for label in ("front", "back"))
    job = registry.create(JobRequest(prompt="a red bear", templates=templates), pictures)
    stored = job.folder.read_request().templates
    assert [template.label for template in stored] == ["front", "back"]
    for template, picture in zip(stored, pictures, strict=True):
        assert (job.folder.root / template.image).read_bytes() == picture.read_bytes()


def test_files_of_the_start_are_written_before_the_request(registry):
    request = JobRequest(prompt="a red bear", start="texture", start_mesh=START_MESH, stages=("texture",))
    placement = StartPlacement("Büste", "f00", ["Hut"], ["f01"], (1.0, 2.0, 3.5), 90.0, "UVMap", "hat")
    job = registry.create(request, [], {START_MESH: b"arrays", PLACEMENT: placement.to_json().encode()})
    assert (job.folder.root / job.folder.read_request().start_mesh).read_bytes() == b"arrays"
    assert StartPlacement.read(job.folder) == placement
    (job.folder.root / PLACEMENT).write_text("{")
    with pytest.raises(RequestError, match="start object of this job cannot be found"):
        StartPlacement.read(job.folder)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (JobRequest(prompt="  "), "The prompt is empty."),
        (JobRequest(prompt="a bear", templates=(Template("front", "x"),)), "show 1 pose class"),
    ],
)
def test_a_request_that_cannot_run_makes_no_folder(registry, request_, sentence):
    with pytest.raises(RequestError, match=sentence):
        registry.create(request_, [Path("x") for _ in request_.templates])
    assert not registry.root.exists()


def test_data_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    registry = JobRegistry(tmp_path / "file" / "data")
    with pytest.raises(RequestError, match=r"data folder .* cannot be written .*choose another data folder"):
        registry.create(JobRequest(prompt="a bear"), [])


def test_full_disk_leaves_no_half_job(registry, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    module.writable_folder(registry.root)
    monkeypatch.setattr(module, "writable_folder", lambda path: path)
    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(RequestError, match=r"No space left on device.* Free some space"):
        registry.create(JobRequest(prompt="a bear"), [])
    assert not any(registry.root.iterdir())


def test_full_disk_when_a_job_starts(registry, fake_command, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    job = registry.create(JobRequest(prompt="a bear"), [])
    monkeypatch.setattr(client, "write_atomically", full)
    with pytest.raises(RequestError, match=r"The disk is full. Free some space, and resume the job."):
        registry.start(job, fake_command, BACKEND)
    assert job.client is None and not job.why_not_resume


def test_truncated_job_json(registry, fake_command):
    job = registry.create(JobRequest(prompt="a red bear"), [])
    job.folder.request.write_text(job.folder.request.read_text()[:40])
    found = JobRegistry(registry.data_folder).jobs[0]
    assert found.condition == "damaged"
    assert "job.json cannot be read" in found.problem
    assert found.why_not_resume == found.problem
    with pytest.raises(RequestError, match="cannot be read"):
        registry.start(found, fake_command, BACKEND)


def test_jobs_come_and_go_with_their_folders(registry):
    first = registry.create(JobRequest(prompt="Ein röter Bär! " * 9), [])
    assert first.id.isascii() and len(first.id) < 60
    other = JobRegistry(registry.data_folder)
    second = registry.create(JobRequest(prompt="日本"), [])
    assert other.poll()
    assert {job.id for job in other.jobs} == {first.id, second.id}
    registry.delete(second)
    assert other.poll()
    assert [job.id for job in other.jobs] == [first.id]


def test_worker_environment_is_scrubbed(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONHOME", "/blender")
    monkeypatch.setenv("PYTHONSTARTUP", "x")
    environment = worker_environment(tmp_path)
    names = {name for name in environment if name.startswith("PYTHON")}
    assert names == {"PYTHONPATH", "PYTHONUTF8", "PYTHONNOUSERSITE", "PYTHONSAFEPATH"}
    assert environment["PYTHONPATH"] == str(tmp_path)
    assert "PATH" in environment


def test_unknown_events_change_nothing():
    state = JobState(status="running", step=3)
    before = asdict(state)
    for event in ({"type": "new"}, {"type": "progress"}, {"type": "stage", "name": 3}, {"type": "preview"}):
        client.apply_event(state, event)
    assert asdict(state) == before


def test_folder_without_state_is_queued(tmp_path):
    assert module.Job(JobFolder(tmp_path), None, "").condition == "queued"


def test_a_job_elsewhere_has_the_same_worker_with_options(registry, fake_command, settle):
    job = registry.create(JobRequest("a red bear"), [])
    registry.start(job, fake_command, BACKEND, where=("--on=localhost:10001",))
    assert job.client._process.command[-3:] == ["run", str(job.folder.root), "--on=localhost:10001"]
    assert not job.client._repeats, "only a repeat keeps the earlier state"
    settle(job)
    assert job.condition == "done"
    registry.start(job, fake_command, BACKEND, "texture", 5, ("--on=localhost:10001",))
    assert job.client._process.command[-4:] == ["--again", "texture", "--seed", "5"] and job.client._repeats
    settle(job)
    assert job.condition == "done"
