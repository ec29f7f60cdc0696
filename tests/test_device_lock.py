"""One thing at a time on a device, among processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recdreamer.shared.device_lock import DEVICES, is_busy, turn

HOLD = """
import sys, time
from recdreamer.shared.device_lock import turn
with turn(sys.argv[1], lambda: time.sleep(0.01)):
    print("has it", flush=True)
    time.sleep(60)
"""


class Waited(Exception):
    pass


def give_up() -> None:
    raise Waited


@pytest.fixture
def holder(tmp_path: Path):
    """Start a process that holds a device until it is killed."""
    started = []

    def hold(device: str) -> subprocess.Popen:
        environment = os.environ | {DEVICES: str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, device], env=environment, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "has it\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("held", "wanted", "is_free"),
    [
        ("cuda", "cuda", False), ("cuda", "cuda:0", False), ("cuda", "cuda:1", True), ("cuda", "cpu", True),
        ("auto", "cuda", False), ("auto", "cpu", False), ("cpu", "auto", False), ("cuda:1", "auto", True),
    ],
)  # fmt: skip
def test_who_waits_for_whom(holder, tmp_path, held, wanted, is_free):
    holder(held)
    assert is_busy(tmp_path, wanted) != is_free
    if is_free:
        with turn(wanted, give_up, tmp_path):
            pass
    else:
        with pytest.raises(Waited), turn(wanted, give_up, tmp_path):
            pass
        # Whoever gives up leaves nothing locked.
        free = {"cpu", "cuda:1"} - {held} if held != "auto" else {"cuda:1"}
        assert not any(is_busy(tmp_path, device) for device in free)


def test_a_killed_process_frees_its_device(holder, tmp_path):
    process = holder("cuda")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_busy(tmp_path, "cuda")
    with turn("cuda", give_up, tmp_path):
        assert is_busy(tmp_path, "cuda")
    assert not is_busy(tmp_path, "cuda")


def test_the_next_has_it_when_the_first_ends(holder, tmp_path):
    process, waits = holder("auto"), []

    def wait() -> None:
        waits.append(time.monotonic())
        process.kill()
        process.wait()

    with turn("cpu", wait, tmp_path):
        assert len(waits) == 1 and is_busy(tmp_path, "cpu")


def test_without_a_folder_nobody_waits(monkeypatch):
    monkeypatch.delenv(DEVICES, raising=False)
    with turn("cuda", give_up), turn("cuda", give_up):
        pass


def test_where_no_lock_can_be_written_the_job_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with turn("cuda", give_up, tmp_path / "file"):
        pass
