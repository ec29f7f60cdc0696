"""History: all jobs in Blender's list, comparison, A / B, pins, cleaning up, and folders from elsewhere."""

from __future__ import annotations

import shutil
import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from .objects import reported
from .recorder import RecorderLayout


@pytest.fixture
def jobs(generate, settings, addon):
    """Two finished jobs, older first."""
    settings.seed = 1
    first, _ = generate()
    time.sleep(1.1 - time.time() % 1)  # The names of jobs have whole seconds.
    settings.prompt, settings.seed = "a blue bear", 2
    second, _ = generate()
    addon("session").pump()
    return first, second


@pytest.fixture
def listed(addon):
    """Prompts of the rows in the order and with the filter of the list."""

    def listed(words="", state="ALL"):
        panel = addon("panels.list_of_jobs")
        registry = addon("session").session.registry
        found = [registry.find(row.job_id) for row in bpy.context.window_manager.recdreamer_jobs]
        flags, places = panel.shown_rows(found, words, state, 1)
        rows = sorted(zip(places, flags, found, strict=True), key=lambda row: row[0])
        return [job.request.prompt if job.request else job.id for _, flag, job in rows if flag]

    return listed


def test_every_job_has_a_row_and_the_selected_one_is_in_the_panel(jobs, addon, listed, draw):
    session, manager = addon("session").session, bpy.context.window_manager
    assert listed() == ["a blue bear", "a red bear"]
    names = [row.job_id for row in manager.recdreamer_jobs]
    manager.recdreamer_job_index = names.index(jobs[0].id)
    assert session.shown is jobs[0]
    assert "recdreamer.clean_up" in draw().operators
    bpy.ops.recdreamer.show_job(job_id=jobs[1].id)
    addon("session").pump()
    assert names[manager.recdreamer_job_index] == jobs[1].id
    bpy.ops.wm.read_homefile(use_empty=True)
    addon("session").pump()
    assert len(bpy.context.window_manager.recdreamer_jobs) == 2 and session.shown is jobs[1]


def test_rows_are_found_by_words_and_by_state(jobs, listed, addon, settings):
    assert listed("BLUE") == ["a blue bear"] and listed("bear") == ["a blue bear", "a red bear"]
    bpy.ops.recdreamer.hold_queue()
    settings.prompt = "a green bear"
    bpy.ops.recdreamer.generate()
    addon("session").pump()
    assert listed(state="UNFINISHED") == ["a green bear"]
    assert listed(state="RESULTS") == ["a blue bear", "a red bear"]
    bpy.ops.recdreamer.pin_job(job_id=jobs[0].id)
    assert listed(state="PINNED") == ["a red bear"]
    assert listed()[0] == "a red bear", "pinned ones come first"


def test_a_row_shows_picture_age_and_size(jobs, addon):
    session = addon("session").session
    session.folder_sizes.of(jobs[0])
    session.folder_sizes.poll(float("inf"))
    layout = RecorderLayout()
    row = next(r for r in bpy.context.window_manager.recdreamer_jobs if r.job_id == jobs[0].id)
    rows = addon("panels.list_of_jobs").RECDREAMER_UL_jobs
    rows.draw_item(SimpleNamespace(), bpy.context, layout, None, row, 0, None, "", 0)
    assert "1 MB  just now" in layout.record.texts and "UNPINNED" in layout.record.icons


def test_a_deleted_job_has_no_row(jobs, addon, listed):
    bpy.ops.recdreamer.delete_job(job_id=jobs[1].id)
    addon("session").pump()
    assert listed() == ["a red bear"]


def test_a_pin_is_in_the_folder(jobs, addon):
    bpy.ops.recdreamer.pin_job(job_id=jobs[0].id)
    other = addon("jobs.registry").JobRegistry(addon("session").session.registry.data_folder)
    assert other.find(jobs[0].id).is_pinned and not other.find(jobs[1].id).is_pinned
    bpy.ops.recdreamer.pin_job(job_id=jobs[0].id, pin=False)
    assert not (jobs[0].folder.root / "pinned").exists()


def test_the_settings_of_two_jobs_are_compared(jobs, draw):
    bpy.ops.recdreamer.compare_job(job_id=jobs[0].id)
    bpy.ops.recdreamer.show_job(job_id=jobs[1].id)
    seen = draw()
    words = " ".join(seen.texts)
    assert "Prompt: a red bear → a blue bear" in words and "Seed: 1 → 2" in words
    assert "Method: vsd" not in words and "recdreamer.show_other" in seen.operators
    bpy.ops.recdreamer.compare_job(job_id=jobs[0].id)
    assert "recdreamer.show_other" not in draw().operators


