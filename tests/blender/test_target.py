"""The box in the 3D view stands where the result will stand, and is as high."""

from __future__ import annotations

import doctest
import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from .objects import add_cube


@pytest.fixture
def target(addon, extension):
    """What is drawn now, after a look at the scene."""

    def target():
        box = addon("panels.target_box")
        bpy.context.scene.recdreamer.show_target = True
        bpy.context.view_layer.update()
        box.look()
        return box.shown_target(bpy.context)

    return target


def test_the_examples_of_its_geometry_hold(addon):
    tried = doctest.testmod(addon("result.target"))
    assert tried.attempted >= 4 and not tried.failed


def test_edges_and_arrow_of_a_turned_box(addon):
    module = addon("result.target")
    world = np.diag((2.0, 2.0, 2.0, 1.0))
    world[:3, 3] = (5, 0, 1)
    lines = module.box_lines(module.Target(world, *module.cube_of(1.5)))
    assert lines.shape == (15, 2, 3)
    edges, arrow = lines[:12], lines[12:]
    assert np.allclose(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1), 3)
    assert np.allclose(edges.reshape(-1, 3).min(0), (3.5, -1.5, 1))
    assert np.allclose(edges.reshape(-1, 3).max(0), (6.5, 1.5, 4))
    assert len({tuple(end) for end in edges.reshape(-1, 3).round(6).tolist()}) == 8
    # The arrow lies on the base and points out of its front, which is -Y.
    assert np.allclose(arrow[:, 1], (5, -2.25, 1)) and np.allclose(arrow[..., 2], 1)


def at_the_cursor():
    bpy.context.scene.cursor.location = (1, 2, 3)


def beside_a_cube():
    add_cube((0.2, 0, 0.5), (2, 2, 2))
    add_cube((2.0, 0, 0.5))
    bpy.ops.object.select_all(action="DESELECT")


def on_an_empty():
    bpy.ops.object.empty_add(location=(1, 2, 3), rotation=(0, 0, 0.5))
    bpy.context.object.scale = (2, 2, 2)


def from_an_object():
    settings = bpy.context.scene.recdreamer
    settings.start.kind, settings.start.object = "object", add_cube((3, 4, 5), (1, 2, 3))
    settings.start.object.rotation_euler.z, settings.front = 0.3, math.radians(120)


def from_an_object_of_another_height():
    from_an_object()
    bpy.context.scene.recdreamer.start.keep_size = False


@pytest.mark.parametrize("unit", [1.0, 0.01])
@pytest.mark.parametrize(
    "place",
    [at_the_cursor, beside_a_cube, on_an_empty, from_an_object, from_an_object_of_another_height],
)
def test_the_result_stands_where_the_box_was(settings, generate, target, place, unit, addon):
    """The fake result is a box, as wide as high, whose base is on its origin."""
    bpy.context.scene.unit_settings.scale_length, settings.height = unit, 1.25 / unit
    place()
    shown = target()
    active = bpy.context.object
    job, _ = generate()
    assert bpy.context.object == active
    (obj,) = addon("result.scene_import").import_result(job.folder.root)
    bpy.context.view_layer.update()
    assert np.allclose(np.array(obj.matrix_world), shown.world, atol=1e-4)
    corners = np.array(obj.bound_box)
    assert shown.high[2] == pytest.approx(corners[:, 2].max(), abs=1e-4)
    height = np.linalg.norm(shown.world[:3, 2]) * shown.high[2]
    if place is from_an_object:
        assert height == pytest.approx(3)
    else:
        assert height == pytest.approx(settings.height * (2 if place is on_an_empty else 1), rel=1e-4)


def test_a_box_around_an_object_holds_all_of_it(target):
    settings = bpy.context.scene.recdreamer
    settings.start.kind, settings.start.object = "object", add_cube((3, 4, 5), (1, 2, 3))
    settings.front = math.radians(90)
    shown = target()
    assert np.allclose(shown.high - shown.low, (2, 1, 3), atol=1e-5), "seen from the front, at +X"
    corners = (shown.low + shown.high) / 2 @ shown.world[:3, :3].T + shown.world[:3, 3]
    assert np.allclose(corners, (3, 4, 5), atol=1e-5)


