"""The way of a first-time artist by mouse and keys: from the installed zip to a first asset, then Stable Diffusion.

Blender runs this at its start (see inside.sh). A button is found by what Blender itself says is under the mouse, and
pressed with xdotool, so that poll, invoke, menus and dialogs are those that an artist meets. The hub is on 127.0.0.1,
in a network without any other computer.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import probe  # noqa: E402

MODULE = probe.MODULE
TIME_LIMIT_S = 1500
SETTLE_S = 0.12
"""Time for Blender to notice where the mouse is."""
STEP_PX = 9
"""Less than half of the height of a button."""
FINE_PX = 3
REST = (500, 500)
"""Where the mouse waits while a picture is taken: in the 3D view."""


ONLINE_ACCESS = (650, 328)
"""Of the screen: Blender has no name for a button of its own preferences."""


class Hand:
    """Mouse and keyboard, and how often they were used."""

    def __init__(self, window: bpy.types.Window) -> None:
        self.window = window
        self.clicks: list[str] = []
        """What was clicked on, in order."""

    def do(self, *words: object) -> None:
        subprocess.run(["xdotool", *map(str, words)], check=True)

    def move(self, x: float, y: float) -> None:
        """To a point of the window; y counts from its bottom, as in Blender."""
        self.do("mousemove", round(self.window.x + x), round(SCREEN_PX - self.window.y - y))

    def click(self, name: str, place: tuple[float, float]) -> Iterator[float]:
        self.move(*place)
        yield 0.5
        self.do("mousedown", 1)
        yield 0.1
        self.do("mouseup", 1)
        self.clicks.append(name)
        yield 0.6

    def type(self, text: str) -> Iterator[float]:
        self.do("type", "--delay", 60, text)
        yield 0.4

    def key(self, *names: str) -> Iterator[float]:
        self.do("key", *names)
        yield 0.4

    def rest(self) -> None:
        self.move(*REST)


SCREEN_PX = 1000


def under_mouse(hand: Hand, area: bpy.types.Area, region: bpy.types.Region) -> str:
    """What Blender would call the button under the mouse in Python; empty if there is none."""
    window_manager = bpy.context.window_manager
    with bpy.context.temp_override(window=hand.window, area=area, region=region):
        for operator, options in (
            (bpy.ops.ui.copy_python_command_button, {}),
            (bpy.ops.ui.copy_data_path_button, {"full_path": True}),
        ):
            window_manager.clipboard = ""
            try:
                if operator.poll() and operator(**options) == {"FINISHED"} and window_manager.clipboard:
                    return window_manager.clipboard
            except RuntimeError:
                continue
    return ""


def find(hand: Hand, area: bpy.types.Area, kind: str, name: str, columns=(0.5, 0.3, 0.8)) -> Iterator[float]:
    """Move the mouse over a region until the button `name` is below it. Returns the middle of its height, or None: at
    its edge a click would miss it if the tab moves by a pixel."""
    region = next(region for region in area.regions if region.type == kind)
    for column in columns:
        for y in range(region.y + region.height - 6, region.y + 4, -STEP_PX):
            place = (region.x + region.width * column, y)
            hand.move(*place)
            yield SETTLE_S
            if name in under_mouse(hand, area, region):
                ends = []
                for step in (FINE_PX, -FINE_PX):
                    end = y
                    for _ in range(10):
                        hand.move(place[0], end + step)
                        yield SETTLE_S
                        if name not in under_mouse(hand, area, region):
                            break
                        end += step
                    ends.append(end)
                return (place[0], sum(ends) / 2)
    return None


def press(hand: Hand, area: bpy.types.Area, name: str, kind: str = "UI", **options) -> Iterator[float]:
    place = yield from find(hand, area, kind, name, **options)
    assert place is not None, f"there is no button {name}"
    yield from hand.click(name, place)


def ask(hand: Hand, area: bpy.types.Area, name: str, **options) -> Iterator[float]:
    """Press a button of the sidebar that opens a menu. A click that comes while Blender draws the tab anew is lost."""
    sidebar = next(region for region in area.regions if region.type == "UI")
    for _ in range(3):
        area.tag_redraw()
        yield from press(hand, area, name, **options)
        if name not in under_mouse(hand, area, sidebar):
            return
    raise AssertionError(f"{name} opens no menu")


def see(hand: Hand, name: str) -> Iterator[float]:
    hand.rest()
    yield from probe.see(name)


def until(condition, limit_s: float = TIME_LIMIT_S, step_s: float = 0.2) -> Iterator[float]:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        yield step_s


def script() -> Iterator[float]:
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    hand = Hand(window)
    install()
    sidebar = next(region for region in area.regions if region.type == "UI")
    hand.rest()
    yield 1.0
    yield from hand.key("n")
    yield from open_tab(hand, area, sidebar)
    yield 2.0
    yield from see(hand, "01-no-backend")

    # Offline, the reason has a button that leads to the setting.
    yield from press(hand, area, "screen.userpref_show")
    yield 2.0
    yield from allow_online(hand)
    yield from see(hand, "02-online")

    # The backend of the checkout stands in for the installed one: a download of gigabytes is no test.
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python = os.environ["BACKEND_PYTHON"]
    session = importlib.import_module(f"{MODULE}.addon.session").session
    area.tag_redraw()
    yield from until(lambda: session.models.is_known, 60)
    yield from see(hand, "03-ready")
    before = len(hand.clicks)

    # A first asset with the built-in model: the prompt, Generate, Import.
    settings = bpy.context.scene.recdreamer
    settings.quality = "quick"  # So that the walk takes minutes; not needed for anything else.
    yield from press(hand, area, "recdreamer.prompt")
    yield from hand.type("a wooden chair")
    yield from hand.key("ctrl+Return")
    hand.rest()
    yield 1.0
    yield from see(hand, "04-unknown-words")
    assert settings.prompt == "a wooden chair", settings.prompt
    settings.prompt = ""
    if os.environ.get("FROM", "") != "models":
        yield from first_asset(hand, area, session, settings)
        (HERE / "out" / "first-asset.json").write_text(json.dumps(hand.clicks[before:], indent=1))
    yield from stable_diffusion(hand, area, session, settings)
    (HERE / "out" / "clicks.json").write_text(json.dumps(hand.clicks, indent=1))


def install() -> None:
    (archive,) = HERE.glob("recdreamer-*.zip")
    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True
    )


def open_tab(hand: Hand, area: bpy.types.Area, sidebar: bpy.types.Region) -> Iterator[float]:
    """Click down the tabs of the sidebar until ours is shown; one click for whoever can read."""
    for y in range(area.y + area.height - 60, area.y + area.height - 500, -25):
        hand.move(area.x + area.width - 12, y)
        yield 0.1
        hand.do("click", 1)
        yield 0.4
        if sidebar.active_panel_category == "RecDreamer":
            hand.clicks.append("tab RecDreamer")
            return
    raise AssertionError("there is no tab RecDreamer")


def allow_online(hand: Hand) -> Iterator[float]:
    """Tick Allow Online Access in the window that has opened, and close it."""
    (opened,) = (window for window in bpy.context.window_manager.windows if window != hand.window)
    assert bpy.context.preferences.active_section == "SYSTEM"
    yield from probe.see("01b-system")
    hand.do("mousemove", *ONLINE_ACCESS)
    yield 0.3
    hand.do("click", 1)
    hand.clicks.append("Allow Online Access")
    yield from until(lambda: bpy.context.preferences.system.use_online_access, 10)
    with bpy.context.temp_override(window=opened):  # There is no window manager with a button for it.
        bpy.ops.wm.window_close()
    yield 1.0


def first_asset(hand: Hand, area, session, settings) -> Iterator[float]:
    del hand.clicks[-1:]  # The words that were tried.
    yield from press(hand, area, "recdreamer.prompt")
    yield from hand.type("a red bear")
    yield from hand.key("ctrl+Return")
    yield from press(hand, area, "recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from until(lambda: job.client is None or job.preview is not None)
    yield from see(hand, "05-running")
    yield from press(hand, area, "recdreamer.enlarge", columns=(0.8, 0.82))
    yield from see(hand, "05b-enlarged")
    yield from press(hand, area, "recdreamer.enlarge", columns=(0.8, 0.82))
    del hand.clicks[-2:]  # Not needed for the first asset.
    settings.show_front = True
    yield from see(hand, "05c-front-and-ring")
    settings.show_front = False
    yield from until(lambda: job.client is None)
    assert job.condition == "done", f"{job.condition}: {job.state.message} {job.state.hint}"
    area.tag_redraw()
    yield from see(hand, "06-done")
    area.spaces.active.shading.color_type = "TEXTURE"
    yield from press(hand, area, "recdreamer.import_result")
    yield from until(lambda: "a red bear" in bpy.data.objects, 30)
    yield from see(hand, "07-imported")


def stable_diffusion(hand: Hand, area, session, settings) -> Iterator[float]:
    """Get Stable Diffusion: size and license, reading it, accepting it, progress, cancel, going on, the end."""
    models = session.models
    yield from press(hand, area, "recdreamer.get_model")
    yield from until(lambda: models.task and not models.task.is_running, 120)
    assert models.task.plan, models.task.problem
    area.tag_redraw()
    yield from see(hand, "08-license-and-size")
    place = yield from find(hand, area, "UI", "recdreamer.read_license")
    yield from hand.click("recdreamer.read_license", place)
    yield 1.0
    yield from probe.see("09-license")
    yield from hand.key("Escape")
    yield from press(hand, area, "recdreamer.accept_license")
    yield from until(lambda: models.task.factor > 0.05 or not models.task.is_running, 120, 0.05)
    assert models.task.is_running, models.task.problem
    area.tag_redraw()
    yield from see(hand, "10-downloading")
    yield from press(hand, area, "recdreamer.cancel_models", columns=(0.81, 0.79))
    yield from until(lambda: not models.task.is_running, 30)
    area.tag_redraw()
    yield from see(hand, "11-canceled")
    (HERE / "fast").touch()
    yield from press(hand, area, "recdreamer.get_model")
    yield from until(lambda: not models.task.is_running, 240)
    assert not models.task.problem and not models.task.is_dry, models.task.problem
    yield from until(lambda: models.find("taesd").state == "installed", 60)
    area.tag_redraw()
    preferences = bpy.context.preferences.addons[MODULE].preferences
    assert preferences.image_model == "stable-diffusion-2-1-base"
    settings.prompt = "a wooden chair"
    yield from see(hand, "12-stable-diffusion")
    yield from press(hand, area, "recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from until(lambda: job.client is None or job.state.stage not in ("", "starting"), 300)
    yield from see(hand, "13-own-prompt")
    assert job.request.prior == "stable-diffusion-2-1-base" and job.condition == "running", job.state.message
    yield from ask(hand, area, "recdreamer.cancel(", columns=(0.6, 0.7))
    yield from probe.see("13-stop-asks")
    yield from hand.key("k")  # Keep for Later.
    yield from until(lambda: job.client is None, 120)

    # An error with its next step. The record is written by hand: no GPU runs out of memory here.
    state = json.loads(job.folder.state.read_text())
    state |= {
        "status": "failed",
        "kind": "out_of_memory",
        "message": "There is not enough memory for this job.",
    }
    job.folder.state.write_text(json.dumps(state | {"hint": "Close other programs, or make it smaller."}))
    yield 2.0
    yield from see(hand, "14-error")
    place = yield from find(hand, area, "UI", "recdreamer.retry")
    assert place is not None

    bpy.ops.recdreamer.open_preferences()
    yield 3.0
    yield from probe.see("15-preferences")


if __name__ == "__main__":
    probe.run(script())
