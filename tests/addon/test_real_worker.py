"""The job client with the backend's real worker, which behaves like the fake one."""

from __future__ import annotations

import json
import sys

import pytest
from recdreamer_extension.addon.jobs.finish import can_finish, finish_early
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.addon.jobs.task import BACKEND
from recdreamer_extension.backend.recdreamer.shared.protocol import JobRequest

COMMAND = [sys.executable, "-m", "recdreamer"]
TINY = {
    "optimize.num_steps": 6,
    "optimize.preview_every": 1,
    "geometry.num_steps": 2,
    "geometry.resolution": 24,
    "geometry.render_px": 32,
    "texture.num_steps": 2,
    "texture.render_px": 32,
    "mesh.resolution": 24,
    "mesh.target_faces": 400,
    "mesh.texture_size_px": 64,
}
TIME_LIMIT_S = 300


@pytest.fixture
def registry(tmp_path):
    registry = JobRegistry(tmp_path / "Ünï codé dir")
    yield registry
    registry.shut_down(timeout_s=0)


def test_pause_resume_result_and_redo_of_the_texture(registry, wait_until):
    job = registry.create(JobRequest(prompt="a red bear", quality="quick", overrides=TINY), [])
    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.state.total == 6 and job.state.step > 0, TIME_LIMIT_S)
    registry.ask_to_stop(job, "pause")
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "paused", f"{job.state.message} {job.state.hint}"

    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "done", f"{job.state.message} {job.state.hint}"
    assert not job.why_not_import
    assert job.preview is not None
    assert sum(job.state.pose_distribution.values()) == pytest.approx(1, abs=0.01)
    before = [(job.folder.result / name).read_bytes() for name in ("mesh.npz", "albedo.png")]

    assert job.stages_to_repeat == ("geometry", "texture")
    registry.start(job, COMMAND, BACKEND, again="texture", seed=5)
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "done", f"{job.state.message} {job.state.hint}"
    after = [(job.folder.result / name).read_bytes() for name in ("mesh.npz", "albedo.png")]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]
    assert json.loads(job.folder.seeds.read_text()) == {"texture": 5}


def test_an_unknown_setting_is_reported_in_one_sentence(registry, wait_until):
    request = JobRequest(prompt="a red bear", overrides={"optimize.steps": 3})
    job = registry.create(request, [])
    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "failed"
    assert "There is no setting 'optimize.steps'" in job.state.message


def test_switching_off_while_it_works(registry, wait_until):
    job = registry.create(JobRequest(prompt="a red bear", overrides=TINY | {"optimize.num_steps": 5000}), [])
    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.state.total == 5000 and job.state.step > 0, TIME_LIMIT_S)
    registry.shut_down(timeout_s=60)
    assert job.folder.read_state().status == "paused"
    assert not job.why_not_resume


def test_a_mesh_of_what_is_there(registry, wait_until):
    """A job of 5,000 steps is stopped after a few, and ends early with a mesh."""
    overrides = TINY | {"optimize.num_steps": 5000}
    job = registry.create(JobRequest(prompt="a red bear", quality="quick", overrides=overrides), [])
    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.state.total == 5000 and job.state.step > 2, TIME_LIMIT_S)
    registry.ask_to_stop(job, "cancel")
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "cancelled" and can_finish(job)
    finish_early(job)
    registry.start(job, COMMAND, BACKEND)
    wait_until(lambda: registry.poll() and job.client is None, TIME_LIMIT_S)
    assert job.condition == "done", f"{job.state.message} {job.state.hint}"
    assert not job.why_not_import
    assert json.loads((job.folder.result / "report.json").read_text())["stages"] == ["shape"]
