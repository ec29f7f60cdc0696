"""Everything that the extension registers is removed when it is disabled."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import addon_utils
import bpy

MODULE = "bl_ext.user_default.recdreamer"


def registered() -> set[str]:
    """Everything that the extension has registered in Blender."""
    classes = {name for name in dir(bpy.types) if name.lower().startswith("recdreamer")}
    operators = {f"operator {name}" for name in dir(bpy.ops.recdreamer)}
    properties = {"scene property"} if hasattr(bpy.types.Scene, "recdreamer") else set()
    handlers = {
        f"handler {name}"
        for name in dir(bpy.app.handlers)
        if isinstance(getattr(bpy.app.handlers, name), list)
        for function in getattr(bpy.app.handlers, name)
        if function.__module__.startswith(MODULE)
    }
    return classes | operators | properties | handlers


def test_disabling_leaves_nothing(extension, fake_backend, addon, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides='{"steps": 3000}')
    session = addon("session")
    job = session.session.shown
    pump_until(lambda: job.state.step > 2)
    tick, pid = session._tick, job.client._process.pid
    assert registered() and bpy.app.timers.is_registered(tick)

    addon_utils.disable(MODULE, default_set=True)

    assert registered() == set()
    assert not bpy.app.timers.is_registered(tick)

    def left() -> list:
        return [path for path in [Path(f"/proc/{pid}")] if path.exists()]

    # Blender does not wait for the worker, which saves by itself.
    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []
    assert job.folder.read_state().status == "paused"


def test_enabling_again_finds_the_jobs(extension, fake_backend, addon, settle, preferences):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    job_id, folder = settle().id, preferences.data_folder
    addon_utils.disable(MODULE, default_set=True)
    addon_utils.enable(MODULE, default_set=True)
    bpy.context.preferences.addons[MODULE].preferences.data_folder = folder
    assert addon("session").session.shown.id == job_id
    assert addon("session").session.shown.condition == "done"


def test_the_scene_holds_no_job_state(extension):
    names = set(bpy.context.scene.recdreamer.bl_rna.properties.keys()) - {"rna_type", "name"}
    assert names == {
        "prompt", "method", "pose_mode", "quality", "seed", "height", "keep_running", "templates",
        "front", "show_front", "show_target", "shelf_view", "start", "texture_px", "face_count",
    }  # fmt: skip


def test_only_the_shared_files_of_the_backend_are_imported(extension):
    names = {
        name.removeprefix(f"{MODULE}.backend") for name in sys.modules if name.startswith(f"{MODULE}.backend")
    }
    shared = {
        "protocol", "safe_files", "json_values", "folder_lock", "device_lock", "job_state", "worlds", "uv_map",
        "material_slots", "doubled_faces", "start_check", "prompt_words", "parent_process",
    }  # fmt: skip
    assert names == {"", ".recdreamer", ".recdreamer.shared"} | {
        f".recdreamer.shared.{name}" for name in shared
    }
    assert "torch" not in sys.modules


def test_installing_over_itself_works(extension, archive):
    result = bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True
    )
    assert result == {"FINISHED"}
    assert bpy.ops.recdreamer.random_seed() == {"FINISHED"}
