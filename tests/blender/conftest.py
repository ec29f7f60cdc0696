"""The extension as artists get it: built, installed from its zip and enabled, in Blender without a window.

Run with the Python of one of .venv/blender-*: `.venv/blender-5.2/bin/python -m pytest tests/blender`.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bl_ext.user_default.recdreamer"

# Set before bpy is imported, so that the user's settings and jobs are not touched.
_scratch = tempfile.TemporaryDirectory(prefix="recdreamer-test-")
os.environ["BLENDER_USER_RESOURCES"] = str(Path(_scratch.name, "blender"))
os.environ["XDG_DATA_HOME"] = str(Path(_scratch.name, "data"))

bpy = pytest.importorskip("bpy", reason="needs one of the Blender environments")

_exit_status = 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit at once: if classes of a failed test are still registered, 4.2 crashes at exit and 4.5 hangs."""
    _scratch.cleanup()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_status)


@pytest.fixture(scope="session")
def archive() -> Path:
    return runpy.run_path(str(ROOT / "tools/build_extension.py"))["build"]()


@pytest.fixture(scope="session")
def installed(archive: Path) -> ModuleType:
    """The installed extension, which the fixture `extension` enables."""
    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=False
    )
    return archive


@pytest.fixture
def extension(installed: Path, tmp_path: Path) -> ModuleType:
    """The enabled extension, with its own data folder and an empty scene."""
    import addon_utils

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    package = addon_utils.enable(MODULE, default_set=True)
    assert package is not None, "the extension cannot be enabled"
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.data_folder = str(tmp_path / "Dätä folder")
    preferences.device = "cpu"
    preferences.check_quietly = False  # Tests of it switch it on.
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
        yield package
    addon_utils.disable(MODULE, default_set=True)
    assert not started, "Blender crashes with threads of an add-on, see child_process.py"


@pytest.fixture
def addon(extension: ModuleType) -> Callable[[str], ModuleType]:
    """A module of the installed add-on by its name."""
    return lambda name: importlib.import_module(f"{MODULE}.addon.{name}")


@pytest.fixture
def speak(addon, monkeypatch) -> Callable[[str], Callable[[str], str]]:
    """Sets the language of the interface; Blender without a window has English alone. Returns what looks up a text.

    In the language "marked" each text of a table stands between ⟦ and ⟧.
    """
    tables = addon("language.messages").read_tables()

    def speak(code: str) -> Callable[[str], str]:
        def look_up(text: str, context: str | None = None) -> str:
            if code == "marked":
                return f"⟦{text}⟧" if text in tables["de_DE"] else text
            return tables.get(code, {}).get(text, text)

        kinds = dict.fromkeys(("pgettext_iface", "pgettext_rpt", "pgettext_tip"), look_up)
        monkeypatch.setattr(addon("language.translation"), "_blender", SimpleNamespace(locale=code, **kinds))
        return look_up

    return speak


@pytest.fixture
def preferences(extension: ModuleType):
    return bpy.context.preferences.addons[MODULE].preferences


@pytest.fixture
def fake_backend(preferences, tmp_path: Path) -> Path:
    """Set a stand-in that follows the protocol as the interpreter in the preferences."""
    program = tmp_path / "fake python"
    worker = ROOT / "tests/addon/fake_worker.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{worker}" "$@"\n')
    program.chmod(0o755)
    preferences.backend_python = str(program)
    return program


@pytest.fixture
def block_out(extension: ModuleType):
    """A figure of primitives that faces -Y: body, head and nose."""
    made = []
    for add, place, scale, color in (
        (bpy.ops.mesh.primitive_cube_add, (0, 0, 0.8), (0.5, 0.3, 0.8), (0.8, 0.1, 0.1, 1)),
        (bpy.ops.mesh.primitive_uv_sphere_add, (0, 0, 2.0), (0.5, 0.5, 0.5), (0.8, 0.1, 0.1, 1)),
        (bpy.ops.mesh.primitive_cone_add, (0, -0.6, 2.0), (0.15, 0.15, 0.3), (0.9, 0.9, 0.1, 1)),
    ):
        add(location=place)
        bpy.context.object.scale = scale
        material = bpy.data.materials.new("block-out")
        material.diffuse_color = color
        bpy.context.object.data.materials.append(material)
        made.append(bpy.context.object)
    made[2].rotation_euler.x = 1.5708
    for obj in made:
        obj.select_set(True)
    return made


@pytest.fixture
def view(extension: ModuleType) -> Callable[[], AbstractContextManager]:
    """Context manager with the context of a 3D view, as for a button in its sidebar."""

    @contextmanager
    def view():
        window = bpy.context.window_manager.windows[0]
        area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
        region = next(region for region in area.regions if region.type == "WINDOW")
        with bpy.context.temp_override(window=window, area=area, region=region):
            yield area.spaces.active

    return view


@pytest.fixture
def pump_until(addon) -> Callable[..., None]:
    """Call `pump`, as Blender's timer does, until a condition holds."""

    def pump_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            addon("session").pump()
            time.sleep(0.02)

    return pump_until


@pytest.fixture
def settle(addon, pump_until):
    """Wait until the worker has ended and return the shown job."""

    def settle(timeout_s: float = 60.0):
        session = addon("session").session
        pump_until(lambda: session.registry.running is None, timeout_s)
        return session.shown

    return settle


@pytest.fixture
def settings(fake_backend):
    """Settings of a job that needs no templates."""
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a red bear", "vsd"
    return settings


@pytest.fixture
def draw(addon):
    """Draw all panels as Blender would; returns what was recorded."""
    from .recorder import draw_panels

    return lambda: draw_panels(addon)


@pytest.fixture
def sentence(addon) -> Callable[[], str]:
    """Why Generate is grayed out."""
    return lambda: addon("operators.jobs").why_not_generate(bpy.context)


@pytest.fixture
def generate(settings, settle):
    """Press Generate and wait; returns the job and the arrays of its start mesh."""

    def generate(**overrides):
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(overrides)) == {"FINISHED"}
        job = settle()
        assert job.condition == "done", job.state
        path = job.folder.root / "start/mesh.npz"
        if not path.is_file():
            return job, None
        with np.load(path, allow_pickle=False) as arrays:
            return job, {name: arrays[name] for name in arrays.files}

    return generate


@pytest.fixture
def imported(fake_backend, settle):
    """The imported object of a finished job of the fake worker, and the job."""
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.height, settings.seed = "a red béar", 1.8, 7
    assert bpy.ops.recdreamer.generate() == {"FINISHED"}
    job = settle()
    assert job.condition == "done", job.state
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}
    return bpy.context.object, job


@pytest.fixture
def draw_preferences(addon, preferences):
    def draw():
        from .recorder import RecorderLayout

        layout = RecorderLayout()
        addon("panels.backend").draw_backend(layout, preferences, bpy.context)
        return layout.record

    return draw
