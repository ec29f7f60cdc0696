"""Cards are moved, flown to, checked without being asked, and their pictures deleted when nothing can bring them back."""

from __future__ import annotations

import json
import math

import bpy
import numpy as np
import pytest


@pytest.fixture
def shelf(block_out):
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    return bpy.context.scene.recdreamer.templates


def test_cards_are_moved(shelf):
    def order() -> str:
        return "".join(card.label[0] for card in shelf)

    assert order() == "frbl"
    bpy.ops.recdreamer.move_template(index=2, by=-1)
    assert order() == "fbrl"
    bpy.ops.recdreamer.move_template(index=0, by=99)
    assert order() == "brlf"
    bpy.ops.recdreamer.move_template(index=0, by=-1)
    assert order() == "brlf"
    with pytest.raises(RuntimeError, match="no template 7"):
        bpy.ops.recdreamer.move_template(index=7)


def test_fly_to_the_camera_of_a_card(shelf, view, addon):
    assert not bpy.ops.recdreamer.fly_to_template.poll()
    with view() as space:
        for index, card in enumerate(shelf):
            assert bpy.ops.recdreamer.fly_to_template(index=index) == {"FINISHED"}
            found = np.array(space.region_3d.view_matrix.inverted())
            assert np.allclose(found[:3], np.array(card.camera.c2w)[:3], atol=1e-4)
            assert space.region_3d.view_perspective == "PERSP"
        region = next(region for region in bpy.context.area.regions if region.type == "WINDOW")
        scale = shelf[0].camera.projection[0][0]
        half = math.atan(
            36 / space.lens * min(region.width, region.height) / max(region.width, region.height)
        )
        assert 1 / math.tan(half) == pytest.approx(scale, rel=1e-4)
        shelf.add().label = "front"
        with pytest.raises(RuntimeError, match="camera of this template is not known"):
            bpy.ops.recdreamer.fly_to_template(index=4)


def test_turntable_asks_for_its_options(extension, addon):
    """They were only in the panel of the last operation, where nobody finds them."""
    shown = []
    manager = type(
        "Manager", (), {"invoke_props_dialog": lambda self, operator, **_: shown.append(operator)}
    )()
    context = type("Context", (), {"window_manager": manager})()
    addon("operators.capture").RECDREAMER_OT_capture_turntable.invoke("itself", context, None)
    assert shown == ["itself"]


@pytest.fixture
def quietly(preferences, addon, monkeypatch):
    preferences.check_quietly = True
    monkeypatch.setattr(addon("session"), "QUIET_AFTER_S", 0.1)
    return addon("session").session


def test_templates_are_checked_when_nothing_else_is_to_be_done(quietly, settings, shelf, pump_until, draw):
    settings.method = "usd"
    assert quietly.errand is None
    pump_until(lambda: quietly.errand is not None)
    assert (
        bpy.ops.recdreamer.check_templates.poll() and bpy.ops.recdreamer.generate.poll()
    )  # It blocks nothing.
    pump_until(lambda: quietly.check is not None)
    assert len(quietly.check.verdicts) == 4
    done = quietly.errand
    for _ in range(20):
        pump_until(lambda: True)
    assert quietly.errand is done  # Not again as long as nothing changes.
    shelf[1].label = "back"
    pump_until(lambda: quietly.errand is not done)


def test_a_quiet_check_gives_way(quietly, settings, shelf, pump_until, settle):
    settings.method = "usd"
    pump_until(lambda: quietly.errand is not None)
    checking = quietly.errand
    assert bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3})) == {"FINISHED"}
    assert quietly.registry.running is not None and not quietly.registry.queue.turns
    checking.task.join()
    assert quietly.errand is None and checking.task.problem == "Canceled."
    settle()
    pump_until(lambda: quietly.check is not None)  # Later it is done.


def test_a_quiet_check_that_fails_says_nothing(quietly, settings, shelf, pump_until, draw):
    settings.method, settings.prompt = "usd", "a broken bear"
    pump_until(lambda: quietly.errand is not None and not quietly.errand.task.is_running)
    assert quietly.errand.task.problem and quietly.errand.task.problem not in " ".join(draw().texts)


def test_pictures_of_removed_cards_are_deleted(shelf, addon, tmp_path):
    folder = shelf[0].path.parent
    kept, saved = shelf[0].path, shelf[3].path
    bpy.ops.recdreamer.remove_template(index=1)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert len(list(folder.iterdir())) == 4  # Undo could bring it back.
    shelf = bpy.context.scene.recdreamer.templates
    bpy.ops.recdreamer.remove_template(index=2)  # After it was saved: the file has it.
    stranger = folder / f"{'a' * 32}.png"  # Of another Blender, or of a file that is not open.
    stranger.write_bytes(kept.read_bytes())
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=False)
    left = {path.name for path in folder.iterdir()}
    assert {kept.name, saved.name, stranger.name} <= left and len(left) == 4