@pytest.mark.parametrize("keeps_size", [True, False])
def test_what_goes_on_from_a_result_stands_in_its_place(imported, settings, target, keeps_size):
    obj, job = imported
    obj.location, obj.rotation_euler.z, obj.scale = (1, 2, 3), 0.5, (2, 2, 2)
    settings.start.kind, settings.start.job = "continue", job.id
    settings.start.keep_size, settings.height = keeps_size, 0.9
    shown = target()
    assert np.allclose(shown.world[:3, 3], (1, 2, 3), atol=1e-5)
    height = np.linalg.norm(shown.world[:3, 2]) * (shown.high[2] - shown.low[2])
    assert height == pytest.approx(3.6 if keeps_size else 0.9, rel=1e-4)


def test_nothing_is_drawn_for_what_is_painted_or_not_there(target):
    settings = bpy.context.scene.recdreamer
    settings.start.kind, settings.start.object = "texture", add_cube()
    assert target() is None
    settings.start.kind, settings.start.object = "object", None
    assert target() is None


def test_the_arrow_changes_the_height(settings, target, addon):
    box = addon("panels.target_box")
    bpy.context.scene.unit_settings.scale_length = 0.01
    bpy.ops.object.empty_add(location=(1, 2, 3))
    bpy.context.object.scale = (2, 2, 2)
    settings.height = 40.0
    shown = target()
    assert box.changes_height(bpy.context)
    assert tuple(box.arrow_place(shown).translation) == pytest.approx((1, 2, 3))
    assert box._get_height() == pytest.approx(80), "the empty doubles it"
    box._set_height(100)
    assert settings.height == pytest.approx(50) and target().high[2] == pytest.approx(0.5)
    settings.start.kind, settings.start.object = "object", add_cube()
    assert not box.changes_height(bpy.context), "it keeps its size"


def test_the_timer_looks_only_if_the_box_is_shown(settings, addon, target):
    box, session = addon("panels.target_box"), addon("session").session
    assert box.look in session.on_tick
    add_cube()
    bpy.context.view_layer.update()
    settings.show_target = False
    assert not box.look()
    settings.show_target = True
    assert box.look() and not box.look()
    bpy.context.object.location.x = 5
    bpy.context.view_layer.update()
    assert box.look()


def test_the_panel_has_the_switch(settings, draw):
    assert "show_target" in draw().props


@pytest.mark.parametrize("name", ["height", "front"])
def test_a_drag_is_a_step_that_can_be_undone(extension, addon, monkeypatch, name):
    """Blender makes none by itself where the value of a gizmo is a function of an add-on."""
    compat, settings = addon("compat"), bpy.context.scene.recdreamer
    settings.show_target = True
    box, front = addon("panels.target_box"), addon("shelf.front_gizmo")
    drag = box._set_height if name == "height" else front._set_front
    made = []

    def new(kind: str) -> SimpleNamespace:
        made.append(SimpleNamespace(use_undo=False, target_set_handler=lambda *_, **__: None))
        return made[-1]

    group = box.RECDREAMER_GGT_height if name == "height" else front.RECDREAMER_GGT_front
    group.setup(SimpleNamespace(gizmos=SimpleNamespace(new=new)), bpy.context)
    assert made and all(gizmo.use_undo == compat.GIZMO_HAS_UNDO for gizmo in made)
    assert compat.GIZMO_HAS_UNDO or bpy.app.version < (5, 0, 0)

    monkeypatch.setattr(compat, "GIZMO_HAS_UNDO", False)
    bpy.ops.ed.undo_push(message="Before")
    before = getattr(settings, name)
    drag(2.5)
    addon("session").pump()
    after = getattr(bpy.context.scene.recdreamer, name)
    assert after != before
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.ed.undo_push(message="Prompt")
    bpy.ops.ed.undo()
    assert getattr(bpy.context.scene.recdreamer, name) == after and not bpy.context.scene.recdreamer.prompt
    bpy.ops.ed.undo()
    assert getattr(bpy.context.scene.recdreamer, name) == before
    bpy.ops.ed.redo()
    assert getattr(bpy.context.scene.recdreamer, name) == after
    settings = bpy.context.scene.recdreamer
    settings.show_target, settings.height, settings.front = False, 1.0, 0.0