def test_a_and_b_take_turns_at_one_place(jobs):
    bpy.context.scene.cursor.location = (1, 2, 3)
    bpy.ops.recdreamer.import_result(job_id=jobs[0].id)
    first = bpy.context.object
    first.rotation_euler.z = 1
    bpy.context.view_layer.update()
    bpy.context.scene.cursor.location = (0, 0, 0)
    assert bpy.ops.recdreamer.show_other(job_id=jobs[1].id, other_id=jobs[0].id) == {"FINISHED"}
    second = next(obj for obj in bpy.data.objects if obj != first)
    assert np.allclose(second.matrix_world, first.matrix_world, atol=1e-6)
    assert [obj.visible_get() for obj in (first, second)] == [True, False]
    bpy.ops.recdreamer.show_other(job_id=jobs[1].id, other_id=jobs[0].id)
    assert [obj.visible_get() for obj in (first, second)] == [False, True]
    assert bpy.context.object == second
    assert "Mark another job" in reported(bpy.ops.recdreamer.show_other, job_id=jobs[1].id)


def test_a_and_b_that_are_new_are_seen_with_their_textures(jobs, view):
    bpy.context.scene.cursor.location = (50, 0, 0)
    with view() as space:
        space.region_3d.view_location = (0, 0, 0)
        bpy.ops.recdreamer.show_other(job_id=jobs[1].id, other_id=jobs[0].id)
        assert space.shading.color_type == "TEXTURE"
        assert space.region_3d.view_location.x == pytest.approx(50, abs=1)
        space.shading.color_type = "RANDOM"
        bpy.ops.recdreamer.show_other(job_id=jobs[1].id, other_id=jobs[0].id)
        assert space.shading.color_type == "RANDOM"


def test_a_deletion_names_what_it_deletes(jobs, addon):
    assert (
        addon("operators.history").question(jobs[0])
        == "Delete “a red bear” and its 1 MB? This cannot be undone."
    )


def test_cleaning_up_leaves_what_is_pinned_waits_runs_or_is_young(jobs, addon, settings, settle):
    history, session = addon("operators.history"), addon("session").session
    assert history.to_clean_up("ALL", 7) == []
    bpy.ops.recdreamer.pin_job(job_id=jobs[0].id)
    settings.quality = "quick"
    bpy.ops.recdreamer.generate()
    draft = settle()
    settings.quality = "standard"
    bpy.ops.recdreamer.generate(overrides='{"fake": "fail"}')
    failed = settle()
    bpy.ops.recdreamer.hold_queue()
    bpy.ops.recdreamer.generate()
    waiting = session.shown
    assert history.to_clean_up("UNFINISHED", 0) == [failed]
    assert history.to_clean_up("DRAFTS", 0) == [failed, draft]
    assert history.to_clean_up("ALL", 0) == [failed, draft, jobs[1]]
    failed.state.updated_s = time.time() - 8 * 86400
    assert history.to_clean_up("ALL", 7) == [failed]
    assert bpy.ops.recdreamer.clean_up(kind="ALL", days=0) == {"FINISHED"}
    assert {job.id for job in session.registry.jobs} == {jobs[0].id, waiting.id}
    assert not failed.folder.root.exists() and jobs[0].folder.root.exists()


def test_a_folder_from_elsewhere_becomes_a_job(jobs, addon, tmp_path):
    session, elsewhere = addon("session").session, tmp_path / "from a friend"
    shutil.copytree(jobs[0].folder.root, elsewhere)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (elsewhere / "link").symlink_to(secret)
    assert bpy.ops.recdreamer.open_job(directory=str(elsewhere)) == {"FINISHED"}
    job = session.shown
    assert job.id not in (jobs[0].id, jobs[1].id) and job.condition == "done"
    assert job.request.prompt == "a red bear" and not (job.folder.root / "link").exists()
    assert bpy.ops.recdreamer.import_result() == {"FINISHED"}
    assert elsewhere.is_dir(), "it is a copy"
    assert bpy.ops.recdreamer.open_job(directory=str(jobs[1].folder.root)) == {"FINISHED"}
    assert session.shown is jobs[1] and len(session.registry.jobs) == 3


def test_a_folder_that_is_no_job_is_refused(jobs, addon, tmp_path):
    count = len(addon("session").session.registry.jobs)
    assert "job.json" in reported(bpy.ops.recdreamer.open_job, directory=str(tmp_path))
    assert "Choose the folder" in reported(bpy.ops.recdreamer.open_job)
    addon("session").pump()
    assert len(addon("session").session.registry.jobs) == count


def test_what_came_from_what_is_a_click_away(jobs, addon, draw):
    session = addon("session").session
    bpy.ops.recdreamer.retry(job_id=jobs[0].id, change="seed")
    addon("session").pump()
    assert "From a red bear" in draw().texts
    assert addon("jobs.origin").origin_of(session.shown.folder, session.shown.request).how == "retry"
