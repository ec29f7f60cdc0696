"""The audit on results whose order is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.audit import (
    METRICS,
    Audited,
    audit,
    find_results,
    is_bad,
    is_good,
    prefers_janus,
    prompt_of,
    rank_correlation,
    write_audit,
)
from recdreamer.evaluation.mesh_distance import figure_or_none
from recdreamer.evaluation.mesh_views import true_views
from recdreamer.images import write_sheet
from recdreamer.shared.protocol import RequestError

SEES, BLIND, CONTRARY = (Audited(key, key, 1, "") for key in ("sees", "blind", "contrary"))


def rows() -> list[dict]:
    """Three consistent and three Janus results of one prompt, and one of another without a partner."""
    made = []
    for k, agreement in enumerate((1.0, 0.95, 0.92, 0.5, 0.4, 0.3)):
        score = 0.0 if agreement > 0.9 else 2.0
        made.append({
            "prompt": "a red bear", "azimuth_agreement": agreement, "janus_score": score,
            "sees": agreement**2, "blind": float(k % 2), "contrary": -agreement,
        })  # fmt: skip
    return [*made, made[0] | {"prompt": "a blue bird", "sees": -5.0}]


def test_preferences_are_counted_within_a_prompt() -> None:
    assert prefers_janus(rows(), SEES) == (0.0, 9)
    assert prefers_janus(rows(), CONTRARY) == (1.0, 9)
    # Of 0, 1, 0 against 1, 0, 1: four pairs prefer Janus, four are even, one is right.
    assert prefers_janus(rows(), BLIND) == (pytest.approx(6 / 9), 9)
    lower = Audited("contrary", "", -1, "")
    assert prefers_janus(rows(), lower) == (0.0, 9), "the direction of the metric counts"
    share, pairs = prefers_janus(rows()[6:], SEES)
    assert math.isnan(share) and pairs == 0


def test_ranks_and_not_values_are_correlated() -> None:
    correlation, low, high = rank_correlation(rows()[:6], SEES)
    assert (correlation, low, high) == pytest.approx((1, 1, 1))
    assert rank_correlation(rows()[:6], CONTRARY)[0] == pytest.approx(-1)
    assert all(math.isnan(value) for value in rank_correlation(rows()[:3], SEES))


def test_what_is_consistent_and_what_is_janus() -> None:
    assert [is_good(row) for row in rows()] == [True] * 3 + [False] * 3 + [True]
    assert [is_bad(row) for row in rows()] == [False] * 3 + [True] * 3 + [False]
    half = {"azimuth_agreement": 0.95, "janus_score": 0.5}
    assert not is_good(half) and not is_bad(half)


def test_prompts_are_read_from_jobs_and_names(tmp_path: Path) -> None:
    assert (
        prompt_of(tmp_path / "usd_a-teal-rabbit_2") == "a teal rabbit" and prompt_of(tmp_path / "y1") is None
    )
    run = tmp_path / "a-red-bear"
    run.mkdir()
    (run / "job.json").write_text(json.dumps({"prompt": "a blue bird"}))
    assert prompt_of(run) == "a blue bird"


def ring(count: int, janus: bool = False) -> torch.Tensor:
    figure = figure_or_none("a red bear")
    assert figure is not None
    azimuth_deg = 7.5 + torch.arange(count) * (360.0 / count)
    if janus:
        azimuth_deg = azimuth_deg % 180 - 90
    return true_views(figure, orbit_cameras(azimuth_deg, torch.full((count,), 10.0), 4.0, 30.0), 64)


def test_both_kinds_of_pictures_are_measured_and_the_two_faced_one_is_janus(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, janus in (("usd_a-red-bear_1", False), ("vsd_a-red-bear_1", True)):
        (runs / name / "result").mkdir(parents=True)
        (runs / name / "row.json").write_text("{}")
        if janus:
            write_sheet(runs / name / "result" / "contact-sheet.png", ring(12, janus), 12, enlarge=2)
        else:
            write_sheet(runs / name / "views.png", ring(24), 24)
    (runs / "vsd_a-red-bear_2").mkdir()
    (runs / "vsd_a-red-bear_2" / "row.json").write_text("{}")  # Without pictures.
    assert [len(result.pictures) for result in find_results([runs])] == [24, 12]
    found = audit([runs], tmp_path / "out", torch.device("cpu"))
    assert (found["results"], found["consistent"], found["janus"]) == (2, 1, 1)
    assert found["metrics"]["pose_entropy"]["prefers_janus"] == 0.0
    assert found["metrics"]["classifier_agreement"]["prefers_janus"] == 0.0
    written = (tmp_path / "out" / "audit.jsonl").read_text()
    assert len(written.splitlines()) == 2
    audit([runs], tmp_path / "out", torch.device("cpu"))
    assert (tmp_path / "out" / "audit.jsonl").read_text() == written, "nothing is measured twice"
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(METRICS)


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no results with pictures"):
        find_results([tmp_path])


def test_the_page_names_what_it_counts(tmp_path: Path) -> None:
    made = [row | {metric.key: row["sees"] for metric in METRICS} for row in rows()]
    write_audit(made, tmp_path)
    text = (tmp_path / "audit.md").read_text(encoding="utf-8")
    assert (
        "7 results of 2 prompts: 4 consistent" in text
        and "3 Janus" in text
        and text.count("\n| ") == 1 + len(METRICS)
    )
