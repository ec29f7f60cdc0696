"""Draw panels into a recorder that checks names of properties, operators and icons against Blender."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from .recorder import ICONS, RecorderLayout


def test_recorder_bites(extension):
    layout = RecorderLayout()
    for wrong in (
        lambda: layout.label(text="x", icon="NO_SUCH_ICON"),
        lambda: layout.prop(bpy.context.scene.recdreamer, "promt"),
        lambda: layout.operator("recdreamer.generate_all").job_id,
        lambda: setattr(layout.operator("recdreamer.generate"), "job", ""),
        lambda: layout.labels(text="x"),
        lambda: setattr(layout, "scale_yy", 2),
        lambda: layout.progress(factor=2.0),
    ):
        with pytest.raises((AssertionError, AttributeError, KeyError)):
            wrong()


def test_without_a_backend(draw, addon, preferences):
    """One card: what, how large, where, one button; nothing of what comes later."""
    addon("session").session.hardware.wait()
    seen = draw()
    text = " ".join(seen.texts)
    assert "the backend, which is not on this computer yet." in text and "Downloads about 0.4 GB" in text
    assert f"Goes into {preferences.folder}." in text.replace("\n", " ") or preferences.folder.name in text
    assert seen.operators.count("recdreamer.set_up_backend") == 1
    assert "recdreamer.generate" not in seen.operators and "prompt" not in seen.props
    assert "recdreamer.capture_view" not in seen.operators and "No jobs yet." not in seen.texts
    assert "Allow Online Access" in seen.texts and "screen.userpref_show" in seen.operators


def test_idle_says_why_generate_is_grey(draw, fake_backend):
    seen = draw()
    assert "The prompt is empty." in " ".join(seen.texts)
    assert "recdreamer.open_preferences" not in seen.operators
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert "The prompt is empty." not in " ".join(draw().texts)


def test_shelf(draw, fake_backend, block_out):
    bpy.ops.recdreamer.capture_turntable()
    bpy.context.scene.recdreamer.templates[2].path.unlink()
    seen = draw()
    assert seen.operators.count("recdreamer.remove_template") == 4
    assert "Image missing" in seen.texts
    assert "90°" in seen.texts


def test_start(draw, fake_backend, block_out, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt, settings.start.kind = "a bear", "object"
    assert "No object is picked to start from." in " ".join(draw().texts)
    body, head, _ = block_out
    head.parent = body
    settings.start.object = body
    seen = draw()
    assert "Generate first captures a turntable of the object." in " ".join(seen.texts)
    assert {"kind", "object", "use_children", "strength", "region_item"} <= set(seen.props)
    stages = {"run_shape", "run_geometry", "run_texture"}
    assert {"auto_turntable", "keep_size", "height"} | stages <= set(seen.props)
    assert "No object is picked" not in " ".join(seen.texts)
    body.vertex_groups.new(name="hat")
    settings.start.region = "hat"
    assert not {"keep_size", "height"} & set(draw().props), "a region keeps the size"
    settings.start.kind, settings.start.region = "texture", ""
    body.data.uv_layers.remove(body.data.uv_layers[0])
    seen = draw()
    assert f"{body.name!r} has no UV map. Importing the texture adds one." in " ".join(seen.texts)
    assert not ({"strength", "keep_size", "height"} | stages) & set(seen.props)
    settings.start.kind = "prompt"
    seen = draw()
    assert not {"object", "strength", "auto_turntable"} & set(seen.props) and "height" in seen.props


def test_continue_and_result(draw, fake_backend, settle):
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    job = settle()
    assert draw().operators.count("recdreamer.continue_job") == 1
    bpy.ops.recdreamer.continue_job(job_id=job.id)
    seen = draw()
    assert "a bear" in seen.texts and "recdreamer.make_quads" not in seen.operators
    assert "Import the result to limit changes to a vertex group or a painted mask." in " ".join(seen.texts)
    bpy.ops.recdreamer.import_result()
    seen = draw()
    assert "region_item" in seen.props
    assert {"recdreamer.make_quads", "recdreamer.make_lods", "recdreamer.continue_selected"} <= set(
        seen.operators
    )
    assert "recdreamer.restore_materials" not in seen.operators
    bpy.ops.recdreamer.make_quads(target_faces=400)
    seen = draw()
    assert "The quads have no texture yet" in " ".join(seen.texts)
    assert "recdreamer.bake_quads" in seen.operators


def test_running(draw, fake_backend, addon, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3000}))
    session = addon("session").session
    assert "a bear · starting" in draw().texts
    pump_until(lambda: session.shown.state.step > 2)
    seen = draw()
    assert any(text.startswith("Shape  ") for text in seen.texts)
    assert any("it/s" in text for text in seen.texts)
    assert any(text.startswith("Stage 2 of 5  ·  ") and "left" in text for text in seen.texts)
    assert "Poses seen; equal shares are best:" in " ".join(seen.texts)
    poses = [text for text in seen.texts if text.endswith(" %")]
    assert poses == ["target  25 %", "front  40 %", "right  20 %", "back  22 %", "left  18 %"]
    assert {"recdreamer.pause", "recdreamer.cancel"} <= set(seen.operators)
    pump_until(lambda: session.shown.preview is not None)
    (above,) = draw().above
    assert {"recdreamer.pause", "recdreamer.cancel"} <= above, "below the picture they are out of sight"
    bpy.ops.recdreamer.pause()
    assert "a bear · saving…" in draw().texts
    pump_until(lambda: session.registry.running is None)
    seen = draw()
    assert "recdreamer.resume" in seen.operators
    assert any(text.startswith("Shape  ") for text in seen.texts), "how far it is"
    # Of a worker that was killed, as of a computer that was switched off.
    session.shown.state.it_per_s, session.shown.state.eta_s = 4.0, 100.0
    assert not any("it/s" in text or " s left" in text for text in draw().texts), "nothing runs"


def test_a_bar_without_steps_moves(settings, addon, pump_until, draw, monkeypatch):
    """Loading models took a minute in which nothing moved."""
    bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": "mute"}))
    module = addon("session")
    factors = []
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for _ in range(4):
        assert module.pump()  # The panel is drawn again,
        factors.append(
            addon("describe").progress(module.session.shown.state, module.session.since(module.session.shown))
        )
        clock[0] += 10
    assert [factor for factor, _ in factors] == sorted({factor for factor, _ in factors})  # and shows more.
    assert factors[-1][1] == "Starting the backend  30 s" and factors[-1][0] < 1
    assert any(text.startswith("Starting the backend  ") for text in draw().texts)


def test_the_status_bar_tells_of_a_job_and_of_its_end(settings, addon, pump_until, settle, monkeypatch):
    session, line = addon("session").session, addon("panels.job_progress").status_line
    assert line() == ("", "NONE")
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 60}))
    pump_until(lambda: session.shown.state.step > 2)
    text, _ = line()
    assert text.startswith("a red bear: Shape  ") and text.endswith(" left")
    settle()
    assert line() == ("a red bear: ready to import", "CHECKMARK")
    monkeypatch.setattr(addon("session"), "TOLD_S", 0.0)
    addon("session").pump()
    assert line() == ("", "NONE")
    monkeypatch.undo()
    bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": "fail"}))
    settle()
    assert line() == ("a red bear: failed · There is not enough memory for this job.", "ERROR")
    header = SimpleNamespace(layout=RecorderLayout())
    addon("panels.job_progress").draw_status_bar(header, bpy.context)
    assert header.layout.record.texts == ["a red bear: failed · There is not enough memory for this job."]


@pytest.mark.parametrize(
    ("mode", "word", "operator"),
    [("work", "done", "recdreamer.import_result"), ("fail", "failed", "recdreamer.resume")],
)
def test_ended(draw, fake_backend, settle, mode, word, operator):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": mode}))
    settle()
    seen = draw()
    assert f"a bear · {word}" in seen.texts
    assert operator in seen.operators
    assert seen.operators.count("recdreamer.repeat_stage") == (2 if mode == "work" else 0)
    assert ("There is not enough memory for this job." in " ".join(seen.texts)) == (mode == "fail")


def test_damaged_job(draw, fake_backend, addon, settle):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    settle().folder.request.write_text("{")
    addon("session").session.stop()
    seen = draw()
    assert "job.json cannot be read" in " ".join(seen.texts)
    assert "recdreamer.delete_job" in seen.operators


def test_a_job_on_another_computer(draw, fake_backend, settle, addon):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    job = settle()
    state = {"status": "running", "host": "render-7", "updated_s": time.time(), "step": 3, "total": 4}
    job.folder.state.write_text(json.dumps(state))
    addon("session").pump()
    seen = draw()
    assert "a bear · running on render-7" in seen.texts
    assert "recdreamer.pause" in seen.operators and "recdreamer.resume" not in seen.operators
    assert bpy.ops.recdreamer.pause() == {"FINISHED"}
    assert (job.folder.root / "stop").read_text() == "pause"


def test_where_jobs_run_is_chosen_in_the_tab(draw, fake_backend, preferences):
    assert "place" in draw().props and "cluster" not in draw().props
    preferences.place = "cluster"
    assert "cluster" in draw().props


def test_every_condition_has_an_icon(addon):
    panels = addon("panels.jobs")
    assert set(panels.CONDITION_ICONS.values()) <= ICONS
    assert set(panels.CONDITION_WORDS) <= set(panels.CONDITION_ICONS)


def test_preferences(draw_preferences, addon, preferences, fake_backend):
    assert "Ready:" in " ".join(draw_preferences().texts)
    preferences.backend_python = ""
    assert "not installed yet" in " ".join(draw_preferences().texts)
    module = addon("jobs.task")
    session = addon("session").session
    session.task = module.Task([module.Step("Working", ["sleep", "60"])])
    seen = draw_preferences()
    assert "Working" in seen.texts and "recdreamer.cancel_backend_task" in seen.operators
    assert not bpy.ops.recdreamer.check_backend.poll()
    bpy.ops.recdreamer.cancel_backend_task()
    session.task.join()
    assert "Canceled." in draw_preferences().texts


def test_four_views_in_a_strip_are_shown_as_two_rows(addon):
    views = [np.full((3, 3, 4), number) for number in range(4)]
    folded = addon("pictures.previews").fold(np.concatenate(views, axis=1))
    assert folded.shape == (6, 6, 4)
    # Rows count from the bottom, so the first two views are on top.
    assert [folded[row, column, 0] for row in (5, 0) for column in (0, 5)] == [0, 1, 2, 3]


def test_pictures_of_a_file(addon, fake_backend, settle):
    previews = addon("pictures.previews")
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate()
    path = settle().preview
    previews.clear()
    for mirrored in (False, True):
        assert previews.icon(path, mirrored=mirrored) == 0 and previews.is_behind()  # Not read while drawing,
        while previews.is_behind():
            previews.load_next()  # but by the timer.
        assert not previews._wanted
    shown = [
        np.reshape(preview.image_pixels_float, (128, 128, 4)) for preview in previews._collection.values()
    ]
    assert np.allclose(shown[0], shown[1][:, ::-1], atol=0.02)
    assert previews.icon(path.with_name("gone.png")) == 0
    previews.clear()


def test_no_picture_is_read_in_a_draw(draw, fake_backend, block_out, addon, pump_until, monkeypatch):
    """Sixteen cards took 376 ms of the first draw."""
    previews = addon("pictures.previews")
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    read = []
    load = previews._load
    monkeypatch.setattr(previews, "_load", lambda *key: read.append(key) or load(*key))
    draw()
    assert read == [] and previews.is_behind()
    for _ in range(4):
        before = len(read)
        addon("session").pump()
        assert len(read) <= before + 1  # A tick reads one at most.
    pump_until(lambda: not previews.is_behind())
    assert len(read) == 4
    draw()
    addon("session").pump()
    assert len(read) == 4


def test_preferences_open_at_the_add_on(extension):
    bpy.context.preferences.active_section = "INTERFACE"
    # The operator finally opens a window, which is impossible here.
    with pytest.raises(RuntimeError, match="userpref_show"):
        bpy.ops.recdreamer.open_preferences()
    assert bpy.context.preferences.active_section == "ADDONS"
    assert bpy.context.window_manager.addon_search == "RecDreamer"


def test_installation_needs_online_access(draw_preferences, addon):
    addon("session").session.hardware.wait()
    assert not bpy.app.online_access
    assert not bpy.ops.recdreamer.set_up_backend.poll()
    assert "Allow Online Access" in " ".join(draw_preferences().texts)
    bpy.context.preferences.system.use_online_access = True
    assert bpy.ops.recdreamer.set_up_backend.poll()
    assert "Allow Online Access" not in " ".join(draw_preferences().texts)
    bpy.context.preferences.system.use_online_access = False


def test_verdicts_on_the_cards(draw, fake_backend, block_out, addon, pump_until, monkeypatch):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    bpy.context.scene.recdreamer.prompt = "a bear"
    shown = []
    monkeypatch.setattr(addon("pictures.previews"), "icon", lambda path, **_: shown.append(path) or 1)
    assert "recdreamer.check_templates" in draw().operators
    bpy.ops.recdreamer.check_templates()
    session = addon("session").session
    assert "recdreamer.cancel_errand" in draw().operators
    pump_until(lambda: not session.errand.task.is_running)
    seen = draw()
    assert seen.texts.count("front  75 %") == 2
    assert {"ERROR", "CHECKMARK"} <= set(seen.icons)
    assert "This view looks like front, but its label is back. Change its label" in " ".join(seen.texts)
    assert "Front and left cannot be told apart. Mirror one of them, or remove it." in " ".join(seen.texts)
    for view, name in (("MASK", "overlay"), ("MATCH", "match"), ("PICTURE", "")):
        bpy.context.scene.recdreamer.shelf_view = view
        shown.clear()
        draw()
        assert all(path.name.startswith(name) for path in shown) and len(shown) == 2
    bpy.context.scene.recdreamer.templates[1].label = "left"
    seen = draw()
    assert seen.texts.count("front  75 %") == 1
    assert "Front and left cannot be told apart." not in " ".join(seen.texts)


def test_gallery(draw, fake_backend, addon, pump_until):
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.draw_samples()
    session = addon("session").session
    pump_until(lambda: session.gallery)
    bpy.ops.recdreamer.pick_sample(index=1)
    seen = draw()
    assert seen.operators.count("recdreamer.pick_sample") == 3
    assert {"front  97 %", "front  81 %", "back  66 %", "Add Selected (1)"} <= set(seen.texts)
    bpy.context.scene.recdreamer.prompt = "a broken bear"
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: not session.errand.task.is_running)
    assert "The prior has no memory left." in " ".join(draw().texts)


def test_card_menu(extension, addon, block_out):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    layout = RecorderLayout()
    scene = bpy.context.scene
    context = SimpleNamespace(scene=scene, recdreamer_template=scene.recdreamer.templates[1])
    addon("panels.shelf").RECDREAMER_MT_card.draw(SimpleNamespace(layout=layout), context)
    assert layout.record.operators == [
        "recdreamer.move_template",
        "recdreamer.move_template",
        "recdreamer.fly_to_template",
        "recdreamer.redo_template",
        "recdreamer.mirror_template",
        "recdreamer.remove_template",
        "recdreamer.draw_novel_views",
        "recdreamer.open_preferences",
    ]


def test_no_two_buttons_of_one_name_mean_different_things(
    draw, fake_backend, block_out, addon, pump_until, settle
):
    """In each state of the tab: three buttons were called Continue, and two Check."""
    states = [draw().buttons]
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    bpy.context.scene.recdreamer.prompt = "a bear"
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 300}))
    session = addon("session").session
    pump_until(lambda: session.shown.state.step > 2)
    states.append(draw().buttons)
    bpy.ops.recdreamer.cancel()
    settle()
    states.append(draw().buttons)
    bpy.ops.recdreamer.generate()
    settle()
    bpy.ops.recdreamer.import_result()
    states.append(draw().buttons)
    for buttons in states:
        meanings = {}
        for text, idname in buttons:
            meanings.setdefault(text, set()).add(idname)
        assert {text: found for text, found in meanings.items() if text and len(found) > 1} == {}


def test_every_button_has_a_tooltip(extension):
    for name in dir(bpy.ops.recdreamer):
        assert getattr(bpy.ops.recdreamer, name).get_rna_type().description, name
