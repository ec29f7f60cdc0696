"""Restore the settings of an earlier job in the panel."""

from __future__ import annotations

import bpy
import pytest

from .objects import add_cube


def test_settings_of_a_job_restore_its_object(settings, generate):
    cube = add_cube()
    cube.vertex_groups.new(name="hat").add([0, 1], 1, "REPLACE")
    start = settings.start
    start.kind, start.object, start.region, start.strength = "object", cube, "hat", 0.2
    start.stages = {"shape"}
    job, _ = generate()
    cube.name = "my cube"
    start.kind, start.object, start.region, start.strength = "prompt", None, "", 0.9
    start.stages = {"shape", "texture"}
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert (start.kind, start.object, start.region, start.stages) == ("object", cube, "hat", {"shape"})
    assert start.strength == pytest.approx(0.2)


def test_everything_in_the_panel_is_restored(settings, generate, preferences):
    settings.method, settings.pose_mode, settings.quality, settings.seed = "usd", "marginal", "quick", 7
    preferences.image_model, settings.keep_running, settings.height = "some/prior", True, 3
    body, head = add_cube(), add_cube((0, 0, 1))
    head.parent = body
    start = settings.start
    start.kind, start.object, start.strength, start.use_children = "object", body, 0.2, False
    start.keep_size, start.stages, settings.front = False, {"shape"}, 1
    bpy.ops.recdreamer.capture_turntable()
    settings.templates[0].weight, settings.templates[1].enabled = 2, False
    bpy.ops.recdreamer.mirror_template(index=3)
    job, _ = generate()

    def panel():
        names = (
            "prompt",
            "method",
            "pose_mode",
            "quality",
            "seed",
            "keep_running",
            "height",
            "front",
        )
        of_start = ("kind", "object", "strength", "use_children", "keep_size", "stages", "region")
        cards = {(t.label, t.source, t.mirrored, t.weight, t.azimuth_deg) for t in settings.enabled_templates}
        values = [getattr(settings, name) for name in names] + [getattr(start, name) for name in of_start]
        return values, cards, preferences.device, preferences.image_model

    before = panel()
    settings.method, settings.pose_mode, settings.quality, settings.seed = "vsd", "camera", "standard", 1
    preferences.image_model, settings.keep_running, settings.height = "builtin", False, 1
    settings.front = 0
    start.kind, start.object, start.strength, start.use_children = "prompt", None, 0.9, True
    start.keep_size, start.stages, preferences.device = True, {"texture"}, "auto"
    for index in (3, 1, 0):
        settings.templates.remove(index)
    settings.templates[0].weight = 5
    settings.templates[1].enabled = False
    settings.templates.add().label = "of the artist"
    assert bpy.ops.recdreamer.use_settings(job_id=job.id) == {"FINISHED"}
    assert panel() == before
    assert len(settings.templates) == 5 and not settings.templates[2].enabled
    bpy.ops.recdreamer.use_settings(job_id=job.id)
    assert len(settings.templates) == 5, "no duplicates"


def test_a_restored_turntable_is_still_refreshed(settings, generate):
    cube = add_cube()
    settings.method, settings.start.kind, settings.start.object = "usd", "object", cube
    job, _ = generate()
    taken_of = {card.taken_of for card in settings.templates}
    assert len(taken_of) == 1 and "" not in taken_of
    settings.templates.clear()
    bpy.ops.recdreamer.use_settings(job_id=job.id)
    assert {card.taken_of for card in settings.templates} == taken_of
    cube.scale.x = 2
    generate()
    assert {card.taken_of for card in settings.templates} != taken_of and len(settings.templates) == 4
