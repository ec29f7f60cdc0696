"""The main job in Blender with a window: block-out, templates, Generate, follow, import.

Blender runs this at its start (see inside.sh). A timer takes `script` from pause to pause, so that
Blender draws in between; `see` waits until the picture of the window is taken.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
MODULE = "bl_ext.user_default.recdreamer"
SMALL = {
    "optimize.num_steps": int(os.environ["NUM_STEPS"]),
    "optimize.preview_every": 5,
    "geometry.num_steps": 20,
    "texture.num_steps": 20,
    "mesh.resolution": 48,
    "mesh.target_faces": 4000,
    "mesh.texture_size_px": 256,
}
"""By default too few steps for a good result, but enough to see progress."""
TIME_LIMIT_S = 1500
RED, CREAM, DARK = (0.67, 0.013, 0.011, 1), (0.8, 0.6, 0.35, 1), (0.03, 0.02, 0.02, 1)


def script() -> Iterator[float]:
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    install()
    sidebar = yield from open_sidebar(area)
    here = {
        "window": window,
        "area": area,
        "region": next(region for region in area.regions if region.type == "WINDOW"),
    }
    yield from see("empty")

    parts = build_block_out()
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.quality, settings.seed = "a red bear", "quick", 3
    with bpy.context.temp_override(**here):
        assert bpy.ops.recdreamer.capture_turntable() == {"FINISHED"}
        bpy.ops.view3d.view_selected()
    yield 1.0
    yield from see("idle")
    settings.start.kind, settings.start.object = "object", parts[0]
    area.tag_redraw()  # As a click would.
    yield from see("start")
    settings.start.kind = "prompt"

    with bpy.context.temp_override(**here):
        assert bpy.ops.recdreamer.capture_view() == {"FINISHED"}
        settings.templates[len(settings.templates) - 1].enabled = False
    session = importlib.import_module(f"{MODULE}.addon.session").session
    yield from check_and_pick(session, settings, area)
    with bpy.context.temp_override(**here):
        assert bpy.ops.recdreamer.generate(overrides=json.dumps(SMALL)) == {"FINISHED"}
    job = session.shown
    deadline = time.monotonic() + TIME_LIMIT_S
    # The probe never calls `pump`, so any progress shows that Blender's timer runs.
    while job.client is not None:
        assert time.monotonic() < deadline, "the job does not end"
        if job.state.total == SMALL["optimize.num_steps"] and job.state.step >= job.state.total // 2:
            break
        yield 0.1
    assert job.client is not None, "the job was over before it could be seen running"
    yield from see("running")
    while job.client is not None:
        assert time.monotonic() < deadline, "the job does not end"
        yield 0.2
    assert job.condition == "done", f"{job.condition}: {job.state.message} {job.state.hint}"

    for part in parts:
        part.hide_set(True)
    area.spaces.active.shading.color_type = "TEXTURE"
    with bpy.context.temp_override(**here):
        # Only operators called from buttons create undo steps.
        bpy.ops.ed.undo_push(message="before the import")
        assert bpy.ops.recdreamer.import_result("EXEC_DEFAULT", True) == {"FINISHED"}
        names = {obj.name for obj in bpy.data.objects}
        bpy.ops.ed.undo()
        assert names - {obj.name for obj in bpy.data.objects} == {job.request.prompt}, "one undo, one object"
        bpy.ops.ed.redo()
        assert names == {obj.name for obj in bpy.data.objects}
        bpy.ops.view3d.view_selected()
    yield 1.0
    yield from see("finished")
    sidebar_rectangle = (sidebar.x, window.height - sidebar.y - sidebar.height, sidebar.width, sidebar.height)
    (OUT / "sidebar.txt").write_text("x={} y={} width={} height={}\n".format(*sidebar_rectangle))

    bpy.context.preferences.addons[MODULE].preferences.backend_python = ""
    bpy.ops.recdreamer.open_preferences()
    yield from see("preferences")


def check_and_pick(session, settings, area: bpy.types.Area) -> Iterator[float]:
    """Check the shelf, then draw a gallery with the prior and discard it."""
    assert bpy.ops.recdreamer.check_templates() == {"FINISHED"}
    yield from wait_for_errand(session)
    assert len(session.check.verdicts) == len(settings.enabled_templates)
    for view in ("MASK", "MATCH"):
        settings.shelf_view = view
        area.tag_redraw()  # As a click would.
        yield from see(f"checked-{view.lower()}")
    settings.shelf_view = "PICTURE"
    assert bpy.ops.recdreamer.draw_samples() == {"FINISHED"}
    yield from wait_for_errand(session)
    assert len(session.gallery.samples) == 24
    assert bpy.ops.recdreamer.pick_sample(index=0) == {"FINISHED"}
    area.tag_redraw()
    yield from see("gallery")
    bpy.ops.recdreamer.discard_gallery()


def wait_for_errand(session) -> Iterator[float]:
    deadline = time.monotonic() + TIME_LIMIT_S
    while session.errand.task.is_running:
        assert time.monotonic() < deadline, "the errand does not end"
        yield 0.2
    assert not session.errand.task.problem, session.errand.task.problem


def install() -> None:
    """Install the built zip, and set the backend's Python from outside of the chroot."""
    (archive,) = HERE.glob("recdreamer-*.zip")
    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True
    )
    preferences = bpy.context.preferences
    preferences.addons[MODULE].preferences.backend_python = os.environ["BACKEND_PYTHON"]
    print("Blender", bpy.app.version_string, "Python", sys.version.split()[0], flush=True)


