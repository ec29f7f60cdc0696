"""The pictures of docs/guide.md, from first asset to History: each state in a real window, with real results.

Blender runs this at its start (see inside.sh); guide_pictures.py crops what it has taken. Where jobs of an earlier
run are given, they are opened instead of made again.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import probe  # noqa: E402

MODULE = probe.MODULE
EARLIER = HERE / "jobs"
ZOOMED_OUT = 5
DRAFT = {
    "optimize.num_steps": 110,
    "mesh.resolution": 48,
    "mesh.target_faces": 4000,
    "mesh.texture_size_px": 256,
}
TIME_LIMIT_S, ERROR_PX, ALL_PX = 1600, 940, 1100
WHOLE_PX, SETTINGS_PX, LAST_PX = 1000, 480, 900
"""Height of a picture of the 3D view, from its top, of one of the settings, and of one of the last panels."""
PANELS = ("list_of_jobs.RECDREAMER_PT_jobs", "jobs.RECDREAMER_PT_advanced")
"""Panels that are closed in a new tab."""


def addon(name: str):
    return importlib.import_module(f"{MODULE}.addon.{name}")


class Room:
    """The window with its 3D view and sidebar."""

    def __init__(self) -> None:
        self.window = bpy.context.window_manager.windows[0]
        self.area = next(area for area in self.window.screen.areas if area.type == "VIEW_3D")
        self.sidebar = next(region for region in self.area.regions if region.type == "UI")
        self.view = next(region for region in self.area.regions if region.type == "WINDOW")
        self.taken: dict[str, list[int]] = {}
        """Picture -> what of the screen it shows: left, top, right, bottom."""

    @contextmanager
    def here(self):
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.view):
            yield

    def rectangle(self, region) -> list[int]:
        top = self.window.height - region.y - region.height
        return [region.x, top, region.x + region.width, top + region.height]

    def frame(self) -> None:
        """Show the selected objects with some room around them. To be called `here`."""
        bpy.ops.view3d.view_selected()
        for _ in range(ZOOMED_OUT):
            bpy.ops.view3d.zoom(delta=-1)

    def end_of_tab(self, name: str) -> Iterator[float]:
        """Take a picture of the last panels of a tab that is longer than the screen."""
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.sidebar):
            bpy.ops.view2d.pan(deltay=-3000)
        yield from self.settle()
        left, top, right, bottom = self.rectangle(self.sidebar)
        yield from self.see(name, [left, top, right, bottom, LAST_PX])
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.sidebar):
            bpy.ops.view2d.pan(deltay=3000)
        yield from self.settle()

    def tab(self, name: str, height_px: int = 2000) -> Iterator[float]:
        """Take a picture of the tab alone, or of the panels at its top that are so high."""
        yield from self.settle()
        left, top, right, bottom = self.rectangle(self.sidebar)
        rectangle = [left, top, right, min(bottom, top + height_px)]
        yield from self.see(name, [*rectangle, -1] if height_px == ALL_PX else rectangle)

    def whole(self, name: str, height_px: int = WHOLE_PX) -> Iterator[float]:
        """Take a picture of the 3D view with the sidebar, in which pictures are read one after another."""
        yield from self.settle()
        left, top, right, bottom = self.rectangle(self.area)
        yield from self.see(name, [left, top, right, min(bottom, top + height_px)])

    def settle(self) -> Iterator[float]:
        """Let the panels slide into their places, and the timer read their pictures."""
        for _ in range(10):
            self.area.tag_redraw()
            yield 0.3

    def see(self, name: str, rectangle: list[int]) -> Iterator[float]:
        self.area.tag_redraw()
        yield from probe.see(name)
        self.taken[name] = rectangle
        (HERE / "out" / "guide.json").write_text(json.dumps(self.taken))

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place of the 3D view, in shares of its size from the top left."""
        left, top, right, bottom = self.rectangle(self.area)
        place = (left + x * (right - left), top + y * (bottom - top))
        subprocess.run(["xdotool", "mousemove", *(str(round(number)) for number in place)], check=True)

    def popup(self, picture: str, operator, **properties) -> Iterator[float]:
        """Take a picture of a menu or dialog at the mouse, and leave it."""
        self.point(0.35, 0.25)
        yield 0.5
        with self.here():
            operator("INVOKE_DEFAULT", **properties)
        yield 1.0
        left, top, right, _ = self.rectangle(self.area)
        yield from self.see(picture, [left, top, right, top + WHOLE_PX])
        subprocess.run(["xdotool", "key", "Escape"], check=True)
        yield 0.5
        self.point(0.3, 0.95)
        yield 0.5


