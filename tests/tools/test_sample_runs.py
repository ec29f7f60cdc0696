"""Samples of runs: what is drawn, how it is spread over GPUs, and what is made of the numbers."""

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm

from recdreamer.evaluation import job_runs
from recdreamer.evaluation.figurines import COLORS, KINDS
from recdreamer.shared.protocol import JobRequest
from recdreamer.shared.worlds import ANIMALS, WORLDS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "measure"))
try:
    import sample_runs
finally:
    sys.path.remove(str(ROOT / "tools" / "measure"))

FINISHED = {
    "pose_entropy": 0.9,
    "azimuth_agreement": 0.8,
    "agreement_unrotated": 0.5,
    "fronts": 1,
    "seconds": 1,
}


def draw(number: int, num_runs: int = 24, world: str = "figurines") -> list[sample_runs.SampledRun]:
    return sample_runs.draw(number, num_runs, WORLDS[world].looks)


def test_a_draw_is_the_same_again_and_another_is_not():
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_more_runs_go_on_from_fewer():
    assert draw(7, 30)[:10] == draw(7, 10)


def test_kinds_and_colours_come_equally_often():
    sample = draw(3, 48)
    assert Counter((run.kind, run.color) for run in sample) == {
        (kind, color): 2 for kind in KINDS for color in COLORS
    }
    for start in range(0, 48, len(KINDS)):
        assert {run.kind for run in sample[start : start + len(KINDS)]} == set(KINDS)
    counts = Counter(run.kind for run in draw(3, 10)).values()
    assert max(counts) - min(counts) <= 1


def test_animals_are_drawn_in_their_own_coats():
    sample = draw(3, 2 * len(ANIMALS), "animals")
    assert Counter(run.kind for run in sample) == dict.fromkeys(ANIMALS, 2)
    assert all(run.color in ANIMALS[run.kind] for run in sample)
    assert all(
        len({run.color for run in sample if run.kind == kind}) == min(2, len(coats))
        for kind, coats in ANIMALS.items()
    )


def test_a_draw_is_that_of_earlier_versions():
    """The documentation names results by the numbers of draws."""
    assert [(run.prompt, run.seed) for run in draw(717, 2)] == [
        ("a blue bird", 621664),
        ("a green robot", 978594),
    ]


def test_seeds_are_fresh():
    sample = draw(5, 200)
    assert len({run.seed for run in sample}) == 200
    assert {run.seed for run in sample} <= set(sample_runs.SEEDS)
    used = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for numbers in re.findall(r"seeds? ((?:\d+|,| |to|and)+)", page.read_text(encoding="utf-8")):
            used |= set(map(int, re.findall(r"\d+", numbers)))
    assert {1, 2, 3} <= used
    assert not used & set(sample_runs.SEEDS)


def test_draws_rarely_share_a_seed():
    seeds = [run.seed for number in range(20) for run in draw(number)]
    assert len(set(seeds)) >= len(seeds) - 2


def test_interval_of_shares_is_that_of_the_binomial():
    values = [1.0] * 15 + [0.0] * 5
    exact = binom.ppf([0.025, 0.975], 20, 0.75) / 20
    assert sample_runs.bootstrap_interval(values) == pytest.approx(exact, abs=1e-9)


def test_interval_of_many_is_that_of_the_normal():
    values = np.random.default_rng(1).normal(0.7, 0.1, 200)
    half = norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    assert sample_runs.bootstrap_interval(list(values)) == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.03 * half + 1e-3
    )


def test_interval_of_equals_is_a_point():
    assert sample_runs.bootstrap_interval([0.25] * 6) == (0.25, 0.25)


def test_failed_runs_count():
    summary = sample_runs.summary_of([FINISHED, FINISHED | {"fronts": -1}, {"failed": "no memory"}, FINISHED])
    assert (summary["runs"], summary["failed"]) == (4, 1)
    assert summary["entropy"]["mean"] == pytest.approx(0.75 * 0.9)
    assert summary["entropy"]["worst"] == 0
    assert summary["one front"]["mean"] == 0.5
    assert summary["fronts"]["worst"] == -1
    assert "| 4 | 1 |" in sample_runs.summary_table({"usd": summary})


def test_a_summary_of_failed_runs_only_is_possible():
    summary = sample_runs.summary_of([{"failed": "no memory"}] * 3)
    assert summary["agreement"]["mean"] == 0
    assert "| 3 | 3 |" in sample_runs.summary_table({"usd": summary})


def test_workers_go_round_the_gpus(monkeypatch):
    assert [job_runs.gpu_of(worker, ["2", "5"]) for worker in range(5)] == ["2", "5", "2", "5", "2"]
    assert job_runs.gpu_of(3, []) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert job_runs.visible_gpus() == ["1", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert job_runs.visible_gpus() == []


def test_a_failed_run_leaves_its_reason(tmp_path):
    request = JobRequest("a red bear", seed=4, overrides={"optimize.no_such_setting": 1})
    job_runs.prepare(tmp_path / "run", request)
    assert job_runs.read_row(tmp_path / "run") == {"failed": "It was not run."}
    assert not job_runs.attempt(tmp_path / "run")
    row = job_runs.read_row(tmp_path / "run")
    assert "no_such_setting" in row["failed"]
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()
    assert "no_such_setting" in job_runs.table_of({"run": row})


def test_a_folder_of_another_run_is_refused(tmp_path):
    request = JobRequest("a red bear", seed=4)
    job_runs.prepare(tmp_path, request)
    job_runs.prepare(tmp_path, request)
    with pytest.raises(SystemExit, match="other settings"):
        job_runs.prepare(tmp_path, replace(request, seed=5))


def test_described_templates_keep_what_the_addon_says(tmp_path):
    described = [
        {"label": "front", "image": "front.png", "source": "turntable", "azimuth_deg": 0.0, "elevation_deg": 10.0},
        {"label": "60°", "image": "60°.png", "source": "turntable", "azimuth_deg": 60.0, "elevation_deg": 10.0},
    ]  # fmt: skip
    (tmp_path / "templates.json").write_text(json.dumps(described), encoding="utf-8")
    front, side = job_runs.templates_from(tmp_path)
    assert (front.source, front.azimuth_deg, front.elevation_deg) == ("turntable", 0.0, 10.0)
    assert side.label == "60°"
    assert Path(side.image) == tmp_path.absolute() / "60°.png"


def test_templates_are_found_by_pattern_and_by_name(tmp_path):
    bear = sample_runs.SampledRun("bear", "red", 1)
    pattern = str(tmp_path / "solid" / "{kind}-{color}-face")
    assert sample_runs.folder_of(pattern, bear) == tmp_path / "solid" / "bear-red-face"
    assert sample_runs.name_of(pattern) == "solid-face"
    assert sample_runs.name_of("blockouts/solid/{kind}-grey-faceless-b") == "solid-grey-faceless-b"
    for name in ("bear", "bear-red", "a-red-bear"):
        (tmp_path / name).mkdir()
        assert sample_runs.folder_of(str(tmp_path), bear) == tmp_path / name
