"""RecDreamer in scripts: the module, operators with full properties, waiting without a timer, and jobs as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bpy
import pytest

from .objects import reported

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripting(addon, settings):
    return addon("scripting")


def test_a_script_generates_waits_and_imports(scripting, settings):
    before = settings.seed, settings.quality, settings.prompt
    seen = []
    job = scripting.generate("a blue bear", seed=7, quality="quick", height_m=0.5, overrides={"steps": 20})
    assert job.condition == "starting" and job.wait(progress=seen.append) is job and job.condition == "done"
    assert seen and seen[-1].status == "done"
    (bear,) = job.import_result()
    assert bear.name == "a blue bear" and bear.dimensions.z == pytest.approx(0.5)
    request = json.loads((job.folder / "job.json").read_text())
    assert (request["seed"], request["quality"], request["prompt"]) == (7, "quick", "a blue bear")
    assert (settings.seed, settings.quality, settings.prompt) == before, "the panel is as it was"
    assert [one.id for one in scripting.jobs()] == [job.id]


def test_a_job_that_fails_raises_its_sentence(scripting, extension, addon):
    from importlib import import_module

    protocol = import_module(f"{extension.__name__}.backend.recdreamer.shared.protocol")
    job = scripting.generate("a bear", overrides={"fake": "fail"})
    with pytest.raises(protocol.RequestError, match="There is not enough memory for this job"):
        job.wait()
    with pytest.raises(protocol.RequestError, match="no setting 'colour'"):
        scripting.generate("a bear", colour=3)
    with pytest.raises(protocol.RequestError, match="no result yet"):
        job.import_result()
    slow = scripting.generate("a bear", overrides={"steps": 3000})
    with pytest.raises(TimeoutError):
        slow.wait(timeout_s=0.3)
    waiting = scripting.generate("a bear")
    waiting.stop()
    assert waiting.condition == "queued"
    slow.stop()
    with pytest.raises(protocol.RequestError, match="paused"):
        slow.wait()


def test_a_held_queue_is_no_endless_wait(scripting):
    bpy.ops.recdreamer.hold_queue()
    job = scripting.generate("a bear")
    with pytest.raises(Exception, match="The queue is held"):
        job.wait()


def test_several_jobs_one_after_another(scripting):
    jobs = [scripting.generate("a bear", seed=seed) for seed in range(3)]
    assert [job.wait(60).condition for job in jobs] == ["done"] * 3


def test_a_folder_from_elsewhere(scripting, tmp_path):
    import shutil

    job = scripting.generate("a bear").wait()
    shutil.copytree(job.folder, tmp_path / "copy")
    (bear,) = scripting.import_result(tmp_path / "copy")
    assert bear.name == "a bear" and scripting.open_job(tmp_path / "copy").condition == "done"


def test_generate_as_an_operator_with_full_properties(settings, addon, draw):
    settings.prompt, settings.seed = "", 4
    assert bpy.ops.recdreamer.generate_job(
        prompt="a red bear", quality="quick", height_m=2.0, overrides='{"steps": 3}', wait=True
    ) == {"FINISHED"}
    job = addon("session").session.shown
    assert job.condition == "done" and job.request.seed == 4 and job.request.height_m == 2.0
    assert job.request.quality == "quick" and job.request.overrides["steps"] == 3
    assert "empty" in reported(bpy.ops.recdreamer.generate_job)
    error = reported(bpy.ops.recdreamer.generate_job, prompt="a", overrides='{"fake": "fail"}', wait=True)
    assert "not enough memory" in error
    assert bpy.ops.recdreamer.wait_for_job(job_id=job.id) == {"FINISHED"}


def test_a_job_as_a_python_command_makes_the_same_request(scripting, addon):
    first = scripting.generate(
        "a 'red' bear", seed=7, method="sds", height_m=0.5, overrides={"steps": 3}
    ).wait()
    session = addon("session").session
    bpy.ops.recdreamer.copy_command(job_id=first.id, language="PYTHON")
    command = addon("jobs.command_line").python_command(session.shown.request, addon("scripting").__package__)
    exec(command, {})
    again = session.shown
    assert again.id != first.id and again.request == session.registry.find(first.id).request
    scripting.Handle(again.id).wait()


def test_blender_in_the_background_waits(archive, fake_backend, tmp_path):
    """A fresh Blender without a timer, as `blender -b --python`."""
    script = f"""
import os, sys
os.environ["BLENDER_USER_RESOURCES"] = {str(tmp_path / "user")!r}
import bpy, addon_utils
bpy.ops.extensions.package_install_files(filepath={str(archive)!r}, repo="user_default", enable_on_install=False)
addon_utils.enable("bl_ext.user_default.recdreamer", default_set=True)
preferences = bpy.context.preferences.addons["bl_ext.user_default.recdreamer"].preferences
preferences.data_folder, preferences.backend_python = {str(tmp_path / "data")!r}, {str(fake_backend)!r}
from bl_ext.user_default.recdreamer.addon import scripting
bear, = scripting.generate("a red bear", method="vsd").wait(60).import_result()
print("imported", bear.name, len(bear.data.polygons))
sys.stdout.flush()
addon_utils.disable("bl_ext.user_default.recdreamer")
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert "imported a red bear 12" in done.stdout, done.stdout + done.stderr
