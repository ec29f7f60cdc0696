"""No error of an operator, a timer or an errand gets out: it is one sentence, a line in the log, and nothing stays."""

from __future__ import annotations

import errno
import json

import bpy
import pytest

from .objects import reported

ERRORS = {
    "full disk": (
        OSError(errno.ENOSPC, "No space left on device", "/data/x.png"),
        "Random Seed failed: the disk is full (/data/x.png). Free some space, and try again.",
    ),
    "no permission": (
        PermissionError(errno.EACCES, "Permission denied", "/data"),
        "Random Seed failed: Permission denied (/data). Check that the file or folder is there and not locked.",
    ),
    "memory": (
        MemoryError(),
        "Random Seed needs more memory than there is. Close other files and programs, and try again.",
    ),
    "Blender": (RuntimeError("Error: The file is damaged.\n"), "The file is damaged."),
    "anything": (
        KeyError("verts\nand more"),
        "Random Seed failed (KeyError: 'verts\\nand more'). blender.log in the data folder tells more; "
        "please report it.",
    ),
}


@pytest.mark.parametrize(("error", "sentence"), ERRORS.values(), ids=ERRORS)
def test_every_error_is_one_sentence_and_a_line_in_the_log(addon, preferences, monkeypatch, error, sentence):
    def fail():
        raise error.with_traceback(None)

    preferences.folder.mkdir()
    monkeypatch.setattr(addon("operators.jobs"), "random_seed", fail)
    assert reported(bpy.ops.recdreamer.random_seed).removeprefix("Error: ") == sentence
    text = (preferences.folder / "blender.log").read_text()
    assert "Random Seed: Traceback" in text and type(error).__name__ in text
    reported(bpy.ops.recdreamer.random_seed)
    assert len((preferences.folder / "blender.log").read_text()) < 2 * len(text), "the same is logged once"


def test_every_operator_is_guarded(addon):
    guarded = addon("operators.guarded").GuardedOperator
    names = [name for name in dir(bpy.types) if name.startswith("RECDREAMER_OT_")]
    assert len(names) >= 30
    for name in names:
        cls = getattr(bpy.types, name)
        assert issubclass(cls, guarded) and cls.execute is guarded.execute, name
        assert cls.run is not guarded.run, name


def test_the_tab_shows_what_an_action_has_changed(extension, addon, monkeypatch):
    """One that was chosen from the menu left the old prompt there until the mouse came near."""
    drawn = []
    monkeypatch.setattr(addon("operators.guarded"), "redraw_tab", lambda: drawn.append(1))
    bpy.ops.recdreamer.example_prompt(prompt="a blue bird")
    assert bpy.context.scene.recdreamer.prompt == "a blue bird" and drawn


def test_what_a_failed_action_has_made_is_removed(fake_backend, addon, monkeypatch, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a red bear", "vsd"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"normal": True}))
    settle()
    bpy.ops.mesh.primitive_cube_add()
    kept = {data.name for kind in (bpy.data.objects, bpy.data.meshes) for data in kind}

    def fail(*args):
        raise ValueError("late")

    for module, function in (("result.scene_import", "_stamp"), ("result.scene_import", "_select_only")):
        with monkeypatch.context() as patch:
            patch.setattr(addon(module), function, fail)
            assert "Import failed (ValueError: late)" in reported(bpy.ops.recdreamer.import_result)
        assert {data.name for kind in (bpy.data.objects, bpy.data.meshes) for data in kind} == kept
        assert not bpy.data.materials and not bpy.data.images
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}


def test_the_timer_goes_on_whatever_happens(addon, preferences, monkeypatch):
    module = addon("session")

    class Broken:
        running = property(lambda self: 1 / 0)
        working = ()

        def poll(self):
            raise RecursionError("deep")

    preferences.folder.mkdir()
    monkeypatch.setattr(type(module.session), "registry", Broken())
    assert module._tick() == module.IDLE_S
    assert "RecursionError" in (preferences.folder / "blender.log").read_text()
    monkeypatch.setattr(Broken, "poll", lambda self: False)
    assert module._tick() == module.IDLE_S
    monkeypatch.setattr(module, "get_preferences", lambda: 1 / 0)
    assert module._tick() == module.IDLE_S
