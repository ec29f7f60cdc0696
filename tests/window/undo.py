"""Undo and redo of everything that changes a scene, by mouse and keys; and the coarse mesh, seen growing and switched.

Blender runs this at its start (see inside.sh). Jobs have fewer steps than an artist's, so that the walk takes minutes.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Vector

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import probe  # noqa: E402
from clicks import REST, Hand, find, install, open_tab, press, see, until  # noqa: E402

MODULE = probe.MODULE
SMALL = {
    "optimize.num_steps": 120,
    "optimize.preview_every": 10,
    "geometry.num_steps": 20,
    "texture.num_steps": 20,
    "mesh.resolution": 48,
    "mesh.target_faces": 4000,
    "mesh.texture_size_px": 256,
}
BUTTON_PX = 22
NOTES: dict[str, object] = {}
"""What was seen, for the log of the walk."""


def addon(name: str):
    return importlib.import_module(f"{MODULE}.addon.{name}")


def note(name: str, value: object) -> None:
    NOTES[name] = value
    (HERE / "out" / "notes.json").write_text(json.dumps(NOTES, indent=1, default=str))


class Walk:
    """One window with its 3D view, mouse and keys."""

    def __init__(self) -> None:
        self.window = bpy.context.window_manager.windows[0]
        self.area = next(area for area in self.window.screen.areas if area.type == "VIEW_3D")
        self.view = next(region for region in self.area.regions if region.type == "WINDOW")
        self.hand = Hand(self.window)
        self.settings = bpy.context.scene.recdreamer

    def press(self, name: str, **options) -> Iterator[float]:
        self.area.tag_redraw()
        yield from press(self.hand, self.area, name, **options)

    def see(self, name: str) -> Iterator[float]:
        for _ in range(6):  # Panels slide into their places, and pictures are read one after another.
            self.area.tag_redraw()
            yield 0.3
        yield from see(self.hand, name)

    def undo(self) -> Iterator[float]:
        yield from self._keys("ctrl+z")

    def redo(self) -> Iterator[float]:
        yield from self._keys("ctrl+shift+z")

    def _keys(self, names: str) -> Iterator[float]:
        self.hand.move(*REST)
        yield 0.3
        yield from self.hand.key(names)
        yield 0.8
        self.settings = bpy.context.scene.recdreamer  # Undo makes all data anew.

    def both(self, what: str, value) -> Iterator[float]:
        """Undo and redo the last action, and see that `value()` becomes what it was and then what it is."""
        after = value()
        yield from self.undo()
        between = value()
        assert between != after, f"undo does not change {what}: {after}"
        yield from self.redo()
        assert value() == after, f"redo of {what}: {value()} instead of {after}"
        note(f"undo and redo of {what}", [between, after])

    def point_of(self, place: Vector) -> tuple[float, float]:
        """Where a point of the scene is in the window."""
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.view):
            x, y = location_3d_to_region_2d(self.view, self.area.spaces.active.region_3d, place)
        return self.view.x + x, self.view.y + y

    def drag(self, start: tuple[float, float], by: tuple[float, float]) -> Iterator[float]:
        self.hand.move(*start)
        yield 0.5
        self.hand.do("mousedown", 1)
        yield 0.3
        for part in range(1, 9):
            self.hand.move(start[0] + by[0] * part / 8, start[1] + by[1] * part / 8)
            yield 0.1
        self.hand.do("mouseup", 1)
        yield 0.8


def few_steps() -> None:
    """Let Generate, when it is clicked, make a short job."""
    jobs = addon("operators.jobs")
    parse = jobs.parse_overrides
    jobs.parse_overrides = lambda text: {**SMALL, **parse(text)}


def ready(walk: Walk) -> Iterator[float]:
    """The tab, with a backend, in a window as it is after the installation."""
    sidebar = next(region for region in walk.area.regions if region.type == "UI")
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.check_quietly = os.environ["BACKEND_PYTHON"], False
    walk.hand.rest()
    yield 1.0
    if not walk.area.spaces.active.show_region_ui:
        yield from walk.hand.key("n")
    yield from open_tab(walk.hand, walk.area, sidebar)
    yield from until(lambda: addon("session").session.models.is_known, 60)
    few_steps()
    walk.settings.quality = "quick"


def type_prompt(walk: Walk, text: str) -> Iterator[float]:
    yield from walk.press("recdreamer.prompt")
    yield from walk.hand.key("ctrl+a")
    yield from walk.hand.type(text)
    yield from walk.hand.key("ctrl+Return")
    assert walk.settings.prompt == text, walk.settings.prompt


def done(job) -> Iterator[float]:
    yield from until(lambda: job.client is None and not job.is_waiting)
    assert job.condition == "done", f"{job.condition}: {job.state.message} {job.state.hint}"
    yield 1.5


def digest_of(obj: bpy.types.Object) -> str:
    """Of the geometry of an object, and of its materials and their textures."""
    mesh = obj.data
    co = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", co)
    images = [
        node.image.name if node.image else ""
        for slot in obj.material_slots
        if slot.material and slot.material.node_tree
        for node in slot.material.node_tree.nodes
        if node.type == "TEX_IMAGE"
    ]
    names = [slot.material.name if slot.material else "" for slot in obj.material_slots]
    return f"{len(mesh.vertices)}-{hashlib.sha256(co.tobytes()).hexdigest()[:8]}-{names}-{images}"


def script() -> Iterator[float]:
    install()
    walk = Walk()
    yield from ready(walk)
    yield from type_prompt(walk, "a red bear")
    yield from walk.both("the prompt", lambda: bpy.context.scene.recdreamer.prompt)
    skipped = os.environ.get("FROM", "")
    if skipped not in ("job", "box"):
        yield from cards(walk)
    if skipped not in ("job", "cards"):
        yield from target_box(walk)
    job = yield from running(walk)
    yield from imported(walk, job)
    yield from better_version(walk)
    yield from painted(walk)


def cards(walk: Walk) -> Iterator[float]:
    probe.build_block_out()
    with bpy.context.temp_override(window=walk.window, area=walk.area, region=walk.view):
        bpy.ops.ed.undo_push(message="Block-Out")
        bpy.ops.view3d.view_selected()
        for _ in range(6):  # So that what stands beside it is seen, too.
            bpy.ops.view3d.zoom(delta=-1)
    yield from walk.press("recdreamer.capture_turntable")
    yield from probe.see("01-turntable-asks")
    yield from walk.hand.key("Return")
    yield from until(lambda: len(bpy.context.scene.recdreamer.templates) >= 4, 60)

    def shelf() -> list[tuple[str, bool, bool]]:
        return [
            (card.label, card.mirrored, card.is_missing) for card in bpy.context.scene.recdreamer.templates
        ]

    yield from walk.see("02-cards")
    yield from walk.both("a turntable", shelf)
    assert shelf() and not any(is_missing for _, _, is_missing in shelf()), "the pictures are there"
    yield from walk.press("recdreamer.mirror_template", columns=(0.73, 0.3))
    yield from walk.both("a mirrored card", shelf)
    yield from walk.press("recdreamer.remove_template", columns=(0.81, 0.375))
    yield from walk.both("a removed card", shelf)
    yield from walk.see("03-cards-after-undo-and-redo")
    yield from walk.undo()
    yield from walk.undo()
    yield from walk.see("04-cards-undone")


def target_box(walk: Walk) -> Iterator[float]:
    yield from walk.press("recdreamer.show_target", columns=(0.83,))
    yield from walk.both("the switch of the target box", lambda: bpy.context.scene.recdreamer.show_target)
    yield 1.5
    yield from walk.press("recdreamer.height", columns=(0.6,))
    yield from walk.hand.key("ctrl+a")
    yield from walk.hand.type("1.5")
    yield from walk.hand.key("Return")

    def height() -> float:
        return round(bpy.context.scene.recdreamer.height, 4)

    assert height() == 1.5
    yield from walk.both("a typed height", height)
    yield from walk.see("05-target-box")
    box = addon("panels.target_box")
    with bpy.context.temp_override(window=walk.window, area=walk.area, region=walk.view):
        target = box.shown_target(bpy.context)
        base = box.arrow_place(target).translation.copy()
    tip = walk.point_of(base + Vector((0, 0, height())))
    yield from walk.drag((tip[0], tip[1] + 25), (0, 70))
    note("height after the drag", height())
    assert height() > 1.6, f"the arrow was not dragged: {height()}"
    yield from walk.see("06-dragged")
    yield from walk.both("a dragged height", height)
    assert height() > 1.6
    yield from walk.undo()
    assert height() == 1.5, f"one undo takes back the drag alone: {height()}"

    def front() -> float:
        return round(bpy.context.scene.recdreamer.front, 3)

    walk.settings.show_front = True
    with bpy.context.temp_override(window=walk.window, area=walk.area, region=walk.view):
        bpy.ops.ed.undo_push(message="Show Front")
        place = addon("shelf.front_gizmo").place_of_front(bpy.context)
    yield 1.0
    yield from walk.see("07-front")
    middle, before = walk.point_of(place), front()
    for radius in range(40, 130, 6):  # Its ring has a fixed size on the screen.
        yield from walk.drag((middle[0] + radius, middle[1]), (-20, -60))
        if front() != before:
            break
    assert front() != before, "the ring was not dragged"
    yield from walk.see("08-front-turned")
    yield from walk.both("a dragged front", front)
    yield from walk.undo()
    assert front() == before, "one undo takes back the drag alone"
    walk.settings.show_front = False
    with bpy.context.temp_override(window=walk.window, area=walk.area, region=walk.view):
        bpy.ops.ed.undo_push(message="Hide Front")


def running(walk: Walk) -> Iterator[float]:
    session, live = addon("session").session, addon("result.live_mesh")
    yield from walk.press("recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from until(lambda: live.live_object() is not None or job.client is None)
    assert job.client is not None, "the job was over before its coarse mesh was seen"
    yield from walk.see("09-coarse-mesh")
    first = digest_of(live.live_object())
    prompt = bpy.context.scene.recdreamer.height
    yield from walk.undo()
    yield from walk.undo()
    assert job.client is not None and session.registry.running is job, "undo stops no job"
    yield from until(lambda: live.live_object() is not None, 10)
    previews = [obj.name for obj in bpy.data.objects if live.LIVE_KEY in obj]
    assert previews == [live.NAME], previews
    yield from walk.see("10-undone-while-it-runs")
    yield from walk.redo()
    yield from walk.redo()
    assert bpy.context.scene.recdreamer.height == prompt
    yield from until(lambda: live.live_object() is not None and digest_of(live.live_object()) != first, 60)
    note("coarse mesh at first, later", [first, digest_of(live.live_object())])
    yield from switch_coarse_mesh(walk)
    assert not bpy.context.preferences.addons[MODULE].preferences.live_mesh
    yield from until(lambda: live.live_object() is None, 5)
    yield from walk.see("11-coarse-mesh-switched-off")
    yield from switch_coarse_mesh(walk)
    yield from until(lambda: live.live_object() is not None or job.client is None, 20)
    assert job.client is not None and live.live_object() is not None
    yield from walk.see("12-coarse-mesh-grown")
    yield from walk.press("recdreamer.enlarge", columns=(0.83, 0.82))
    yield 2.5
    yield from walk.see("13-enlarged")
    yield from walk.press("recdreamer.enlarge", columns=(0.83, 0.82))
    yield from done(job)
    assert live.live_object() is None
    yield from walk.undo()
    yield from walk.redo()
    yield 1.5
    assert live.live_object() is None, "undo brings no preview back"
    return job


def switch_coarse_mesh(walk: Walk) -> Iterator[float]:
    """Click the monkey, which is beside Enlarge; Blender has no name for a button of the preferences."""
    walk.area.tag_redraw()
    x, y = yield from find(walk.hand, walk.area, "UI", "recdreamer.enlarge", columns=(0.83, 0.82))
    yield from walk.hand.click("live_mesh", (x - BUTTON_PX, y))


def imported(walk: Walk, job) -> Iterator[float]:
    walk.area.spaces.active.shading.color_type = "MATERIAL"
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield from until(lambda: job.request.prompt in bpy.data.objects, 30)
    yield from walk.see("14-imported")

    def objects() -> list[str]:
        return sorted(
            f"{obj.name}-{digest_of(obj)}" for obj in bpy.data.objects if obj.name == job.request.prompt
        )

    yield from walk.both("an import", objects)
    yield from walk.undo()
    assert objects() == [] and job.condition == "done"
    yield from walk.see("15-import-undone")
    assert (yield from find(walk.hand, walk.area, "UI", "recdreamer.import_result")) is not None
    yield from walk.redo()
    yield from walk.see("16-import-redone")
    note("the object", objects())


def better_version(walk: Walk) -> Iterator[float]:
    session = addon("session").session
    name = session.shown.request.prompt
    walk.hand.move(*REST)
    for key in ("g", "x", "1", "Return"):  # Moved by the artist.
        yield from walk.hand.key(key)
    obj = bpy.data.objects[name]
    place = list(obj.matrix_world.translation)
    yield from walk.press("recdreamer.retry")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from done(job)
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield 2.0
    assert [obj.name for obj in bpy.data.objects if obj.name.startswith(name)] == [name], "it takes the place"
    assert list(bpy.data.objects[name].matrix_world.translation) == place
    yield from walk.see("17-better-version")
    yield from walk.both("a better version", lambda: digest_of(bpy.data.objects[name]))
    yield from walk.undo()
    yield from walk.see("18-better-version-undone")
    assert list(bpy.data.objects[name].matrix_world.translation) == place
    yield from walk.redo()


def painted(walk: Walk) -> Iterator[float]:
    session = addon("session").session
    name = session.shown.request.prompt
    obj = bpy.data.objects[name]
    start = bpy.context.scene.recdreamer.start
    start.kind, start.object = "texture", obj
    bpy.context.scene.recdreamer.prompt = "a blue bear"
    yield from walk.see("19-paint")
    yield from walk.press("recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from done(job)
    yield from walk.press("recdreamer.import_result", columns=(0.25,))
    yield 2.0
    yield from walk.see("20-painted")
    yield from walk.both("a painted object", lambda: digest_of(bpy.data.objects[name]))
    yield from walk.undo()
    yield from walk.see("21-paint-undone")
    yield from walk.redo()
    assert (yield from find(walk.hand, walk.area, "UI", "recdreamer.generate")) is not None
    yield from walk.see("22-end")


if __name__ == "__main__":
    probe.run(script())
