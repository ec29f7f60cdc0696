"""No code comes from a job folder, nor from the folder in which Blender works: real Pythons among planted files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from recdreamer_extension.addon.jobs import environment, task
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.addon.jobs.task import Step, Task
from recdreamer_extension.addon.setup import hardware
from recdreamer_extension.addon.setup.builds import BUILDS
from recdreamer_extension.backend.recdreamer.shared.protocol import JobRequest

PLANTED = ("recdreamer", "json", "random", "tyro", "sitecustomize", "ensurepip", "venv", "torch")
WORKER = """
import json, os, random, sys
print(json.dumps({"type": "hello", "protocol": 1}), flush=True)
print(json.dumps({"type": "warning", "message": os.getcwd()}), flush=True)
print(json.dumps({"type": "result", "path": "result"}), flush=True)
"""


@pytest.fixture
def plant(tmp_path):
    """Put modules into a folder that leave a mark when they are imported."""

    def plant(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in PLANTED:
            (folder / f"{name}.py").write_text(
                f"open({str(tmp_path / 'RAN')!r}, 'a').write(__file__ + chr(10))\nraise SystemExit(3)\n"
            )
        return folder

    yield plant
    assert not (tmp_path / "RAN").exists(), (tmp_path / "RAN").read_text()


@pytest.fixture
def backend(tmp_path):
    """A backend that starts in no time, but is found and run like the real one."""
    (tmp_path / "backend/recdreamer").mkdir(parents=True)
    (tmp_path / "backend/recdreamer/__init__.py").touch()
    (tmp_path / "backend/recdreamer/__main__.py").write_text(WORKER)
    return tmp_path / "backend"


@pytest.fixture
def working_folder(tmp_path, monkeypatch, plant):
    monkeypatch.chdir(plant(tmp_path / "beside the .blend file"))
    # What the artist has set must not switch the protection off.
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))


def test_a_worker(tmp_path, backend, working_folder, plant, wait_until):
    registry = JobRegistry(tmp_path / "data")
    job = registry.create(JobRequest(prompt="a red bear"), [])
    plant(job.folder.root)
    registry.start(job, [sys.executable, "-m", "recdreamer"], backend)
    wait_until(lambda: registry.poll() and job.client is None)
    assert job.condition == "done", job.state
    assert job.state.message == str(backend), "it works in a folder of our own"


def test_commands_of_the_shelf_and_of_the_preferences(backend, working_folder, monkeypatch):
    monkeypatch.setattr(task, "BACKEND", backend)
    done = Task([Step("Checking", environment.run_command(Path(sys.executable)))])
    done.join()
    assert done.has_succeeded, done.problem
    assert json.loads(done.line)["type"] == "result"


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script")
def test_programs_beside_the_blend_file(working_folder, monkeypatch, tmp_path):
    """Where the search path has the working folder, as on Windows: neither a Python nor nvidia-smi is taken from it."""
    for name in ("python3.13", "nvidia-smi"):
        Path(name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'RAN'}\n")
        Path(name).chmod(0o755)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("python3.13") == "./python3.13"
    hardware.detect()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    install = environment.Install(tmp_path / "data", BUILDS[2], wheels)
    install.join()
    assert "There is no fitting wheel of uv" in install.problem
