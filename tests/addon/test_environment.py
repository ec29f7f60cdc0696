"""The backend's environment as the panel sees it: choices, installing, diagnosing, with stand-ins for the commands."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import environment as module
from recdreamer_extension.addon.jobs import task as task_module
from recdreamer_extension.addon.jobs.task import Step, Task
from recdreamer_extension.addon.setup import builds, installation, locks, report, storage
from recdreamer_extension.addon.setup.hardware import Card, Machine
from recdreamer_extension.addon.setup.report import Row
from recdreamer_extension.addon.setup.uv import interpreter_of
from recdreamer_extension.backend.recdreamer.shared.protocol import RequestError

CARD = Card("RTX 3060", (580, 95), (8, 6), 12288)
MACHINE = Machine("linux", "x86_64", cards=(CARD,))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_steps_run_in_order_and_report():
    task = Task([Step("One", python("print('first')")), Step("Two", python("print('second')"))])
    task.join()
    assert task.has_succeeded
    assert (task.title, task.line) == ("Two", "second")


def test_a_failing_step_ends_the_task_with_its_last_line():
    task = Task(
        [Step("Fetching", python("print('No space.'); raise SystemExit(1)")), Step("Never", python(""))]
    )
    task.join()
    assert task.problem == "Fetching failed: No space."


def test_the_first_error_is_the_reason():
    lines = [
        "Collecting torch",
        "ERROR: Could not find torch",
        "ERROR: That was it",
        "note: not a problem with pip",
    ]
    task = Task([Step("Fetching", python(f"print(*{lines}, sep=chr(10)); raise SystemExit(1)"))])
    task.join()
    assert task.problem == "Fetching failed: Could not find torch."


def test_settings_of_other_pythons_do_not_reach_a_command(monkeypatch):
    """But proxies and certificates do."""
    for name in ("PIP_USER", "PIP_TARGET", "CONDA_PREFIX", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/x")
    kept = ("HTTPS_PROXY", "SSL_CERT_FILE", "PIP_CERT")
    for name in kept:
        monkeypatch.setenv(name, "/c")
    asked = Task([Step("Asking", python("import os; print(sorted(os.environ))"))])
    asked.join()
    assert all(repr(name) in asked.line for name in kept)
    assert not any(name in asked.line for name in ("PIP_USER", "PIP_TARGET", "CONDA", "VIRTUAL_ENV"))


def test_a_missing_command():
    task = Task([Step("Checking", ["/no/such/python"])])
    task.join()
    assert "Checking failed: No such file" in task.problem


def test_cancel_ends_the_running_command(wait_until):
    task = Task([Step("Long", python("print('on', flush=True); import time; time.sleep(600)"))])
    wait_until(lambda: task.poll() and task.line == "on")
    task.cancel()
    task.join()
    assert task.problem == "Canceled."
    assert not task.is_running


def test_a_canceled_command_that_cannot_be_killed_is_given_up(wait_until, monkeypatch):
    """It hangs in a driver; Blender must close all the same."""
    task = Task([Step("Long", python("print('on', flush=True); import time; time.sleep(600)"))])
    wait_until(lambda: task.poll() and task.line == "on")
    process = task._process
    monkeypatch.setattr(task_module, "GIVE_UP_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(process, "kill", lambda: None)
        task.cancel()
        task.join()
    assert task.problem == "Canceled." and process.code is None
    process.kill()


def test_a_flood_is_read_in_parts_and_its_first_error_is_the_reason():
    code = "print('ERROR: no room'); print(('y' * 99 + chr(10)) * 5000); raise SystemExit(1)"
    task = Task([Step("Fetching", python(code))])
    task._process.wait()
    polls = 0
    while task.is_running:
        assert task.poll()
        polls += 1
    assert polls > 500_000 // task_module.MAX_READ and task.problem == "Fetching failed: no room."


def test_no_backend_yet(tmp_path):
    with pytest.raises(RequestError, match="not installed yet"):
        module.find_interpreter("", tmp_path)


def test_an_incomplete_environment_does_not_count_and_an_old_one_needs_an_update(tmp_path):
    places = installation.Places(tmp_path)
    interpreter = interpreter_of(places.environment)
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    with pytest.raises(RequestError, match="not installed yet"):
        module.find_interpreter("", tmp_path)
    build = builds.BUILDS[0]
    places.marker.write_text(json.dumps({"build": build.name, "lock": locks.fingerprint(build)}))
    assert module.find_interpreter("", tmp_path) == interpreter
    for old in ("", "[]", json.dumps({"build": build.name, "lock": "another"})):
        places.marker.write_text(old)
        with pytest.raises(RequestError, match="Press Update Backend"):
            module.find_interpreter("", tmp_path)


def test_chosen_interpreter(tmp_path):
    assert module.find_interpreter(sys.executable, tmp_path) == Path(sys.executable)
    with pytest.raises(RequestError, match="does not exist"):
        module.find_interpreter(str(tmp_path / "python"), tmp_path)


@pytest.mark.parametrize(
    ("accelerator", "build", "words"),
    [
        ("auto", "linux-cuda13", "PyTorch for CUDA 13."),
        ("cuda12", "linux-cuda12", "RTX 3060: PyTorch for CUDA 12.6, as chosen."),
        ("cpu", "linux-cpu", "PyTorch for the CPU, as chosen."),
    ],
)
def test_the_choice_can_be_changed(accelerator, build, words):
    choice = module.choose(MACHINE, accelerator)
    assert choice.build.name == build and words in choice.sentence


def test_a_build_that_no_card_can_use_is_refused_with_the_reason():
    old = Card("GTX 1080", (580, 95), (6, 1), 8192)
    choice = module.choose(Machine("linux", "x86_64", cards=(old,)), "cuda13")
    assert (
        choice.sentence.endswith("GTX 1080 stays unused: it is too old for CUDA 13.")
        and choice.remedy == "Choose Automatic."
    )
    assert module.choose(Machine("macos", "arm64", (15,)), "cuda13").build is None
    with pytest.raises(RequestError, match="no such build"):
        module.install(Path(), module.choose(Machine("macos", "arm64", (15,)), "cuda13"))


@pytest.mark.parametrize(
    ("online", "forced", "wheels", "words"),
    [
        (True, False, "", ""),
        (False, False, "", "Allow Online Access"),
        (False, True, "", "without --offline-mode"),
        (False, True, "/wheels", ""),
    ],
)
def test_nothing_is_fetched_while_blender_is_offline(online, forced, wheels, words):
    reason = module.why_offline(online, forced, wheels)
    assert (words in reason) if words else not reason


def test_the_size_says_what_was_measured():
    sizes = {build.name: installation.describe_size(build) for build in builds.BUILDS}
    assert sizes["linux-cuda13"].startswith(
        "Downloads 3.0 GB (4 min at 100 Mbit/s), takes 5.5 GB on the disk"
    )
    assert sizes["windows-cuda13"].startswith(
        "Downloads about 2.2 GB (3 min at 100 Mbit/s), takes about 4.3 GB on the disk"
    )


def test_a_folder_of_wheels_that_is_not_there(tmp_path):
    choice = module.choose(MACHINE, "cpu")
    with pytest.raises(RequestError, match=r"folder of wheels .* does not exist"):
        module.install(tmp_path, choice, str(tmp_path / "wheels"))


def test_an_installation_ends_with_the_sentence_of_the_table(tmp_path):
    """The real process, with this Python's pip, and a folder that lacks everything."""
    (tmp_path / "wheels").mkdir()
    task = module.install(tmp_path / "data", module.choose(MACHINE, "cpu"), str(tmp_path / "wheels"))
    task.join()
    assert task.problem.startswith("There is no fitting wheel of uv. Choose a folder")
    assert task.title == "Getting the installer"
    assert "pip install" in installation.Places(tmp_path / "data").log.read_text()