def script() -> Iterator[float]:
    room = Room()
    probe.install()
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.check_quietly = "", False
    bpy.context.preferences.system.use_online_access = True
    bpy.context.preferences.view.show_tooltips = False  # One would hide the menu at the mouse.
    room.sidebar = yield from probe.open_sidebar(room.area)
    room.point(0.3, 0.95)
    session, settings = addon("session").session, bpy.context.scene.recdreamer
    yield from until(lambda: session.hardware.machine is not None)
    yield from room.tab("set-up")
    preferences.backend_python = os.environ["BACKEND_PYTHON"]
    room.area.tag_redraw()
    yield from until(lambda: session.models.is_known)
    yield from room.tab("new")

    yield from templates(room, session, settings)
    bear = yield from first_asset(room, session, settings)
    yield from starts(room, settings, bear)
    yield from variations(room, session, settings)
    yield from history(room, session, settings, bear)
    bpy.context.preferences.view.language = "de_DE"
    yield 1.0
    yield from german(room, session, settings, bear)
    shutil.copytree(preferences.folder / "jobs", HERE / "out" / "jobs")
    yield from nothing_stays()


def first_asset(room: Room, session, settings) -> Iterator[float]:
    settings.prompt = "a red bear"
    yield from room.tab("prompt")
    settings.quality, settings.seed = "quick", 3
    yield from room.popup("presets", bpy.ops.wm.call_menu, name="RECDREAMER_MT_presets")
    job = find_earlier(session, "bear")
    if job is None:
        with room.here():
            assert bpy.ops.recdreamer.generate() == {"FINISHED"}
        job = session.shown
        yield from until(lambda: job.state.stage == "shape" and job.state.step > 0.6 * job.state.total)
        yield from room.tab("running")
        yield from enlarged(room)
        yield from room.popup("stop", bpy.ops.recdreamer.cancel)
        yield from until(lambda: job.client is None)
    else:
        yield from enlarged(room)
    assert job.condition == "done", f"{job.condition}: {job.state.message} {job.state.hint}"
    name(job, "bear")
    yield from room.tab("done")
    room.area.spaces.active.shading.color_type = "MATERIAL"
    with room.here():
        assert bpy.ops.recdreamer.import_result("EXEC_DEFAULT", True) == {"FINISHED"}
        room.frame()
    yield 1.5
    yield from room.whole("imported")
    return job


def enlarged(room: Room) -> Iterator[float]:
    bpy.ops.recdreamer.enlarge(state="ON")
    yield from room.whole("enlarged", 2000)  # The overlay is in the lower corner.
    bpy.ops.recdreamer.enlarge(state="OFF")


def templates(room: Room, session, settings) -> Iterator[float]:
    """Before the first job, so that the tab is short."""
    settings.prompt = "a red bear"
    parts = probe.build_block_out()
    with room.here():
        assert bpy.ops.recdreamer.capture_turntable() == {"FINISHED"}
        room.frame()
    settings.show_front = True
    yield 1.0
    yield from room.whole("templates")
    settings.show_front = False
    with room.here():
        assert bpy.ops.recdreamer.check_templates() == {"FINISHED"}
    yield from wait_for_errand(session)
    settings.shelf_view = "MASK"
    yield from room.tab("check")
    settings.shelf_view = "PICTURE"
    bpy.ops.recdreamer.clear_templates()
    with room.here():
        assert bpy.ops.recdreamer.draw_samples() == {"FINISHED"}
    yield from wait_for_errand(session)
    yield 3.0  # The pictures are read one after another.
    for index in (0, 1, 6):
        bpy.ops.recdreamer.pick_sample(index=index, state="ON")
    yield from room.tab("suggested", ALL_PX)
    bpy.ops.recdreamer.discard_gallery()
    for part in parts:
        bpy.data.objects.remove(part)


def starts(room: Room, settings, bear) -> Iterator[float]:
    (obj,) = [obj for obj in bpy.data.objects if obj.type == "MESH" and obj.name == bear.request.prompt]
    bpy.context.view_layer.objects.active = obj
    obj.select_set(True)
    settings.start.object = obj
    for kind, picture in (
        ("object", "start-object"),
        ("texture", "start-paint"),
        ("continue", "start-result"),
    ):
        settings.start.kind = kind
        if kind == "continue":
            settings.start.job = bear.id
        yield from room.tab(picture, SETTINGS_PX)
    settings.start.kind = "prompt"


def variations(room: Room, session, settings) -> Iterator[float]:
    """Four drafts, of fewer steps than an artist would wait for."""
    siblings = addon("operators.queue").siblings
    drafts = [find_earlier(session, f"draft-{index}") for index in range(4)]
    drafts = [draft for draft in drafts if draft is not None]
    if len(drafts) < 2:
        queue = addon("operators.queue")
        prepared = queue.prepared_request

        def smaller(*arguments, **options):
            request, files = prepared(*arguments, **options)
            return replace(request, overrides=DRAFT), files

        queue.prepared_request = smaller
        settings.start.run_geometry = settings.start.run_texture = False
        with room.here():
            assert bpy.ops.recdreamer.vary(count=4) == {"FINISHED"}
        queue.prepared_request = prepared
        yield from until(lambda: session.registry.running is not None)
        yield 3.0
        yield from room.tab("queue")
        yield from until(lambda: not session.registry.queue.turns and session.registry.running is None)
        drafts = siblings(session.shown)
        settings.start.run_geometry = settings.start.run_texture = True
    for index, draft in enumerate(drafts):
        name(draft, f"draft-{index}")
    session.shown_id = drafts[0].id
    yield 2.0
    yield from room.tab("variations")


