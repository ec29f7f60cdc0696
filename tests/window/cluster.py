"""A job on a Ray cluster, by mouse and keys: choose where it runs, generate, pause, resume, import; then a wrong address.

Blender runs this at its start (see inside.sh); run.sh has started the cluster outside of the chroot.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import clicks  # noqa: E402
import probe  # noqa: E402
from clicks import Hand, press, see, until  # noqa: E402

ACTIONS = (0.3, 0.2, 0.7, 0.8)
"""Columns of the buttons below a job."""
TEMPLATES_ABOVE_PX, ADVANCED_BELOW_PX = 42, 56
"""From the upper part of Files to the header of its panel, and from there, when closed, to that of Advanced."""
PLACE_BELOW_PX, CLUSTER_BELOW_PX = 54, 47
"""From the upper part of the seed's button to Where to Run, and from there to the second item of its menu."""


def script() -> Iterator[float]:
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    hand = Hand(window)
    probe.install()
    bpy.data.objects.remove(bpy.data.objects["Cube"])  # In which the result would stand.
    sidebar = yield from probe.open_sidebar(area)
    session = importlib.import_module(f"{probe.MODULE}.addon.session").session
    preferences = bpy.context.preferences.addons[probe.MODULE].preferences
    settings = bpy.context.scene.recdreamer
    area.tag_redraw()
    yield from until(lambda: session.models.is_known, 60)

    # So that the walk takes minutes; not needed for anything else.
    settings.prompt, settings.quality = "a red bear", "quick"
    settings.start.run_geometry = settings.start.run_texture = False
    yield from choose_cluster(hand, area, sidebar)
    assert preferences.place == "cluster", preferences.place
    # Not typed, because the address that stands there is that of a tunnel, and this cluster has any port.
    preferences.cluster = os.environ["CLUSTER"]
    area.tag_redraw()
    yield from see(hand, "cluster-1-chosen")

    yield from press(hand, area, "recdreamer.generate")
    yield from until(lambda: session.registry.running is not None, 30)
    job = session.registry.running
    yield from see(hand, "cluster-2-starting")
    yield from until(lambda: job.client is None or job.preview is not None)
    assert job.client is not None, job.state.message
    yield from see(hand, "cluster-3-preview")
    yield from press(hand, area, "recdreamer.pause", columns=ACTIONS)
    yield from see(hand, "cluster-4-pausing")
    yield from until(lambda: job.client is None, 240)
    assert job.condition == "paused", f"{job.condition}: {job.state.message}"
    step = job.state.step
    area.tag_redraw()
    yield from see(hand, "cluster-5-paused")
    yield from press(hand, area, "recdreamer.resume", columns=ACTIONS)
    yield from until(lambda: job.client is None or job.state.step > step)
    assert job.client is not None, job.state.message
    yield from see(hand, "cluster-6-resumed")
    yield from until(lambda: job.client is None)
    assert job.condition == "done", f"{job.condition}: {job.state.message} {job.state.hint}"
    area.tag_redraw()
    yield from see(hand, "cluster-7-done")
    area.spaces.active.shading.color_type = "TEXTURE"
    yield from press(hand, area, "recdreamer.import_result", columns=ACTIONS)
    yield from until(lambda: "a red bear" in bpy.data.objects, 30)
    yield from see(hand, "cluster-8-imported")
    (HERE / "out" / "cluster-clicks.json").write_text(json.dumps(hand.clicks, indent=1))

    # Nobody is there.
    preferences.cluster = "localhost:9"
    area.tag_redraw()
    yield from press(hand, area, "recdreamer.generate")
    yield from until(lambda: session.shown is not job and session.shown.client is None, 240)
    assert session.shown.condition == "failed", session.shown.condition
    area.tag_redraw()
    yield from see(hand, "cluster-9-nobody-there")


def choose_cluster(hand: Hand, area: bpy.types.Area, sidebar: bpy.types.Region) -> Iterator[float]:
    """Open Advanced, and choose the second place there. Blender has no name for headers, nor for preferences."""
    files = yield from clicks.find(hand, area, "UI", "recdreamer.add_files", columns=(0.25,))
    assert files is not None
    left, top = sidebar.x + sidebar.width * 0.25, files[1] + TEMPLATES_ABOVE_PX
    # Otherwise Advanced would end below the window.
    yield from hand.click("Pose Templates", (left, top))
    yield from hand.click("Advanced", (left, top - ADVANCED_BELOW_PX))
    yield from see(hand, "cluster-0-advanced")
    seed = yield from clicks.find(hand, area, "UI", "recdreamer.random_seed", columns=(0.83,))
    assert seed is not None
    place = (sidebar.x + sidebar.width * 0.7, seed[1] - PLACE_BELOW_PX)
    yield from hand.click("Where to Run", place)
    yield from see(hand, "cluster-0-menu")
    yield from hand.click("A Cluster", (place[0], place[1] - CLUSTER_BELOW_PX))


if __name__ == "__main__":
    probe.run(script())
