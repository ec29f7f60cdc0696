"""Who works on a job folder is known by its lock; whoever works there is asked to stop through the folder."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import recdreamer
from recdreamer.shared.folder_lock import (
    LOCK,
    FolderBusy,
    FolderLock,
    ask_to_stop,
    is_locked,
    take_stop_request,
)
from recdreamer.shared.job_state import CLOCK_SKEW_S, STALE_S, JobState
from recdreamer.shared.protocol import JobFolder
from recdreamer.shared.safe_files import RequestError

PACKAGE = Path(recdreamer.__file__).parent


def test_a_lock_is_seen_and_released(tmp_path):
    assert not is_locked(tmp_path)
    lock = FolderLock(tmp_path)
    assert is_locked(tmp_path) and is_locked(tmp_path)
    with pytest.raises(FolderBusy):
        FolderLock(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)
    FolderLock(tmp_path).release()


def test_a_lock_ends_with_its_process(tmp_path):
    script = "import sys, pathlib; from recdreamer.shared.folder_lock import FolderLock\n"
    script += "lock = FolderLock(pathlib.Path(sys.argv[1])); print(1, flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None and holder.stdout.readline()
        assert is_locked(tmp_path)
        holder.kill()
        holder.wait()
    assert not is_locked(tmp_path)


def test_asking_turns_no_worker_away(tmp_path):
    """Who asks holds the lock for a moment; a worker that starts then waits for it."""
    (tmp_path / LOCK).touch()
    script = "import sys, pathlib; from recdreamer.shared.folder_lock import is_locked\n"
    script += "print(1, flush=True)\nwhile True: is_locked(pathlib.Path(sys.argv[1]))"
    asker = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    with asker:
        assert asker.stdout is not None and asker.stdout.readline()
        for _ in range(50):
            FolderLock(tmp_path).release()
        asker.kill()


def test_something_else_in_the_place_of_the_lock_file_is_refused(tmp_path):
    (tmp_path / "victim").write_text("safe")
    (tmp_path / LOCK).symlink_to("victim")
    assert not is_locked(tmp_path)
    with pytest.raises(RequestError, match=r"worker\.lock is a link"):
        FolderLock(tmp_path)
    (tmp_path / LOCK).unlink()
    os.mkfifo(tmp_path / LOCK)
    assert not is_locked(tmp_path)
    with pytest.raises(RequestError, match="is no file"):
        FolderLock(tmp_path)


def test_a_deleted_lock_file_is_renewed_unless_another_was_faster(tmp_path):
    first = FolderLock(tmp_path)
    (tmp_path / LOCK).unlink()
    assert not is_locked(tmp_path)
    first.keep()
    assert is_locked(tmp_path)
    (tmp_path / LOCK).unlink()
    second = FolderLock(tmp_path)
    with pytest.raises(RequestError, match="Another worker has taken over"):
        first.keep()
    second.keep()
    first.release()
    assert is_locked(tmp_path)
    second.release()


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_folder_that_was_moved_is_not_locked_again(is_made_again, tmp_path):
    """Also if another folder has its name now."""
    (tmp_path / "job").mkdir()
    lock = FolderLock(tmp_path / "job")
    (tmp_path / "job").rename(tmp_path / "moved")
    if is_made_again:
        (tmp_path / "job").mkdir()
    with pytest.raises(RequestError, match="was deleted or moved"):
        lock.keep()
    assert not (tmp_path / "job" / LOCK).exists()
    lock.release()


def test_a_request_to_stop_is_taken_once(tmp_path):
    assert take_stop_request(tmp_path) == ""
    ask_to_stop(tmp_path, "pause")
    ask_to_stop(tmp_path, "cancel")
    assert take_stop_request(tmp_path) == "cancel" and take_stop_request(tmp_path) == ""
    (tmp_path / "stop").write_text("rm -rf")
    assert take_stop_request(tmp_path) == "" and not (tmp_path / "stop").exists()
    (tmp_path / "command").write_text("cancel")
    (tmp_path / "stop").symlink_to("command")
    assert take_stop_request(tmp_path) == "" and (tmp_path / "command").exists()
    (tmp_path / "stop").mkdir()
    assert take_stop_request(tmp_path) == ""
    with pytest.raises(RequestError, match="cannot be asked to stop"):
        ask_to_stop(tmp_path, "pause")
    with pytest.raises(RequestError, match="cannot be asked to stop"):
        ask_to_stop(tmp_path / "deleted", "pause")


@pytest.mark.parametrize(
    ("host", "age_s", "status", "expected"),
    [
        ("farm-7", 1, "running", "farm-7"),
        ("farm-7", -CLOCK_SKEW_S / 2, "running", "farm-7"),
        ("farm-7", STALE_S + 5, "running", ""),
        ("farm-7", -CLOCK_SKEW_S - 5, "running", ""),
        ("farm-7", 1, "paused", ""),
        ("", 1, "running", ""),
        (socket.gethostname(), 1, "running", ""),
    ],
)
def test_without_a_lock_another_computer_counts_while_its_heart_beats(
    host, age_s, status, expected, tmp_path
):
    state = JobState(status, 1, host, updated_s=time.time() - age_s)
    assert JobFolder(tmp_path).running_on(state) == expected


def test_with_a_lock_somebody_runs_whatever_the_state_says(tmp_path):
    lock = FolderLock(tmp_path)
    assert JobFolder(tmp_path).running_on(JobState()) == socket.gethostname()
    assert JobFolder(tmp_path).running_on(JobState("paused", host="farm-7")) == "farm-7"
    lock.release()


def test_no_process_is_signalled_because_a_file_names_it():
    """The signals that are sent go to children of this process, by their handles, or to its own group."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace("os.killpg(0, ", "")
        assert "os.kill" not in text and "send_signal" not in text and "psutil" not in text, path.name
