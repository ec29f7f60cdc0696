"""The rest of an artist's loop by mouse and keys: keys alone, a render, Stop and its choices, History, meshes, cards.

Blender runs this at its start (see inside.sh). Jobs have fewer steps than an artist's, so that the walk takes minutes.
FROM is the first part; without the first two, History's results come from two short jobs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import clicks  # noqa: E402
import probe  # noqa: E402
import undo  # noqa: E402
from clicks import ask, find, until  # noqa: E402
from tab import ROW_PX, Tab  # noqa: E402
from undo import MODULE, addon, done, note, ready, type_prompt  # noqa: E402

clicks.SCREEN_PX, clicks.STEP_PX = 1400, 16
FEW, MANY = int(os.environ["NUM_STEPS"]), 600
"""Steps of a job that is to be done, and of one that is to be stopped before."""
F3, F12 = "69", "96"
"""Codes of keys: for their names, xdotool holds Alt, too."""
SCROLL_DOWN = 5
PAUSES = (569, 795)
"""Of the screen: Blender has no name for a button of the preferences."""
BEAR, BIRD, ROBOT, RABBIT = "a red bear", "a blue bird", "a yellow robot", "a purple rabbit"
PREVIEW = "RecDreamer Preview"
WORDS_PX, STATE_PX, CLEAR = 170, 194, 0.805
"""From the buttons above History's list down to the two fields of its filter; and where in the width of the sidebar the
button is that clears the words."""


def script() -> Iterator[float]:
    clicks.install()
    walk = Tab()
    yield from ready(walk)
    parts = {part.__name__: part for part in (by_keys, stopped, rendered, deleted, history, meshes, cards)}
    names = list(parts)
    for name in names[names.index(os.environ.get("FROM") or names[0]) :]:
        note("part", name)
        if name in ("history", "meshes") and not with_results(walk):
            yield from results(walk)
        yield from parts[name](walk)
    note("part", "all")


def with_results(walk: Tab) -> bool:
    return {BEAR, BIRD} <= {job.request.prompt for job in walk.session.registry.jobs}


def results(walk: Tab) -> Iterator[float]:
    """What the first parts leave behind: the results of two jobs."""
    undo.SMALL["optimize.num_steps"] = FEW
    for prompt in (BEAR, BIRD):
        yield from type_prompt(walk, prompt)
        yield from walk.press("recdreamer.generate")
    yield from walk.see("00-waits")
    yield from done(walk.job_of(BEAR))
    yield from done(walk.job_of(BIRD))


def by_keys(walk: Tab) -> Iterator[float]:
    """Prompt, Generate and Import without a click; the mouse rests over the 3D view."""
    clicked = len(walk.hand.clicks)
    yield from walk.over_view()
    yield from walk.keys("ctrl+alt+r", "w")
    yield from probe.see("01-menu-of-all-actions")
    yield from walk.keys("Return")
    assert bpy.context.scene.recdreamer.prompt == BEAR, bpy.context.scene.recdreamer.prompt
    yield from probe.see("02-prompt-by-keys")
    undo.SMALL["optimize.num_steps"] = FEW
    yield from walk.keys("ctrl+alt+r", "g")
    yield from until(lambda: walk.session.registry.running is not None, 30)
    job = walk.session.registry.running
    yield from until(lambda: job.preview is not None or job.client is None, 300)
    yield from walk.see("03-generated-by-keys")
    yield from done(job)
    yield from walk.keys("ctrl+alt+o")
    yield from until(lambda: BEAR in bpy.data.objects, 30)
    yield from walk.see("04-imported-by-keys")
    assert len(walk.hand.clicks) == clicked


def stopped(walk: Tab) -> Iterator[float]:
    """Stop, and Import What Is There."""
    yield from type_prompt(walk, BIRD)
    undo.SMALL["optimize.num_steps"] = MANY
    yield from walk.over_view()
    yield from walk.keys("ctrl+alt+n")
    job = yield from walk.at_work(12)
    yield from ask(walk.hand, walk.area, "recdreamer.cancel(", columns=(0.6, 0.7))
    yield from probe.see("05-stop-asks")
    yield from walk.keys("i")
    walk.hand.rest()
    yield from until(lambda: job.client is None or job.client.stopping, 10)
    yield from walk.see("06-stopping")
    yield from until(lambda: BIRD in bpy.data.objects)
    yield from walk.see("07-what-was-there")
    steps = job.request.overrides["optimize.num_steps"]
    note("steps of the job that was stopped", steps)
    assert job.condition == "done" and 12 <= steps < MANY and job.request.stages == ("shape",)
    assert len(bpy.data.objects[BIRD].data.polygons) > 100
    assert not walk.session.registry.queue.turns and walk.session.registry.running is None


def rendered(walk: Tab) -> Iterator[float]:
    """A render pauses the job, which goes on afterwards."""
    preferences = bpy.context.preferences.addons[MODULE].preferences
    scene = bpy.context.scene
    scene.render.engine = "BLENDER_WORKBENCH"
    scene.render.resolution_x, scene.render.resolution_y = 1600, 1200
    scene.display.render_aa = "16"  # So that it takes some seconds.
    scene.recdreamer.prompt = ROBOT
    undo.SMALL["optimize.num_steps"] = MANY
    yield from walk.over_view()
    yield from switch_pauses(walk)
    assert preferences.pause_while_rendering
    yield from walk.over_view()
    yield from walk.keys(F3)
    yield from walk.hand.type("Generate")
    yield 0.5
    yield from probe.see("09-search")
    yield from walk.keys("Return")
    job = yield from walk.at_work(6)
    conditions: list[str] = []

    def is_now(wanted: str) -> bool:
        if job.condition not in conditions[-1:]:
            conditions.append(job.condition)
        return job.condition == wanted

    at_its_end: list[str] = []

    def note_end(*_) -> None:
        at_its_end.append(job.condition)

    bpy.app.handlers.render_complete.insert(0, note_end)
    yield from walk.keys(F12)
    yield from until(lambda: is_now("pausing"), 60, 0.02)
    at = job.state.step
    yield from until(lambda: at_its_end, 120, 0.02)
    yield from probe.see("10-rendered")
    bpy.app.handlers.render_complete.remove(note_end)
    assert at_its_end[0] in ("pausing", "paused"), "it does not go on before the end of the render"
    yield from until(
        lambda: is_now("running") and job.state.stage == "shape" and job.state.step > at + 2, step_s=0.02
    )
    note("conditions at the end of the render, and around it", [*at_its_end, conditions])
    yield from probe.see("11-goes-on")
    assert (job.folder.root / "events.jsonl").read_text().count('"paused"') == 1
    yield from walk.keys("Escape")
    yield 1.0
    yield from walk.see("12-render-closed")
    preferences.pause_while_rendering = False


def switch_pauses(walk: Tab) -> Iterator[float]:
    """Click Pause While Rendering, near the end of the preferences."""
    yield from walk.keys("ctrl+alt+r", "o")
    yield 3.0
    walk.hand.do("click", "--repeat", 60, "--delay", 5, SCROLL_DOWN)
    yield 1.0
    walk.hand.do("mousemove", *PAUSES)
    yield 0.3
    walk.hand.do("click", 1)
    walk.hand.clicks.append("Pause While Rendering")
    yield from probe.see("08-preferences")
    (opened,) = (window for window in bpy.context.window_manager.windows if window != walk.window)
    with bpy.context.temp_override(window=opened):  # There is no window manager with a button for it.
        bpy.ops.wm.window_close()
    yield 1.0


def deleted(walk: Tab) -> Iterator[float]:
    """Stop, and Delete: the folder is gone, and nothing else is, such as a job that has waited for it."""
    registry = walk.session.registry
    if registry.running is None:
        undo.SMALL["optimize.num_steps"] = MANY
        yield from type_prompt(walk, ROBOT)
        yield from walk.press("recdreamer.generate")
    job = yield from walk.at_work(3)
    yield from type_prompt(walk, RABBIT)
    yield from walk.press("recdreamer.generate")
    waiting = walk.job_of(RABBIT)
    yield from until(lambda: waiting.is_waiting, 10)
    yield from walk.see("13-waits")
    assert addon("panels.job_progress").why_waiting(waiting) == f"It starts after “{ROBOT}”."
    yield from walk.press("recdreamer.leave_queue")
    assert waiting.condition == "queued" and not registry.queue.turns
    yield from walk.press("recdreamer.show_running", columns=(0.7,))
    assert walk.session.shown is job
    before = walk.folders()
    objects = sorted(obj.name for obj in bpy.data.objects if obj.name != PREVIEW)
    yield from ask(walk.hand, walk.area, "recdreamer.cancel(", columns=(0.6, 0.7))
    yield from probe.see("14-stop-asks")
    yield from walk.keys("d")
    walk.hand.rest()
    yield from until(lambda: job not in registry.jobs)
    yield from walk.see("15-deleted")
    assert before.pop(job.id) and walk.folders() == before
    assert sorted(obj.name for obj in bpy.data.objects) == objects
    assert not registry.queue.turns and registry.running is None


def history(walk: Tab) -> Iterator[float]:
    """Pin, filter, comparison of settings, and A / B in the viewport."""
    session, bear, bird = walk.session, walk.job_of(BEAR), walk.job_of(BIRD)
    newest_first = [job.id for job in session.registry.jobs]
    yield from walk.open_only("History")
    pins = yield from walk.listed()
    yield from walk.see("16-history")
    assert list(pins) == newest_first, pins
    yield from walk.hand.click("pin", pins[bear.id])
    yield from until(lambda: bear.is_pinned, 5)
    pins = yield from walk.listed()
    yield from walk.see("17-pinned")
    newest_first.remove(bear.id)
    assert list(pins) == [bear.id, *newest_first] and not bird.is_pinned

    # Words, by Blender's own shortcut over a list; then a state, from the menu below the words.
    walk.hand.move(walk.sidebar.x + 0.3 * walk.sidebar.width, pins[bear.id][1])
    yield 0.4
    yield from walk.keys("ctrl+f")
    yield from walk.hand.type("bird")
    yield from walk.keys("Return")
    pins = yield from walk.listed()
    yield from walk.see("18-words")
    assert list(pins) == [bird.id]
    right = walk.sidebar.x + CLEAR * walk.sidebar.width
    yield from walk.hand.click("clear", (right, walk.list_top - WORDS_PX))
    yield from walk.hand.click("state", (right, walk.list_top - STATE_PX))
    yield from probe.see("19-states")
    yield from walk.keys("p")
    pins = yield from walk.listed()
    yield from walk.see("20-pinned-alone")
    assert list(pins) == [bear.id]
    yield from walk.hand.click("state", (right, walk.list_top - STATE_PX))
    yield from walk.keys("a")

    yield from walk.hand.click("row", (pins[bear.id][0] - 150, pins[bear.id][1]))
    assert session.shown is bear
    yield from walk.press("recdreamer.compare_job", columns=(0.45,))
    assert session.compared_id == bear.id
    pins = yield from walk.listed()
    yield from walk.hand.click("row", (pins[bird.id][0] - 150, pins[bird.id][1]))
    assert session.shown is bird
    yield from walk.see("21-comparison")
    found = addon("jobs.comparison").differences(bear.request, bird.request)
    note("differences", found)
    assert ("prompt", BEAR, BIRD) in found

    def seen() -> set[str]:
        return {name for name in (BEAR, BIRD) if name in bpy.data.objects} & {
            obj.name for obj in bpy.context.visible_objects
        }

    yield from walk.press("recdreamer.show_other")
    first = seen()
    yield from walk.see("22-one")
    yield from walk.press("recdreamer.show_other")
    second = seen()
    yield from walk.see("23-the-other")
    note("seen by A / B", [sorted(first), sorted(second)])
    assert sorted(map(len, (first, second))) == [1, 1] and first | second == {BEAR, BIRD}


def meshes(walk: Tab) -> Iterator[float]:
    """An asset, levels of detail, and quads with a target count, of an imported result."""
    if BEAR not in bpy.data.objects:
        walk.session.shown_id = walk.job_of(BEAR).id
        yield from walk.over_view()
        yield from walk.keys("ctrl+alt+o")
        yield from until(lambda: BEAR in bpy.data.objects, 30)
    obj = bpy.data.objects[BEAR]
    obj.hide_set(False)
    bpy.context.view_layer.objects.active = obj
    yield from walk.open_only("Selected Result")
    yield from walk.press("recdreamer.mark_asset")
    yield 1.0
    yield from asset_browser(walk, "24-asset")
    assert obj.asset_data is not None and tuple(obj.preview.image_size) == (256, 256)
    pixels = np.empty(4 * 256 * 256, np.float32)
    obj.preview.image_pixels_float.foreach_get(pixels)
    assert pixels.reshape(-1, 4)[:, :3].std() > 0.03, "the picture is empty"

    faces = len(obj.data.polygons)
    yield from walk.dialog("recdreamer.make_lods", "25-lods-ask", ok_px=109)
    yield from until(lambda: f"{BEAR}_LOD3" in bpy.data.objects, 300)
    levels = [bpy.data.objects[f"{BEAR}_LOD{number}"] for number in (1, 2, 3)]
    counts = [len(level.data.polygons) for level in levels]
    note("triangles of the result and its levels", [faces, *counts])
    assert all(
        abs(count / (faces * share) - 1) < 0.1
        for count, share in zip(counts, (0.5, 0.25, 0.125), strict=True)
    )
    assert not any(level.visible_get() for level in levels) and all(level.data.materials for level in levels)
    yield from walk.see("26-lods")

    yield from walk.dialog("recdreamer.make_quads", "27-quads-ask", ok_px=57, typed="800")
    yield from until(lambda: f"{BEAR} quads" in bpy.data.objects, 60)
    quads = bpy.data.objects[f"{BEAR} quads"]
    sides = [len(polygon.vertices) for polygon in quads.data.polygons]
    note("quads, and all faces", [sides.count(4), len(sides)])
    assert 400 < len(sides) < 1600 and sides.count(4) > 0.95 * len(sides)
    assert quads.visible_get() and not obj.visible_get()
    yield from walk.see("28-quads")


def asset_browser(walk: Tab, picture: str) -> Iterator[float]:
    """See the assets of this file where the properties are."""
    area = next(area for area in walk.window.screen.areas if area.type == "PROPERTIES")
    area.ui_type = "ASSETS"
    yield 1.0
    area.spaces.active.show_region_toolbar = False
    area.spaces.active.params.asset_library_reference = "LOCAL"
    yield 2.0
    yield from walk.see(picture)
    area.ui_type = "PROPERTIES"
    yield 0.5


def cards(walk: Tab) -> Iterator[float]:
    """Fly to the camera of a template, and move it on the shelf."""
    for obj in bpy.context.visible_objects:
        obj.select_set(obj.name == "Cube")
    space = walk.area.spaces.active

    def looks() -> np.ndarray:
        return np.array(space.region_3d.view_matrix.to_3x3())

    def shelf() -> list[float]:
        return [round(card.azimuth_deg) for card in bpy.context.scene.recdreamer.templates]

    yield from walk.over_view()
    yield from walk.keys("KP_Decimal")  # Frame Selected.
    yield 1.0
    yield from walk.open_only("Pose Templates")
    yield from walk.press("recdreamer.capture_view", columns=(0.3,))
    at_first = looks()
    yield from walk.over_view()
    yield from walk.keys("KP_1")
    yield 1.0
    yield from walk.press("recdreamer.capture_view", columns=(0.3,))
    yield from walk.see("29-cards")
    order = shelf()
    assert len(order) == 2 and not np.allclose(looks(), at_first, atol=0.05), order

    yield from choose(walk, 2, "30-menu-of-the-card")  # Fly to Camera.
    yield from walk.see("31-flown")
    assert np.allclose(looks(), at_first, atol=0.02), "it is where the picture was taken"
    yield from choose(walk, 1)  # Move Down.
    yield from walk.see("32-moved-down")
    assert shelf() == order[::-1]
    yield from choose(walk, 0)  # Move Up: it is the first one, so nothing is above it.
    assert shelf() == order[::-1]
    yield from choose(walk, 1)
    yield from walk.see("33-moved-back")
    assert shelf() == order


def choose(walk: Tab, index: int, picture: str = "") -> Iterator[float]:
    """Choose an action from the menu of the first card."""
    walk.area.tag_redraw()
    x, y = yield from find(walk.hand, walk.area, "UI", "recdreamer.remove_template", columns=(0.39, 0.375))
    yield from walk.hand.click("menu of the card", (x, y + ROW_PX))
    if picture:
        yield from probe.see(picture)
    yield from walk.hand.click(f"action {index}", (x + 40, y - 3 - ROW_PX * index))
    yield 0.8


if __name__ == "__main__":
    probe.run(script())
