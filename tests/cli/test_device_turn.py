"""A worker and a command of the shelf wait for their device, say so, and can be stopped meanwhile."""

from __future__ import annotations

import pytest

from recdreamer.cli import main as cli
from recdreamer.cli import work as module
from recdreamer.report import Paused
from recdreamer.shared.device_lock import DEVICES, is_busy
from recdreamer.shared.folder_lock import FolderLock
from recdreamer.shared.protocol import JobFolder, JobRequest


class Recorder:
    """A report that writes down what it is told."""

    def __init__(self, at_progress) -> None:
        self.stages: list[str] = []
        self._at_progress = at_progress

    def stage(self, name, index, count, span=None) -> None:
        self.stages.append(name)

    def progress(self, step, total) -> None:
        self._at_progress()

    def preview(self, path) -> None: ...

    def pose_distribution(self, probs) -> None: ...

    def warning(self, message) -> None: ...


@pytest.fixture
def other(tmp_path, monkeypatch):
    """The lock of somebody else on the CPU."""
    monkeypatch.setenv(DEVICES, str(tmp_path))
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    (tmp_path / "cpu").mkdir()
    return FolderLock(tmp_path / "cpu")


def test_a_worker_begins_when_the_device_is_free_and_holds_it(other, tmp_path, monkeypatch):
    waits, worked = [], []

    def at_progress():
        waits.append(1)
        if len(waits) == 3:
            other.release()

    monkeypatch.setattr(
        module, "generate_job", lambda job, request, report: worked.append(is_busy(tmp_path, "cpu"))
    )
    report = Recorder(at_progress)
    module.work(JobFolder(tmp_path), JobRequest("a red bear", device="cpu"), report)
    assert report.stages == ["waiting"] and len(waits) == 3 and worked == [True]
    assert not is_busy(tmp_path, "cpu")


def test_a_worker_that_waits_can_be_paused(other, tmp_path, monkeypatch):
    def at_progress():
        raise Paused

    monkeypatch.setattr(module, "generate_job", lambda *_: pytest.fail("it has no turn"))
    with pytest.raises(Paused):
        module.work(JobFolder(tmp_path), JobRequest("a red bear", device="auto"), Recorder(at_progress))
    other.release()


def test_a_command_of_the_shelf_waits_and_says_so(other, tmp_path, monkeypatch, capsys):
    say = cli.wait_for_device
    monkeypatch.setattr(cli, "WAIT_S", 0.01)
    monkeypatch.setattr(cli, "wait_for_device", lambda: (say(), other.release()))
    monkeypatch.setattr(cli, "run_templates", lambda command: 0 if is_busy(tmp_path, "cpu") else 3)
    with pytest.raises(SystemExit) as end:
        cli.main(["templates", "check", str(tmp_path), "--device", "cpu"])
    assert end.value.code == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "Waiting: another job uses the device.\n"