def open_sidebar(area: bpy.types.Area) -> Iterator[float]:
    """Show the tab, which exists only after the sidebar was drawn."""
    area.spaces.active.show_region_ui = True
    sidebar = next(region for region in area.regions if region.type == "UI")
    for _ in range(40):
        yield 0.25
        try:
            sidebar.active_panel_category = "RecDreamer"
            break
        except TypeError:
            area.tag_redraw()
    assert sidebar.active_panel_category == "RecDreamer", "the sidebar has no such tab"
    return sidebar


def build_block_out() -> list[bpy.types.Object]:
    """A figure of primitives that faces -Y: body, head, ears and a snout."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    parts = [
        add_ball((0, 0, 0.75), (0.6, 0.5, 0.75), RED),
        add_ball((0, -0.1, 1.75), (0.5, 0.45, 0.45), RED),
        add_ball((0, -0.55, 1.65), (0.22, 0.22, 0.18), CREAM),
        add_ball((0, -0.76, 1.7), (0.08, 0.06, 0.06), DARK),
    ]
    for side in (-1, 1):
        parts += [
            add_ball((0.38 * side, -0.05, 2.15), (0.17, 0.1, 0.17), RED),
            add_ball((0.2 * side, -0.5, 1.87), (0.06, 0.05, 0.06), DARK),
            add_ball((0.32 * side, -0.2, 0.1), (0.22, 0.35, 0.15), RED),
            add_ball((0.62 * side, -0.1, 0.95), (0.18, 0.2, 0.42), RED),
        ]
    for part in parts:
        part.select_set(True)
    return parts


def add_ball(
    location: tuple[float, float, float],
    scale: tuple[float, float, float],
    color: tuple[float, float, float, float],
) -> bpy.types.Object:
    bpy.ops.mesh.primitive_uv_sphere_add(location=location)
    ball = bpy.context.object
    ball.scale = scale
    bpy.ops.object.shade_smooth()
    material = bpy.data.materials.new("block-out")
    material.diffuse_color = color
    ball.data.materials.append(material)
    return ball


def see(name: str) -> Iterator[float]:
    """Let Blender draw, then request a screenshot."""
    yield 0.8
    request = OUT / f"{name}.shot"
    request.touch()
    while request.exists():
        yield 0.05


def run(steps: Iterator[float]) -> None:
    """Take the steps from pause to pause, and quit Blender at the end, or at the first error."""
    # The splash screen appears with the window, before any timer runs.
    bpy.context.preferences.view.show_splash = False

    def tick() -> float | None:
        try:
            return next(steps)
        except StopIteration:
            bpy.ops.wm.quit_blender()
        except BaseException:
            # Blender would only print the error and keep its window open.
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(3)
        return None

    bpy.app.timers.register(tick, first_interval=0.8, persistent=True)


if __name__ == "__main__":
    run(script())
