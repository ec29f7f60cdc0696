"""Get Stable Diffusion and the list of models, with the stand-in of the backend: every state and every refusal."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import bpy
import pytest

from .recorder import RecorderLayout


@pytest.fixture
def online(extension):
    bpy.context.preferences.system.use_online_access = True
    yield
    bpy.context.preferences.system.use_online_access = False


@pytest.fixture
def models(addon, fake_backend, draw, pump_until):
    """The models of this session, with their list read."""
    draw()
    models = addon("session").session.models
    pump_until(lambda: models.is_known)
    return models


@pytest.fixture
def finish(models, pump_until):
    def finish():
        pump_until(lambda: not models.is_busy and not models.is_listing)
        return models.task

    return finish


@pytest.fixture
def remember(preferences):
    """Sets what the stand-in has in its folder."""

    def remember(**state):
        folder = preferences.folder / "models"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fake.json").write_text(json.dumps(state))

    return remember


@pytest.fixture
def relist(addon, models, draw, pump_until):
    """Read the list again, as after a restart."""

    def relist():
        models.forget()
        models.is_known = False
        draw()
        pump_until(lambda: models.is_known)

    return relist


def text_of(seen) -> str:
    return " ".join(seen.texts)


def test_one_press_shows_size_and_license_and_the_second_brings_all(
    draw, models, finish, online, preferences, relist
):
    seen = draw()
    assert "recdreamer.get_model" in seen.operators and "Get Stable Diffusion" in seen.texts
    assert bpy.ops.recdreamer.get_model() == {"FINISHED"}
    assert "recdreamer.cancel_models" in draw().operators
    finish()
    seen = draw()
    assert "2.7 GB to download, 50.0 GB free" in text_of(seen) and "Open RAIL restricts" in text_of(seen)
    assert {"recdreamer.read_license", "recdreamer.accept_license"} <= set(seen.operators)
    assert "Accept and Download (2.7 GB)" in seen.texts
    assert (
        not (preferences.folder / "models" / "fake.json").exists()
        or models.find("taesd").state == "available"
    )
    assert bpy.ops.recdreamer.accept_license() == {"FINISHED"}
    finish()
    assert (preferences.image_model, preferences.tiny_decoder) == ("stable-diffusion-2-1-base", "taesd")
    assert preferences.extractor == "", "the automatic one is DINOv2"
    bpy.context.scene.recdreamer.prompt = "a chair"
    assert bpy.ops.recdreamer.generate.poll(), "before the list is read again, too"
    relist()
    seen = draw()
    assert "Stable Diffusion 2.1 base" in seen.texts and "Get Stable Diffusion" not in seen.texts
    bpy.context.scene.recdreamer.prompt = "a wooden chair"
    assert bpy.ops.recdreamer.generate.poll()
    request = bpy.context.scene.recdreamer.to_request()
    assert request.prior == "stable-diffusion-2-1-base"
    assert request.overrides == {"rectifier.tiny_decoder": "taesd"}


def test_an_accepted_license_is_not_asked_for_again(models, finish, online, remember, relist):
    remember(accepted=True)
    relist()
    bpy.ops.recdreamer.get_model()
    task = finish()
    assert not task.is_dry and task.has_succeeded


def test_progress_cancel_and_going_on(draw, models, finish, online, remember, relist, pump_until):
    remember(accepted=True, step_s=0.05)
    relist()
    bpy.ops.recdreamer.get_model()
    pump_until(lambda: models.task.factor > 0.2)
    seen = draw()
    assert any(" of 2.7 GB  ·  3 s left" in text for text in seen.texts)
    bpy.ops.recdreamer.cancel_models()
    task = finish()
    assert task.problem == "Canceled."
    seen = draw()
    assert "Try Again" in seen.texts and "recdreamer.dismiss_models" in seen.operators
    bpy.ops.recdreamer.get_model(name=task.do[1])
    pump_until(lambda: models.task.factor > 0)
    assert models.task.factor > 0.2, "it goes on where it stopped"
    assert finish().has_succeeded


def test_trying_again_asks_for_no_second_consent(models, finish, online, remember, relist, pump_until):
    remember(step_s=0.05)
    bpy.ops.recdreamer.get_model()
    finish()
    bpy.ops.recdreamer.accept_license()
    pump_until(lambda: models.task.plan)
    bpy.ops.recdreamer.cancel_models()
    pump_until(lambda: not models.task.is_running)
    assert not models.find("stable-diffusion").accepted, "the list is not read again yet"
    bpy.ops.recdreamer.get_model(name=models.task.do[1])
    assert not models.task.is_dry and finish().has_succeeded


def test_a_broken_connection_is_told_with_try_again(draw, models, finish, online, remember, relist):
    remember(accepted=True, fail=3)
    relist()
    bpy.ops.recdreamer.get_model()
    task = finish()
    assert task.kind == "network"
    seen = draw()
    assert "The connection to the hub was cut. Try again." in text_of(seen) and "Try Again" in seen.texts
    bpy.ops.recdreamer.dismiss_models()
    assert "The connection" not in text_of(draw())


def test_offline_nothing_is_fetched_and_the_way_out_is_a_button(
    draw, models, draw_models, addon, monkeypatch
):
    assert not bpy.app.online_access and not bpy.ops.recdreamer.get_model.poll()
    for seen in (draw(), draw_models()):
        assert "screen.userpref_show" in seen.operators
    assert "Allow Online Access in Preferences › System" in text_of(seen)
    assert "in Preferences › System" not in text_of(draw()), "whoever works offline is not told at each look"
    forced = SimpleNamespace(online_access=False, online_access_override=True, version=bpy.app.version)
    monkeypatch.setattr(addon("operators.models"), "bpy", SimpleNamespace(**vars(bpy) | {"app": forced}))
    seen = draw_models()
    assert "Start it without --offline-mode" in text_of(seen)
    assert "screen.userpref_show" not in seen.operators and "recdreamer.open_preferences" in seen.operators


def test_a_model_of_ones_own_is_added_and_used(models, finish, preferences, tmp_path, relist, draw_models):
    model = tmp_path / "toon.safetensors"
    model.touch()
    assert bpy.ops.recdreamer.add_model(filepath=str(model)) == {"FINISHED"}
    finish()
    assert preferences.image_model == str(model)
    relist()
    assert "toon.safetensors, 4.0 GB (added)" in draw_models().texts
    assert bpy.ops.recdreamer.remove_model(name=str(model)) == {"FINISHED"}
    finish()
    assert model.exists()


def test_what_cannot_work_is_refused_by_name_before_a_job(
    draw, models, finish, preferences, remember, relist, draw_models, sentence, tmp_path
):
    path = str(tmp_path / "sdxl.safetensors")
    remember(added=[path])
    relist()
    with pytest.raises(RuntimeError, match="Stable Diffusion XL, which is not supported"):
        bpy.ops.recdreamer.choose_model(kind="prior", name=path)
    assert preferences.image_model == "builtin"
    assert "This is Stable Diffusion XL" in text_of(draw_models())
    preferences.image_model = path
    bpy.context.scene.recdreamer.prompt = "a chair"
    assert "not supported yet" in sentence() and not bpy.ops.recdreamer.generate.poll()
    assert "Choose Model" in draw().texts
    bpy.ops.recdreamer.add_model(filepath=str(tmp_path / "none"))
    assert "There is no model" in finish().problem


def test_a_model_that_is_not_here_leads_to_the_download(
    draw, models, preferences, sentence, online, remember, relist
):
    settings = bpy.context.scene.recdreamer
    settings.prompt, preferences.image_model = "a chair", "stable-diffusion-2-1-base"
    assert (
        sentence() == "Stable Diffusion 2.1 base is not on this computer yet."
        and sentence().kind == "model_missing"
    )
    seen = draw()
    assert "Get Model" in seen.texts
    remember(installed=["stable-diffusion-2-1-base"])
    relist()
    assert sentence() == "DINOv2 small with registers is not on this computer yet."
    settings.method = "vsd"
    assert sentence() == "", "without a classifier no extractor is needed"


def test_verify_names_damaged_files(draw, models, finish, remember, relist):
    assert not bpy.ops.recdreamer.verify_models.poll()
    remember(installed=["taesd", "dinov2-small"], damaged="taesd")
    relist()
    bpy.ops.recdreamer.verify_models()
    finish()
    text = text_of(draw())
    assert "taesd: 1 damaged file was removed." in text and "dinov2-small: every byte is right." in text


def test_menus_choose(models, addon, remember, relist, preferences, tmp_path):
    remember(installed=["taesd", "dinov2-small"], added=[str(tmp_path / "xl.safetensors")])
    relist()
    menus = addon("panels.model_lists")
    for cls, expected in (
        (menus.RECDREAMER_MT_prior, ["Built-in (Figurines)", "xl.safetensors", "Get Stable Diffusion"]),
        (menus.RECDREAMER_MT_extractor, ["Automatic (dinov2-small)", "DINOv2 small with registers"]),
        (menus.RECDREAMER_MT_decoder, ["None", "TAESD"]),
    ):
        layout = RecorderLayout()
        names = ("_draw_item", "kind", "default")
        fake = SimpleNamespace(layout=layout, **{name: getattr(cls, name) for name in names})
        fake._draw_item = cls._draw_item.__get__(fake)
        cls.draw(fake, bpy.context)
        assert layout.record.texts == [*expected, "Add Folder or File…"]
    bpy.ops.recdreamer.choose_model(kind="decoder", name="taesd")
    assert preferences.tiny_decoder == "taesd"
    assert bpy.context.scene.recdreamer.start is not None


def test_the_license_is_readable_page_by_page(models, finish, online, addon):
    bpy.ops.recdreamer.get_model()
    finish()
    operators = addon("operators.models")
    pages = operators.license_pages(models.task.licenses[0].text)
    assert len(pages) > 1 and all(len(page) <= operators.LINES_PER_PAGE for page in pages)
    words = " ".join(" ".join(line for page in pages for line in page).split())
    assert words == " ".join(models.task.licenses[0].text.split()), "not a word is lost"
    layout = RecorderLayout()
    cls = operators.RECDREAMER_OT_read_license
    cls.draw(FakeDialog(layout, cls), bpy.context)
    assert "Open RAIL, for Stable Diffusion 2.1 base" in layout.record.texts
    assert "wm.url_open" in layout.record.operators


class FakeDialog:
    index, page = 0, 1

    def __init__(self, layout, cls):
        self.layout = RowsKnow(layout, cls)


class RowsKnow:
    """A layout whose `prop` on an operator is not checked against Blender: the operator does not run."""

    def __init__(self, layout, cls):
        self._layout = layout
        assert "page" in cls.__annotations__

    def row(self):
        return self

    def prop(self, *arguments, **options): ...

    def __getattr__(self, name):
        return getattr(self._layout, name)


def test_prompts_say_what_the_model_drops(draw, models, remember, relist, preferences):
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a wooden chair"
    assert "The built-in model knows none of the words of the prompt. It knows bears, birds" in text_of(
        draw()
    )
    assert "four kinds in six colors" in text_of(draw())
    assert bpy.ops.recdreamer.example_prompt(prompt="a teal robot") == {"FINISHED"}
    assert settings.prompt == "a teal robot" and "does not know" not in text_of(draw())
    preferences.image_model = "stable-diffusion-2-1-base"
    settings.prompt = "a wooden chair, " + "very " * 80 + "shiny"
    seen = text_of(draw())
    assert "longer than the 75 tokens that the model reads" in seen and "“shiny”" in seen
    assert "four kinds" not in seen


def test_closing_blender_ends_a_download(models, online, remember, relist, addon, pump_until):
    remember(accepted=True, step_s=1.0)
    relist()
    bpy.ops.recdreamer.get_model()
    pump_until(lambda: models.task.plan)
    task, since = models.task, time.monotonic()
    addon("session").session.stop()
    assert not task.is_running and time.monotonic() - since < 10


@pytest.fixture
def draw_models(addon, preferences):
    def draw():
        layout = RecorderLayout()
        addon("panels.model_lists").draw_models(layout, preferences, bpy.context)
        return layout.record

    return draw