class Said(module.Install):
    """An installation whose process says what it is told to."""

    def __init__(self, code: str) -> None:
        self.factor, self.stage, self._said = 0.0, "", ""
        Task.__init__(self, [Step("Installing the backend", python(code))])


def test_progress_is_shown():
    message = {"title": "Downloading", "text": "1 of 2 GB", "factor": 0.5}
    task = Said(f"import json; print(json.dumps({message!r})); print('[]'); raise SystemExit(1)")
    task.join()
    assert (task.title, task.factor) == ("Downloading", 0.5)
    assert task.problem == "Installing the backend failed: []."


def diagnose(tmp_path, monkeypatch, code: str) -> module.Diagnosis:
    monkeypatch.setattr(module, "run_command", lambda interpreter: python(code))
    task = module.Diagnosis(Path(sys.executable), tmp_path, "auto")
    task.join()
    return task


def test_a_diagnosis_has_rows(tmp_path, monkeypatch):
    rows = [
        {"check": "device", "is_ok": False, "text": "No GPU.", "fix": "install"},
        {"check": "memory", "is_ok": True, "text": "8 GB", "fix": ""},
    ]
    code = f"import json\nfor row in {rows!r}: print(json.dumps(row))\n"
    code += "print('a warning of a library')\nraise SystemExit(1)"
    task = diagnose(tmp_path, monkeypatch, code)
    assert task.rows == (Row("device", False, "No GPU.", "install"), Row("memory", True, "8 GB", ""))
    assert task.problem == "1 of 2 checks failed."
    assert task.line == "memory", "not the warning"
    task = diagnose(tmp_path, monkeypatch, "raise SystemExit('No module named recdreamer')")
    assert task.problem == "Checking the backend failed: No module named recdreamer."


