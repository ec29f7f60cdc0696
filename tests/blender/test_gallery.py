"""Pictures drawn by models and chosen for the shelf, and the template check, with a stand-in backend."""

from __future__ import annotations

import json

import bpy
import pytest


@pytest.fixture
def settings(fake_backend):
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a red béar"
    return settings


@pytest.fixture
def session(addon):
    return addon("session").session


@pytest.fixture
def run(session, pump_until):
    """Start an errand and wait until it ends. Returns its problem."""

    def run(operator, **properties) -> str:
        assert operator(**properties) == {"FINISHED"}
        pump_until(lambda: not session.errand.task.is_running)
        return session.errand.task.problem

    return run


def test_pick_what_the_prior_drew(settings, session, run):
    assert run(bpy.ops.recdreamer.draw_samples) == ""
    assert [(s.label, s.share) for s in session.gallery.samples] == [
        ("front", 0.97), ("front", 0.81), ("back", 0.66),
    ]  # fmt: skip
    assert not bpy.ops.recdreamer.add_picked.poll()
    for index in (0, 1, 2, 1):
        bpy.ops.recdreamer.pick_sample(index=index)
    assert session.gallery.picked == {0, 2}
    assert bpy.ops.recdreamer.add_picked() == {"FINISHED"}
    assert session.gallery is None
    assert [(t.label, t.source, t.has_camera, t.azimuth_deg) for t in settings.templates] == [
        ("front", "prior", True, 0),
        ("back", "prior", True, 180),
    ]
    assert all(t.path.is_file() for t in settings.templates)
    first = settings.to_request().templates[0]
    assert (first.azimuth_deg, first.elevation_deg) == (0, None)


def test_the_gallery_is_drawn_as_the_settings_say(settings, session, addon, monkeypatch):
    settings.seed = 7
    request = settings.to_request(with_templates=False)
    tasks = addon("jobs.errands")
    steps = []
    monkeypatch.setattr(tasks, "Task", lambda made, folder: steps.extend(made))
    path = addon("properties").Path
    tasks.gallery_task(["python"], request, path("out"), path("data"))
    assert steps[0].command == [
        "python", "templates", "gallery", "--prompt", "a red béar", "--out", "out", "--seed", "7",
        "--prior", "builtin", "--device", "cpu",
    ]  # fmt: skip


def test_discard(settings, session, run):
    run(bpy.ops.recdreamer.draw_samples)
    with pytest.raises(RuntimeError, match="There is no picture 9"):
        bpy.ops.recdreamer.pick_sample(index=9)
    bpy.ops.recdreamer.discard_gallery()
    assert session.gallery is None and not settings.templates
    assert not bpy.ops.recdreamer.pick_sample.poll()


def test_long_work_shows_where_it_is_and_can_be_cancelled(settings, session, pump_until):
    settings.prompt = "a slow bear"
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: session.errand.task.line == "Picture 1 of 4")
    assert not bpy.ops.recdreamer.draw_samples.poll(), "one errand at a time"
    assert bpy.ops.recdreamer.cancel_errand() == {"FINISHED"}
    pump_until(lambda: not session.errand.task.is_running)
    assert session.errand.task.problem == "Canceled." and session.gallery is None
    assert bpy.ops.recdreamer.draw_samples.poll() and not bpy.ops.recdreamer.cancel_errand.poll()


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a broken bear", "Drawing failed: The prior has no memory left."),
        ("a damaged bear", "cannot be read"),
    ],
)
def test_trouble_is_one_sentence(settings, session, run, prompt, sentence):
    settings.prompt = prompt
    assert sentence in run(bpy.ops.recdreamer.draw_samples)
    assert session.gallery is None


def test_missing_input_disables_the_buttons(extension, fake_backend):
    poll = bpy.ops.recdreamer.draw_samples.poll
    assert not poll()
    bpy.context.scene.recdreamer.prompt = "a bear"
    assert poll()
    assert not bpy.ops.recdreamer.draw_novel_views.poll(), "no model"
    assert not bpy.ops.recdreamer.check_templates.poll(), "no template"