def history(room: Room, session, settings, bear) -> Iterator[float]:
    originals = [
        getattr(addon(f"panels.{path.partition('.')[0]}"), path.partition(".")[2]) for path in PANELS
    ]
    opened = [type(f"{cls.__name__}_open", (cls,), {"bl_options": set()}) for cls in originals]
    for cls, new in zip(originals, opened, strict=True):
        bpy.utils.unregister_class(cls)
        bpy.utils.register_class(new)
    bpy.ops.recdreamer.pin_job(job_id=bear.id, pin=True)
    drafts = addon("operators.queue").siblings(session.shown)
    bpy.ops.recdreamer.compare_job(job_id=bear.id, state="ON")
    session.shown_id = drafts[0].id
    yield 3.0
    yield from room.end_of_tab("history")
    session.shown_id = bear.id
    bpy.ops.recdreamer.compare_job(job_id=bear.id, state="OFF")
    yield from room.popup("clean-up", bpy.ops.recdreamer.clean_up, kind="DRAFTS", days=0)
    for cls, new in zip(originals, opened, strict=True):
        bpy.utils.unregister_class(new)
        bpy.utils.register_class(cls)
    yield from room.popup("menu", bpy.ops.wm.call_menu, name="RECDREAMER_MT_actions")

    # An error with its next step. The record is written by hand: no GPU runs out of memory here.
    state = json.loads(drafts[1].folder.state.read_text())
    kept = drafts[1].folder.state.read_text()
    message = "There is not enough memory for this job."
    hint = "Close other programs, or use the quick quality or fewer views per step."
    state |= {"status": "failed", "kind": "out_of_memory", "message": message, "hint": hint}
    drafts[1].folder.state.write_text(json.dumps(state))
    session.shown_id = drafts[1].id
    yield 3.0
    yield from room.tab("error", ERROR_PX)
    if bpy.context.preferences.view.language != "de_DE":
        bpy.context.preferences.view.language = "de_DE"
        yield 1.0
        yield from room.tab("error-german", ERROR_PX)
        bpy.context.preferences.view.language = "DEFAULT"
    drafts[1].folder.state.write_text(kept)
    session.shown_id = bear.id
    yield 2.0
    yield from preferences_window(room, "preferences")


def preferences_window(room: Room, name: str) -> Iterator[float]:
    with room.here():
        bpy.ops.recdreamer.open_preferences()
    yield 3.0
    yield from room.see(name, [0, 0, 1600, 1500])
    (opened,) = (window for window in bpy.context.window_manager.windows if window != room.window)
    with bpy.context.temp_override(window=opened):
        bpy.ops.wm.window_close()
    yield 1.0


def german(room: Room, session, settings, bear) -> Iterator[float]:
    session.shown_id = bear.id
    yield from room.whole("german")
    yield from room.tab("german-tab")
    yield from room.popup("german-menu", bpy.ops.wm.call_menu, name="RECDREAMER_MT_actions")
    settings.start.kind = "object"
    yield from room.tab("german-start")
    settings.start.kind = "prompt"
    yield from preferences_window(room, "german-preferences")
    tell = bpy.app.translations.pgettext_iface
    assert tell("History", "RecDreamer") == "Verlauf" and tell("Pin", "RecDreamer") == "Anheften"


def nothing_stays() -> Iterator[float]:
    """Register and unregister fifty times: Blender refuses to register a table of translations twice."""
    import addon_utils

    package = f"{MODULE}.addon"
    for _ in range(50):
        addon_utils.disable(MODULE)
        bpy.app.translations.register(package, {})
        bpy.app.translations.unregister(package)
        assert not [name for name in dir(bpy.types) if name.startswith("RECDREAMER_")]
        assert addon_utils.enable(MODULE) is not None
        yield 0.05
    (HERE / "out" / "registered-50-times.txt").write_text("ok\n")


def name(job, words: str) -> None:
    """Remember what a job is, for a later run."""
    (job.folder.root / "guide.txt").write_text(words)


def find_earlier(session, words: str):
    """A job of an earlier run, copied into the data folder."""
    for path in sorted(EARLIER.glob("*/guide.txt")):
        if path.read_text() == words:
            target = session.registry.data_folder / "jobs" / path.parent.name
            if not target.exists():
                shutil.copytree(path.parent, target)
            session.registry.poll()
            job = session.registry.find(target.name)
            session.shown_id = target.name
            return job
    return None


def wait_for_errand(session) -> Iterator[float]:
    yield from until(lambda: not session.errand.task.is_running)
    assert not session.errand.task.problem, session.errand.task.problem


def until(condition, limit_s: float = TIME_LIMIT_S) -> Iterator[float]:
    import time

    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        yield 0.2


if __name__ == "__main__":
    probe.run(script())
