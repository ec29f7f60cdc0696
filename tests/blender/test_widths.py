"""No label of the tab is cut in a sidebar of Blender's default width, in any state and language, and all are translated.

Measured with Blender's font.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from types import SimpleNamespace

import bpy
import pytest

from . import widths
from .widths import SIDEBAR_PX, Group, MeasuringLayout

SCALES = (1.0, 1.25, 2.0)
SCREEN_PX, AROUND_PX = 1080, 98
"""Height of a screen, and of what Blender has above and below the sidebar: menu bar, two headers, status bar."""


PANELS = ("panels.jobs", "panels.shelf", "panels.result", "panels.queue_of_jobs", "panels.list_of_jobs")


@pytest.fixture
def laid_out(addon, speak):
    """The panels of the tab as they are now, at a scale of the interface, in order."""

    def laid_out(scale: float = 1.0, language: str = "") -> list[tuple[type, Group]]:
        widths.scale, widths.translate = scale, speak(language)
        found = []
        for name in PANELS:
            for cls in addon(name).CLASSES:
                if "_PT_" in cls.__name__ and getattr(cls, "poll", lambda context: True)(bpy.context):
                    root = Group("column")
                    fake = SimpleNamespace(layout=MeasuringLayout(root))
                    for helper in dir(cls):
                        if helper.startswith("_draw"):
                            setattr(fake, helper, getattr(cls, helper).__get__(fake))
                    region = SimpleNamespace(width=292 * scale)
                    context = SimpleNamespace(
                        scene=bpy.context.scene, object=bpy.context.object, mode=bpy.context.mode,
                        region=region, window_manager=bpy.context.window_manager,
                        preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=scale)),
                    )  # fmt: skip
                    cls.draw(fake, context)
                    found.append((cls, root))
        widths.scale, widths.translate = 1.0, speak("")
        return sorted(found, key=lambda pair: pair[0].bl_order)

    return laid_out


@pytest.fixture
def bare(laid_out, addon, monkeypatch):
    """What the tab shows in English whatever the language is: texts that bypass the table."""

    def bare() -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(addon("describe"), "wrap", lambda text, *_: [text])
            patch.setattr(addon("describe"), "shortened", lambda text, *_: text)
            texts = [text for _, root in laid_out(language="marked") for text in root.texts()]
        return [f"not translated: {text!r}" for text in texts if is_bare(text)]

    return bare


DATA = (
    "a red bear( with a very long prompt that no panel has room for)?|fine-tune-with-a-long-name-v12.safetens…|base|"
    r"a photorealistic bear that is longer than the panel is wide|top|\d+|GB|MB|CPU|it/s|min|"
    "Cube|Sphere|Cone|Draft|Final|Front|SDS|Debiased|Stable Diffusion"
)
"""Words of the artist, names and units in these tests."""


def is_bare(text: str) -> bool:
    """Whether a text has words that are neither translated nor data."""
    while (inner := re.sub(r"⟦[^⟦⟧]*⟧", "", text)) != text:
        text = inner
    return bool(re.search("[A-Za-z]{2}", re.sub(DATA, "", text)))


@pytest.fixture
def cut(laid_out, bare):
    """The labels of the tab that are cut now, at any of three scales of the interface, or that are not translated."""

    def cut() -> list[str]:
        found = bare()
        for language, scale in itertools.product(("", "de_DE"), SCALES):
            for _, root in laid_out(scale, language):
                widths.scale = scale
                found += [f"{text} at a scale of {scale} in {language!r}" for text in root.cut(SIDEBAR_PX)]
        widths.scale = 1.0
        return found

    return cut


def test_the_order_of_the_tab_and_one_screen(laid_out, fake_backend, settings, settle, addon, pump_until):
    """Prompt, result, templates, history, advanced; what is open when the tab is new fits on a screen."""

    def height() -> float:
        return sum(
            widths.PANEL_PX + (0 if "DEFAULT_CLOSED" in getattr(cls, "bl_options", ()) else root.height_px)
            for cls, root in laid_out()
        )

    settings.method = "usd"
    assert height() <= SCREEN_PX - AROUND_PX
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 300}))
    session = addon("session").session
    pump_until(lambda: session.shown.state.step > 2)
    assert height() <= SCREEN_PX - AROUND_PX
    bpy.ops.recdreamer.cancel()
    settle()
    assert height() <= SCREEN_PX - AROUND_PX
    bpy.ops.recdreamer.generate()
    settle()
    assert height() <= SCREEN_PX - AROUND_PX, "a finished job has the most buttons"
    labels = [cls.bl_label for cls, _ in laid_out()]
    assert labels == ["RecDreamer", "Result", "Pose Templates", "History", "Advanced"]


def test_a_cut_label_is_seen(extension):
    root = Group("column")
    layout = MeasuringLayout(root)
    row = layout.row()
    row.operator("recdreamer.use_settings", text="Restore All Settings", icon="LOOP_BACK")
    row.operator("recdreamer.open_folder", text="Folder", icon="FILE_FOLDER")
    row.operator("recdreamer.delete_job", text="Delete", icon="TRASH")
    assert any("Restore All Settings" in text for text in root.cut(SIDEBAR_PX))
    root.parts.clear()
    layout.operator("recdreamer.use_settings", text="Restore All Settings", icon="LOOP_BACK")
    layout.label(text="a word")
    assert root.cut(SIDEBAR_PX) == []


def test_a_text_that_is_not_translated_is_seen(extension):
    assert (
        is_bare("3 jobs wait")
        and is_bare("⟦Quality⟧: Quick")
        and not is_bare("a red bear · ⟦running ⟦on⟧ x⟧")
    )


def test_without_a_backend(cut, addon):
    addon("session").session.hardware.wait()
    assert cut() == []


@pytest.mark.parametrize("method", ["usd", "debiased_sds"])
@pytest.mark.parametrize("kind", ["prompt", "object", "texture", "continue"])
def test_settings(cut, fake_backend, block_out, kind, method):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.method = "a photorealistic bear that is longer than the panel is wide", method
    settings.start.kind = kind
    assert cut() == []
    if kind in ("object", "texture"):
        block_out[1].parent = block_out[0]
        settings.start.object = block_out[0]
        assert cut() == []


@pytest.mark.parametrize("fake", ["work", "fail"])
def test_jobs(cut, fake_backend, settings, settle, fake):
    for kind in ("out_of_memory", "non_finite", "internal"):
        settings.prompt = "a red bear with a very long prompt that no panel has room for"
        bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": fake, "kind": kind}))
        settle()
        assert cut() == []
    if fake == "work":
        bpy.ops.recdreamer.import_result()
        assert cut() == []
        # Another job may replace the selected result.
        bpy.ops.recdreamer.generate()
        settle()
        assert cut() == []


def test_a_running_job(cut, fake_backend, settings, pump_until, addon, settle):
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3000}))
    session = addon("session").session
    pump_until(lambda: session.shown.state.step > 2)
    assert cut() == []
    bpy.ops.recdreamer.cancel()
    settle()
    session.shown.state.updated_s = time.time() - 86400 * 300
    assert cut() == []


def test_the_shelf(cut, fake_backend, block_out, settings, addon, pump_until):
    bpy.ops.recdreamer.capture_turntable()
    bpy.ops.recdreamer.check_templates()
    session = addon("session").session
    pump_until(lambda: not session.errand.task.is_running)
    assert cut() == []
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: session.gallery)
    assert cut() == []


@pytest.mark.parametrize(
    "name", ["builtin", "stable-diffusion-2-1-base", "/a/fine-tune-with-a-long-name-v12.safetensors"]
)
def test_models(cut, fake_backend, settings, pump_until, addon, preferences, name):
    """Each state of Get Stable Diffusion, and words that are dropped."""
    bpy.context.preferences.system.use_online_access = True
    assert cut() == []
    models = addon("session").session.models
    pump_until(lambda: models.is_known)
    preferences.image_model, settings.prompt = name, "a photorealistic wooden chair" * 20
    assert cut() == []
    bpy.ops.recdreamer.get_model()
    assert cut() == []
    pump_until(lambda: not models.is_busy)
    assert cut() == [] and models.task.licenses
    bpy.ops.recdreamer.accept_license()
    pump_until(lambda: models.task.plan)
    assert cut() == []
    bpy.ops.recdreamer.cancel_models()
    pump_until(lambda: not models.is_busy)
    assert cut() == []
    bpy.context.preferences.system.use_online_access = False
    bpy.ops.recdreamer.dismiss_models()
    assert cut() == []


def test_what_waits_and_drafts_and_the_comparison(cut, settings, addon, pump_until, settle):
    settings.prompt = "a red bear with a very long prompt that no panel has room for"
    bpy.ops.recdreamer.vary()
    session = addon("session").session
    assert cut() == []
    jobs = addon("operators.queue").siblings(session.shown)
    pump_until(lambda: all(job.condition == "done" for job in jobs))
    bpy.ops.recdreamer.compare_job(job_id=jobs[0].id)
    bpy.ops.recdreamer.refine(job_id=jobs[1].id)
    settle()
    bpy.ops.recdreamer.show_job(job_id=jobs[1].id)
    assert cut() == []
