"""The backend section of the preferences: what fits, what it costs, what is installed, what is wrong, what to remove."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import bpy
import pytest


@pytest.fixture
def machine(addon):
    """Sets what this computer has."""
    hardware = addon("setup.hardware")
    session = addon("session").session

    def known(*cards, **facts):
        machine = hardware.Machine("linux", "x86_64", cards=tuple(hardware.Card(*card) for card in cards))
        session.hardware.wait()
        session.hardware.machine = replace(machine, **facts)

    return known


@pytest.fixture
def online(extension):
    bpy.context.preferences.system.use_online_access = True
    yield
    bpy.context.preferences.system.use_online_access = False


def text_of(seen) -> str:
    return " ".join(seen.texts)


def test_what_fits_is_said_before_the_press(draw_preferences, machine, online, preferences):
    machine(("RTX 3060", (580, 95), (8, 6), 12288))
    seen = draw_preferences()
    assert "RTX 3060 (12 GB, driver 580.95): PyTorch for CUDA 13." in text_of(seen)
    assert "Downloads 3.0 GB (4 min at 100 Mbit/s), takes 5.5 GB on the disk" in text_of(seen)
    assert {"build", "wheels_folder"} <= set(seen.props)
    preferences.build = "cpu"
    assert "PyTorch for the CPU, as chosen." in text_of(draw_preferences())
    preferences.build = "auto"
    machine(("RTX 5090", (572, 16), (12, 0), 32607))
    assert "Update the NVIDIA driver to 580 or newer" in text_of(draw_preferences())
    machine(processor="riscv64")
    seen = draw_preferences()
    assert "There are no builds for linux on riscv64." in text_of(seen)
    assert "recdreamer.set_up_backend" not in seen.operators


def test_offline_there_are_two_ways_on(draw_preferences, machine, preferences, tmp_path):
    machine()
    seen = draw_preferences()
    assert "Allow Online Access in Preferences › System, or choose a folder of wheels." in text_of(seen)
    assert "screen.userpref_show" in seen.operators
    assert not bpy.ops.recdreamer.set_up_backend.poll()
    preferences.wheels_folder = str(tmp_path)
    assert bpy.ops.recdreamer.set_up_backend.poll()
    seen = draw_preferences()
    assert "Allow Online Access" not in text_of(seen) and "screen.userpref_show" not in seen.operators
    preferences.wheels_folder = ""


def test_blender_started_offline_cannot_be_put_online_by_the_setting(
    draw_preferences, machine, addon, monkeypatch
):
    machine()
    forced = SimpleNamespace(online_access=False, online_access_override=True, version=bpy.app.version)
    for module in ("operators.setup", "panels.backend"):
        monkeypatch.setattr(addon(module), "bpy", SimpleNamespace(**vars(bpy) | {"app": forced}))
    seen = draw_preferences()
    assert "Start it without --offline-mode" in text_of(seen)
    assert "screen.userpref_show" not in seen.operators


def test_installing_ends_with_the_sentence_of_the_table(
    draw_preferences, machine, addon, pump_until, preferences, tmp_path
):
    """The real installation in Blender's Python, from a folder that lacks everything."""
    machine()
    preferences.wheels_folder = str(tmp_path)
    assert bpy.ops.recdreamer.set_up_backend() == {"FINISHED"}
    session = addon("session").session
    seen = draw_preferences()
    assert "recdreamer.cancel_backend_task" in seen.operators
    pump_until(lambda: not session.task.is_running)
    seen = draw_preferences()
    assert "There is no fitting wheel of uv. Choose a folder that has all wheels" in text_of(seen)
    assert "Try Again" in text_of(seen) and "Install Backend" not in text_of(seen)
    assert "recdreamer.open_install_log" in seen.operators and bpy.ops.recdreamer.open_install_log.poll()
    session.task.problem = addon("jobs.task").CANCELED
    assert "ERROR" not in draw_preferences().icons, "which is as it was wanted"
    preferences.wheels_folder = ""