def test_the_summary_names_the_device():
    rows = [Row("device", True, "CPU with 4 threads")]
    assert module.summary(rows) == "Everything is ready: CPU with 4 threads."
    assert module.summary([]) == "Everything is ready."


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A program that tells of a card, as the driver's does, and of having been asked."""
    program, asked = tmp_path / "bin/nvidia-smi", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho once >> {asked}\necho 'RTX 4090, 581.29, 8.9, 24564'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(module.hardware, "find_nvidia_smi", lambda: str(program))
    return asked


def test_hardware_is_asked_once_in_the_background(card, wait_until):
    there = Path("/usr/bin/nvidia-smi").exists()
    hardware = module.Hardware()
    assert not hardware.poll()
    before = threading.active_count()
    assert hardware.ask() is None and hardware.is_asking and threading.active_count() == before
    assert hardware.ask() is None
    wait_until(hardware.poll)
    assert not hardware.poll() and not hardware.is_asking
    assert hardware.ask() == hardware.wait() and hardware.machine.cards
    assert there or (hardware.machine == module.hardware.detect() and card.read_text() == "once\nonce\n")
    hardware.forget()
    machine = hardware.wait()
    assert machine == hardware.machine and not hardware.is_asking
    assert there or machine.cards[0].name == "RTX 4090"


def test_hardware_that_cannot_be_asked_says_why(monkeypatch, wait_until):
    monkeypatch.setattr(module, "own_python", lambda name: ["/no/such/python"])
    hardware = module.Hardware()
    hardware.ask()
    wait_until(hardware.poll)
    assert hardware.machine.cards == () and "No such file" in hardware.machine.driver_problem
    assert hardware.machine.system == module.hardware.detect().system


def test_the_report_has_no_personal_paths(monkeypatch):
    home = Path("/home/jane")
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(report, "getuser", lambda: "jane")
    rows = [
        Row("Python", True, "3.12.1 at /home/jane/data/backend/bin/python"),
        Row(
            "job folder", False, "/home/jane/jobs and C:\\Users\\jane\\x and /media/jane/disk", "data_folder"
        ),
    ]
    text = report.compose(rows, MACHINE, {"Blender": "5.2"}, {"data folder": home / "data"})
    assert "jane" not in text
    assert "ok    Python: 3.12.1 at <data folder>/backend/bin/python" in text
    assert "FAIL  job folder: <home>/jobs and C:\\Users\\<user>\\x and /media/<user>/disk" in text
    assert "Card: RTX 3060, 12288 MiB, driver 580.95, sm 8.6" in text and text.startswith("Blender: 5.2\n")


def test_each_part_is_removed_by_itself_with_its_size(tmp_path):
    data = tmp_path / "data"
    for folder in ("backend/lib", "setup/uv", "models/sd", "jobs/one"):
        (data / folder).mkdir(parents=True)
        (data / folder / "file").write_bytes(b"x" * 1000)
        (data / folder / "file").chmod(0o400)
    parts = storage.parts(data, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    sizes = storage.Sizes()
    sizes.measure_parts(parts)
    assert sizes.is_behind and sizes.poll(float("inf")) and not sizes.is_behind
    assert sizes.bytes_of == {"environment": 2000, "models": 1000, "caches": 0}
    storage.remove(parts[0])
    assert {path.name for path in data.iterdir()} == {"models", "jobs"}
    storage.remove(parts[1])
    storage.remove(parts[2])
    assert {path.name for path in data.iterdir()} == {"jobs"}


def test_a_link_is_removed_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(tmp_path / "elsewhere")
    storage.remove(storage.parts(tmp_path / "data")[1])
    assert not (tmp_path / "data" / "models").exists() and (tmp_path / "elsewhere" / "model").exists()


def test_the_caches_are_those_of_the_backend(monkeypatch, tmp_path):
    cache = pytest.importorskip("recdreamer.cache")
    for platform, place in [("linux", "a"), ("darwin", "a"), ("win32", "a"), ("win32", "Größe")]:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / place))
        monkeypatch.setenv("PROGRAMDATA", str(tmp_path / "shared"))
        assert storage.user_cache() == cache.lasting_folder("warp").parent
