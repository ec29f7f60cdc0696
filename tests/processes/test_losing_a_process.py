"""What is lost with a process, and how the others end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from recdreamer.generate import _not_needed
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.shared.folder_lock import ask_to_stop

from .losing import check_the_loss_of_a_process, is_gone, new_job, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")


def test_a_killed_process_ends_the_job_which_resumes_on_one(tmp_path: Path) -> None:
    check_the_loss_of_a_process(tmp_path / "job", "cpu", 40)


def test_the_others_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    running = run(new_job(tmp_path / "job", "cpu"))
    running.until_step(4)
    (other,) = running.others()
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.end() == -signal.SIGKILL
    assert is_gone(other)


def test_a_job_of_two_processes_is_paused_through_its_folder_and_resumed_by_three(tmp_path: Path) -> None:
    job = new_job(tmp_path / "job", "cpu", overrides={"optimize.num_views": 3})
    running = run(job)
    running.until_step(4)
    (other,) = running.others()
    ask_to_stop(job.root, "pause")
    assert running.end() == 3 and running.events[-1]["type"] == "paused"
    assert is_gone(other)
    kept = CheckpointStore(job.checkpoints).newest("shape")
    assert kept is not None and kept.step >= 4
    again = run(job, ["--processes", "3"])
    again.until_step(kept.step + 1)
    others = again.others()
    assert len(others) == 2
    assert again.end() == 0 and (job.result / "mesh.npz").exists()
    assert all(is_gone(each) for each in others)


def test_files_that_are_being_written_are_not_copied_for_the_others(tmp_path: Path) -> None:
    """They are gone under this name before they are read."""
    names = ["job.json", ".state.json.589f85a2d079", "state.json", "templates", "checkpoints", "seeds.json"]
    assert {*names} - _not_needed(str(tmp_path), names) == {"job.json", "templates", "seeds.json"}