def test_an_old_environment_offers_an_update(draw_preferences, machine, addon, preferences, online):
    machine()
    installation, uv = addon("setup.installation"), addon("setup.uv")
    places = installation.Places(preferences.folder)
    interpreter = uv.interpreter_of(places.environment)
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    locks, builds = addon("setup.locks"), addon("setup.builds")
    build = builds.find_build("linux", "x86_64", "cpu")
    places.marker.write_text(json.dumps({"build": build.name, "lock": "old"}))
    assert "Press Update Backend" in text_of(draw_preferences())
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert not bpy.ops.recdreamer.generate.poll()
    places.marker.write_text(json.dumps({"build": build.name, "lock": locks.fingerprint(build)}))
    assert "Ready:" in text_of(draw_preferences())


def test_a_diagnosis_shows_each_check_and_its_cure(
    draw_preferences, machine, addon, monkeypatch, preferences
):
    machine(("RTX 3060", (580, 95), (8, 6), 12288))
    session, row = addon("session").session, addon("setup.report").Row
    rows = (
        row("device", False, "No NVIDIA GPU.", "install"),
        row("job folder", True, f"{preferences.folder}, 8 GB free"),
    )
    session.task = SimpleNamespace(
        rows=rows, is_running=False, problem="1 of 2 checks failed.", poll=bool, cancel=bool, join=bool
    )
    seen = draw_preferences()
    assert "device: No NVIDIA GPU." in text_of(seen) and "job folder: " in text_of(seen)
    assert seen.operators.count("recdreamer.set_up_backend") == 2, "the button, and the cure"
    assert "data_folder" not in seen.props
    session.task.rows = (*rows[:1], row("job folder", False, f"{preferences.folder}, full.", "data_folder"))
    assert "data_folder" in draw_preferences().props
    session.task.rows = rows
    copied = SimpleNamespace(clipboard="")
    operator = addon("operators.setup").RECDREAMER_OT_copy_report
    operator.run(operator, SimpleNamespace(window_manager=copied))
    assert "FAIL  device: No NVIDIA GPU." in copied.clipboard and "RTX 3060" in copied.clipboard
    assert f"Blender: {bpy.app.version_string}" in copied.clipboard
    assert str(preferences.folder) not in copied.clipboard and "<data folder>, 8 GB free" in copied.clipboard
    session.task = None
    assert not bpy.ops.recdreamer.copy_report.poll()


def test_removal_with_sizes(draw_preferences, addon, preferences, monkeypatch, tmp_path, machine):
    machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = addon("session").session
    (preferences.folder / "models").mkdir(parents=True)
    (preferences.folder / "models" / "weights").write_bytes(b"x" * 20_000_000)
    (preferences.folder / "jobs").mkdir(exist_ok=True)
    assert "recdreamer.measure_backend" in draw_preferences().operators
    bpy.ops.recdreamer.measure_backend()
    session.sizes.poll(float("inf"))
    seen = draw_preferences()
    assert "Image models: 0.02 GB" in seen.texts and seen.operators.count("recdreamer.remove_backend") == 1
    assert bpy.ops.recdreamer.remove_backend(part="models") == {"FINISHED"}
    assert not (preferences.folder / "models").exists() and (preferences.folder / "jobs").exists()
    session.sizes.poll(float("inf"))
    assert "recdreamer.remove_backend" not in draw_preferences().operators


def test_where_jobs_run(preferences):
    assert preferences.where == ()
    preferences.cluster, preferences.storage = " gpu-box:10001 ", "file:///mnt/jobs"
    assert preferences.where == (), "this computer, whatever else is filled in"
    preferences.place = "cluster"
    assert preferences.where == ("--on=gpu-box:10001", "--storage=file:///mnt/jobs")
    preferences.allow_remote, preferences.storage = True, ""
    assert preferences.where == ("--on=gpu-box:10001", "--allow-remote")
    preferences.cluster = " "
    assert preferences.where[0] == "--on=localhost:10001", "never quietly here"
