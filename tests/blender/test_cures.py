"""The next step of every error and of every reason why Generate is gray: a button that exists, works, and helps."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import bpy
import pytest


@pytest.fixture
def cures(addon):
    return addon("cures").CURES


@pytest.fixture
def fail(settings, settle):
    """A job that has failed with an error of a kind."""

    def fail(kind, **overrides):
        bpy.ops.recdreamer.generate(overrides=json.dumps({"fake": "fail", "kind": kind, **overrides}))
        job = settle()
        assert job.condition == "failed", job.state
        return job

    return fail


def test_every_button_of_the_table_exists_with_its_properties(extension, cures):
    for cure in cures.values():
        module, name = cure.operator.split(".")
        properties = getattr(getattr(bpy.ops, module), name).get_rna_type().properties
        wanted = {**cure.properties, **({"job_id": ""} if cure.needs_job else {})}
        for key, value in wanted.items():
            assert key in properties, f"{cure.operator} has no {key}"
            if properties[key].type == "ENUM" and properties[key].enum_items:
                assert value in properties[key].enum_items


def test_each_kind_of_error_shows_its_button(fail, draw, addon, cures):
    job = fail("internal")
    for kind, cure in cures.items():
        job.state = replace(job.state, kind=kind)
        seen = draw()
        assert cure.label in seen.texts and cure.operator in seen.operators, kind


def test_retry_smaller_runs_a_smaller_job_and_keeps_the_old_one(fail, draw, settle, addon, settings):
    settings.quality = "standard"
    job = fail("out_of_memory")
    assert "Retry Smaller" in draw().texts
    assert bpy.ops.recdreamer.retry(job_id=job.id, change="smaller") == {"FINISHED"}
    again = settle()
    assert again is not job and addon("session").session.registry.find(job.id) is not None
    assert (again.request.quality, again.request.prompt) == ("quick", job.request.prompt)
    (again.folder.root / "config.json").write_text(
        json.dumps({"optimize": {"num_views": 1, "render_px": 64}})
    )
    with pytest.raises(RuntimeError, match="as little memory as it can already"):
        bpy.ops.recdreamer.retry(job_id=again.id, change="smaller")


def test_a_retry_runs_where_jobs_run(fail, addon, monkeypatch, preferences):
    job, started = fail("non_finite"), {}
    preferences.place, preferences.cluster = "cluster", "ray://10.0.0.5:10001"
    registry = addon("session").session.registry
    monkeypatch.setattr(registry, "start", lambda *_, **options: started.update(options))
    bpy.ops.recdreamer.retry(job_id=job.id, change="seed")
    assert started["where"] == ("--on=ray://10.0.0.5:10001",)


def test_a_new_seed_keeps_templates_and_start(fail, settle, settings, block_out):
    settings.method = "usd"
    bpy.ops.recdreamer.capture_turntable()
    settings.start.kind, settings.start.object = "object", block_out[0]
    job = fail("non_finite")
    assert bpy.ops.recdreamer.retry(job_id=job.id, change="seed") == {"FINISHED"}
    again = settle()
    assert again.request.seed != job.request.seed
    assert replace(again.request, seed=0) == replace(job.request, seed=0)
    for name in ("start/mesh.npz", "start/placement.json", *(one.image for one in job.request.templates)):
        assert (again.folder.root / name).read_bytes() == (job.folder.root / name).read_bytes()


def break_template(settings):
    bpy.ops.recdreamer.capture_turntable(num_views=2)
    settings.templates[1].label = ""


def break_start(settings):
    settings.start.kind = "object"


def break_mode(settings):
    settings.start.kind, settings.start.object = "object", bpy.context.object
    bpy.ops.object.mode_set(mode="EDIT")


@pytest.mark.parametrize(
    ("spoil", "kind", "label"),
    [
        (lambda settings: setattr(settings, "prompt", " "), "prompt", "Use an Example"),
        (break_template, "template", "Show Template"),
        (break_start, "start", "Use Active Object"),
        (break_mode, "mode", "Object Mode"),
    ],
)
def test_the_cure_of_a_gray_generate_makes_it_work(
    settings, block_out, sentence, draw, cures, spoil, kind, label
):
    assert sentence() == ""
    spoil(settings)
    assert sentence().kind == kind and label in draw().texts
    cure = cures[kind]
    module, name = cure.operator.split(".")
    assert getattr(getattr(bpy.ops, module), name)(**cure.properties) == {"FINISHED"}
    if kind == "template":
        seen = draw()
        assert seen.operators.count("recdreamer.remove_template") == 3, (
            "the card is shown beside the message, too"
        )
        settings.templates[1].label = "back"
    assert sentence() == ""


def test_the_template_that_the_backend_names_is_the_one_that_is_shown(settings, block_out, addon):
    bpy.ops.recdreamer.capture_turntable(num_views=4)
    at_fault = addon("operators.next_steps").template_at_fault
    assert (
        at_fault(settings, "The template '2.png' is transparent everywhere.") == settings.templates[2].image
    )
    assert at_fault(settings, "The template '9.png' is odd.") == settings.templates[0].image
    settings.templates[3].path.unlink()
    assert at_fault(settings) == settings.templates[3].image


def test_a_job_that_runs_behind_another_is_shown(settings, generate, draw, addon, settle):
    first, _ = generate()
    session = addon("session").session
    bpy.ops.recdreamer.generate(overrides=json.dumps({"steps": 3000}))
    assert "Show Job" not in draw().texts, "its progress is there"
    bpy.ops.recdreamer.show_job(job_id=first.id)
    assert "Show Job" in draw().texts
    bpy.ops.recdreamer.show_running()
    assert session.shown is session.registry.running
    bpy.ops.recdreamer.cancel()
    settle()


def test_import_in_edit_mode_has_the_way_out(settings, generate, draw, block_out):
    generate()
    bpy.ops.object.mode_set(mode="EDIT")
    assert "Object Mode" in draw().texts and not bpy.ops.recdreamer.import_result.poll()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert "Object Mode" not in draw().texts


def test_the_log_of_a_job_is_one_click_away(fail, addon, monkeypatch):
    job = fail("internal")
    opened = []

    def path_open(*, filepath):
        opened.append(filepath)

    fake = SimpleNamespace(wm=SimpleNamespace(path_open=path_open))
    monkeypatch.setattr(addon("operators.next_steps").bpy, "ops", fake)
    operator = addon("operators.next_steps").RECDREAMER_OT_open_job_log
    assert operator.act(operator, bpy.context, job) == ""
    assert opened == [str(job.folder.log)]


def test_where_no_program_opens_a_log_it_is_said_where_it_is(fail, addon, monkeypatch):
    job = fail("internal")

    def path_open(*, filepath):
        raise RuntimeError(
            "Error: Python: Traceback (most recent call last):\n  …\nFileNotFoundError: xdg-open"
        )

    monkeypatch.setattr(
        addon("operators.guarded").bpy, "ops", SimpleNamespace(wm=SimpleNamespace(path_open=path_open))
    )
    said = f"This system has no program that opens {job.folder.log}. Look at it with one of your own."
    operator = addon("operators.next_steps").RECDREAMER_OT_open_job_log
    assert operator.act(operator, bpy.context, job) == said
    folder = addon("operators.jobs").RECDREAMER_OT_open_folder
    assert folder.act(folder, bpy.context, job) == said.replace(str(job.folder.log), str(job.folder.root))
    log = addon("operators.setup").RECDREAMER_OT_open_log
    assert "no program that opens" in log.run(log, bpy.context) and "install.log" in log.run(log, bpy.context)
