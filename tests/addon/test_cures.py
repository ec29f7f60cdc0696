"""The table of next steps: every kind of error has one, and a job that is tried again is really smaller."""

from __future__ import annotations

from typing import get_args

import pytest
from recdreamer_extension.addon.cures import CURES, cure_of
from recdreamer_extension.addon.jobs.registry import JobRegistry
from recdreamer_extension.addon.jobs.retry import config_of, smaller
from recdreamer_extension.addon.jobs.task import BACKEND
from recdreamer_extension.backend.recdreamer.shared.protocol import (
    ErrorKind,
    JobRequest,
    JobState,
    RequestError,
)


def test_every_kind_of_error_has_a_next_step_and_no_other_word_has():
    assert set(CURES) == set(get_args(ErrorKind))
    assert all(cure_of(kind, has_job=True) for kind in get_args(ErrorKind))


def test_jobs_of_earlier_versions_have_their_log():
    assert cure_of("", has_job=True).label == "Open Log" and cure_of("", has_job=False) is None
    assert JobState().kind == ""


def test_no_label_is_cut_in_a_sidebar():
    """Blender's default sidebar is 292 px wide, which leaves about 30 letters beside an icon."""
    assert all(len(cure.label) <= 28 for cure in CURES.values())


def test_retry_smaller_asks_for_less_each_time():
    request = JobRequest("a bear", quality="standard", prior="sd", overrides={"a.b": 1})
    config = {name: {"num_views": 4, "render_px": 256} for name in ("optimize", "geometry", "texture")}
    request = smaller(request, config, "taesd")
    # A draft of it would take as much.
    assert (request.quality, request.overrides) == ("standard", {"a.b": 1, "rectifier.tiny_decoder": "taesd"})
    request = smaller(request, config, "taesd")
    views = {f"{name}.num_views": 2 for name in config}
    assert request.overrides == {"a.b": 1, "rectifier.tiny_decoder": "taesd"} | views
    one_view = {name: {"num_views": 1, "render_px": 256} for name in config}
    assert smaller(request, one_view).overrides["texture.render_px"] == 128
    least = {name: {"num_views": 1, "render_px": 64} for name in config}
    with pytest.raises(RequestError, match="as little memory as it can"):
        smaller(request, least)


def test_only_stages_that_run_are_made_smaller():
    request = JobRequest("a bear", quality="quick", start="texture", start_mesh="start/mesh.npz")
    config = {name: {"num_views": 4} for name in ("optimize", "geometry", "texture")}
    assert smaller(request, config).overrides == {"texture.num_views": 2}


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"optimize": 3}'])
def test_a_damaged_record_of_settings_is_no_obstacle(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert isinstance(config_of(tmp_path), dict) and config_of(tmp_path / "none") == {}
    with pytest.raises(RequestError):
        smaller(JobRequest("a bear", quality="quick"), config_of(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ({"fake": "fail", "kind": "model_missing"}, "model_missing"),
        ({"fake": "refuse"}, "install"),
        ({"fake": "die"}, "internal"),
        ({"fake": "other protocol"}, "outdated"),
        ({"fake": "busy"}, "busy"),
    ],
)
def test_the_kind_of_an_error_reaches_the_state_and_lasts(
    overrides, kind, tmp_path, fake_command, wait_until
):
    registry = JobRegistry(tmp_path)
    job = registry.create(JobRequest("a bear", overrides=overrides), [])
    registry.start(job, fake_command, BACKEND)
    wait_until(lambda: registry.poll() and job.client is None)
    assert (job.condition, job.state.kind) == ("failed", kind)
    assert JobRegistry(tmp_path).find(job.id).state.kind == kind, "after a restart, too"
