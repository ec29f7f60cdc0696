"""Draft, Standard, Final and the artist's own, in Blender's preset system; and what a job has cost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import bpy

OURS = ("Draft", "Standard", "Final")


def test_our_presets(extension, settings):
    assert all(bpy.utils.preset_find(name, "recdreamer") for name in OURS)
    changes = {}
    for name in OURS:
        assert bpy.ops.recdreamer.use_preset(name=name) == {"FINISHED"}
        assert settings.method == "usd"
        changes[name] = settings.changes
        settings.to_request()
    assert changes["Standard"] == []
    assert changes["Draft"] == ["Quality: Draft"]
    assert changes["Final"] == ["Quality: Final", "Texture: 4096 px", "Faces: 100,000"]
    assert settings.to_request().overrides == {"mesh.texture_size_px": 4096, "mesh.target_faces": 100_000}


def test_a_preset_of_the_artist(extension, settings):
    """All that a preset has comes back, and the prompt is not in it."""
    settings.quality, settings.texture_px, settings.face_count = "quick", "1024", 777
    settings.method, settings.pose_mode = "sds", "marginal"
    settings.start.run_geometry = False
    assert bpy.ops.recdreamer.add_preset(name="For the game") == {"FINISHED"}
    bpy.ops.recdreamer.use_preset(name="Standard")
    settings.prompt = "a blue bird"
    assert settings.changes == []
    assert bpy.ops.recdreamer.use_preset(name="For the game") == {"FINISHED"}
    assert settings.prompt == "a blue bird" and settings.face_count == 777
    assert settings.changes == [
        "Quality: Draft", "Texture: 1024 px", "Faces: 777", "Method: Simple (SDS)", "Views: Free Front",
        "without Geometry",
    ]  # fmt: skip
    bpy.ops.recdreamer.add_preset(name="For the game", remove_active=True)
    assert bpy.utils.preset_find("For the game", "recdreamer", display_name=True) is None


def test_the_menu_goes_from_rough_to_fine_and_ends_with_the_artists_own(extension, settings, addon):
    from .recorder import RecorderLayout

    def shown() -> list[str]:
        layout = RecorderLayout()
        menu = addon("operators.presets").RECDREAMER_MT_presets
        stand_in = SimpleNamespace(layout=layout, preset_operator=menu.preset_operator)
        stand_in.path_menu = lambda folders, *_, **options: layout.record.texts.extend(
            options["display_name"](path.name)
            for folder in folders
            for path in Path(folder).iterdir()
            if options["filter_ext"](path.suffix)
        )
        menu.draw(stand_in, bpy.context)
        return layout.record.texts

    assert shown() == [*OURS]
    bpy.ops.recdreamer.add_preset(name="A for the game")
    assert shown() == [*OURS, "A for the game"]
    bpy.ops.recdreamer.add_preset(name="A for the game", remove_active=True)


def test_all_that_a_preset_has_is_in_ours(addon):
    """A preset that leaves one out would keep what the artist had there before."""
    presets = addon("operators.presets")
    for name in OURS:
        text = (presets.FOLDER / "recdreamer" / f"{name}.py").read_text()
        assert [saved for saved in presets.SAVED if f"{saved} = " not in text] == []


def test_what_a_job_has_cost(settings, settle, draw, addon, preferences, pump_until):
    sentence = "The first job measures its time."
    assert sentence in " ".join(draw().texts)
    bpy.ops.recdreamer.generate(overrides=json.dumps({"seconds": {"shape": 200.0, "texture": 47.0}}))
    settle()
    pump_until((preferences.folder / "costs.json").is_file)  # It is measured in the background.
    settings.prompt = "a blue bird"
    assert "≈ 4 min 10 s · 1 MB" in " ".join(draw().texts)
    settings.quality = "quick"
    assert sentence in " ".join(draw().texts)
    settings.quality = "standard"
    session = addon("session").session
    session._costs = None  # As after a restart.
    assert "≈ 4 min 10 s · 1 MB" in " ".join(draw().texts)
    settings.quality = "quick"
    memory = {"peak": 6_100_000_000, "total": 8_000_000_000}
    bpy.ops.recdreamer.generate(overrides=json.dumps({"seconds": {"shape": 60.0}, "gpu_memory": memory}))
    settle()
    said = "≈ 1 min 0 s · 6.1 of 8 GB GPU · 1 MB"
    pump_until(lambda: said in " ".join(draw().texts))
    session._costs = None
    assert said in " ".join(draw().texts)
    session._costs = None
    (preferences.folder / "costs.json").write_text('{"a": [1], "b": "x"}')
    assert sentence in " ".join(draw().texts)


def test_use_settings_restores_texture_and_faces(settings, generate):
    settings.texture_px, settings.face_count = "2048", 5000
    generate()
    settings.texture_px, settings.face_count = "AUTO", 0
    assert bpy.ops.recdreamer.use_settings() == {"FINISHED"}
    assert (settings.texture_px, settings.face_count) == ("2048", 5000)
