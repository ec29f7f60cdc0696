"""Install Backend by mouse, on the network of this computer: canceled, gone on with, and to its end, good or bad.

Blender runs this at its start (see inside.sh). The last picture and install.log say how far it came.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import clicks  # noqa: E402
import probe  # noqa: E402
from clicks import Hand, press, see, until  # noqa: E402


def script() -> Iterator[float]:
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    hand = Hand(window)
    clicks.install()
    yield from probe.open_sidebar(area)
    bpy.context.preferences.system.use_online_access = True
    session = importlib.import_module(f"{probe.MODULE}.addon.session").session
    yield from until(lambda: session.hardware.ask() is not None, 60)
    area.tag_redraw()
    yield from see(hand, "install-1-ready")
    yield from press(hand, area, "recdreamer.set_up_backend")
    yield from until(lambda: session.task is not None, 30)
    yield 2.0
    area.tag_redraw()
    yield from see(hand, "install-2-running")
    if session.task.is_running:
        yield from press(hand, area, "recdreamer.cancel_backend_task", columns=(0.81, 0.79, 0.84))
        yield from until(lambda: not session.task.is_running, 60)
        area.tag_redraw()
        yield from see(hand, "install-3-canceled")
        yield from press(hand, area, "recdreamer.set_up_backend")
        yield 1.0
    yield from until(lambda: not session.task.is_running)
    area.tag_redraw()
    yield from see(hand, "install-4-ended")
    print("ended with:", session.task.problem or "no problem", flush=True)
    preferences = bpy.context.preferences.addons[probe.MODULE].preferences
    shutil.copy(preferences.folder / "install.log", HERE / "out" / "install.log")
    if session.task.problem:
        yield from press(hand, area, "recdreamer.open_install_log")
        yield 2.0
        yield from probe.see("install-5-log")
        bpy.ops.recdreamer.open_preferences()
        yield 3.0
        yield from probe.see("install-6-preferences")


if __name__ == "__main__":
    probe.run(script())