def test_novel_views_are_relative_to_their_source(settings, session, run, preferences, block_out, tmp_path):
    bpy.ops.recdreamer.capture_turntable()
    bpy.ops.recdreamer.mirror_template(index=1)
    preferences.views_model = str(tmp_path)
    assert run(bpy.ops.recdreamer.draw_novel_views, index=2) == "", "of a mirrored picture"
    bpy.ops.recdreamer.pick_sample(index=0)
    bpy.ops.recdreamer.pick_sample(index=1)
    bpy.ops.recdreamer.add_picked()
    assert [(t.label, t.source, t.azimuth_deg) for t in settings.templates][5:] == [
        ("left", "novel_view", 270),
        ("front", "novel_view", 0),
    ]
    with pytest.raises(RuntimeError, match="There is no template 99"):
        bpy.ops.recdreamer.draw_novel_views(index=99)


def test_check(settings, session, run, block_out):
    bpy.ops.recdreamer.capture_turntable()
    settings.templates[1].enabled = False
    assert run(bpy.ops.recdreamer.check_templates) == ""
    check = session.check
    front, right, back, left = settings.templates
    assert right.key not in check.verdicts, "a disabled card is not checked"
    assert check.verdicts[front.key].reads_as == "front" and not check.verdicts[front.key].warnings
    assert check.verdicts[back.key].warnings[0].hint == (
        "Change its label, mirror it if it faces the other way, or use another picture."
    )
    assert check.verdicts[left.key].overlay.is_file() and check.verdicts[left.key].match.is_file()
    assert bpy.ops.recdreamer.generate.poll(), "a warning does not block Generate"


def test_a_verdict_holds_for_the_card_that_was_checked(settings, session, run, addon, block_out):
    bpy.ops.recdreamer.capture_turntable()
    run(bpy.ops.recdreamer.check_templates)
    panels, verdicts = addon("panels.shelf"), session.check.verdicts
    shelf = settings.templates
    assert all(t.key in verdicts for t in shelf) and panels.is_of_this_shelf(session.check, settings)
    shelf[0].label = "back"
    shelf[1].mirrored = True
    bpy.ops.recdreamer.redo_template(index=2)
    assert [t.key in verdicts for t in shelf] == [False, False, False, True]
    assert not panels.is_of_this_shelf(session.check, settings)
    shelf[0].label, shelf[3].weight = "front", 2
    assert [t.key in verdicts for t in shelf] == [True, False, False, True]


def test_check_without_a_prompt_or_of_one_class(settings, session, run, block_out):
    settings.prompt = ""
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    assert run(bpy.ops.recdreamer.check_templates) == ""
    settings.templates[0].enabled = False
    with pytest.raises(RuntimeError, match="show 1 pose class"):
        bpy.ops.recdreamer.check_templates()


def test_old_folders_go(settings, run, preferences, addon):
    for _ in range(addon("jobs.errands").KEPT_FOLDERS + 2):
        addon("jobs.errands").new_folder(preferences.folder / "galleries", "a bear")
    assert len(list((preferences.folder / "galleries").iterdir())) == addon("jobs.errands").KEPT_FOLDERS


def test_a_check_that_ends_after_another_file_was_opened(settings, session, pump_until, block_out):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    bpy.ops.recdreamer.check_templates()
    bpy.ops.wm.read_homefile(use_empty=True)
    pump_until(lambda: not session.errand.task.is_running)
    assert len(session.check.verdicts) == 2 and not bpy.context.scene.recdreamer.templates


def test_switching_off_ends_the_errand(settings, session, addon, pump_until):
    settings.prompt = "a slow bear"
    bpy.ops.recdreamer.draw_samples()
    pump_until(lambda: session.errand.task.line)
    process = session.errand.task._process
    session.stop()
    assert process.code is not None and session.errand is None


def test_damaged_check(settings, session, run, addon, block_out, tmp_path):
    tasks = addon("jobs.errands")
    folder = tmp_path / "checked"
    (folder / "check").mkdir(parents=True)
    for text in ("{", "[]", json.dumps({"templates": [{}]}), json.dumps({"templates": []})):
        (folder / "check/check.json").write_text(text)
        with pytest.raises(Exception, match="The check cannot be read"):
            tasks.read_check(folder, [("a.png", "front", False)])
