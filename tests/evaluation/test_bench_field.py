"""The benchmark of the field: every case runs by both, another version takes part, and nothing is timed for its speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import recdreamer
from recdreamer.evaluation import bench_field as module
from recdreamer.evaluation import bench_field_cases
from recdreamer.evaluation.bench_field import TABLES, as_tables, bench_field, save
from recdreamer.evaluation.bench_tables import FieldTable
from recdreamer.field import set_backend
from recdreamer.mesh.mesh import surface_area

BACKEND = Path(recdreamer.__file__).parents[1]
CPU = torch.device("cpu")
GRID = {"part": "hash grid", "points": 50, "levels": 2, "log2_table_size": 8, "base": 4, "finest": 8}
SMALL = [
    GRID,
    {"part": "march", "size_px": 4, "step_size": 0.1},
    {"part": "composite", "size_px": 4, "step_size": 0.1},
    {"part": "picture", "size_px": 4, "step_size": 0.1},
    {"part": "ray cast", "faces": 100, "size_px": 4},
    {"part": "bake", "faces": 100, "texture_size_px": 16},
    {"part": "step", "size_px": 4},
]
ON_A_GPU = {"part": "recorded step", "size_px": 4}


@pytest.fixture(autouse=True)
def _automatic_backend():
    yield
    set_backend("warp")


@pytest.fixture
def small_tables(monkeypatch) -> None:
    small: dict[FieldTable, tuple] = {
        "grid-size": ("Rows", "log2_table_size", [GRID, GRID | {"log2_table_size": 9}]),
        "faces": ("Faces", "faces", [{"part": "ray cast", "faces": faces, "size_px": 4} for faces in (100, 200)]),
    }  # fmt: skip
    monkeypatch.setattr(module, "TABLES", TABLES | small)


@pytest.mark.parametrize("backend", ["warp", "torch"])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case["part"])
def test_every_part_can_be_repeated(case, backend) -> None:
    run = bench_field_cases.prepare(case, backend, CPU)
    assert bench_field_cases.milliseconds(run) > 0


def test_what_needs_a_gpu_or_minutes_is_left_out_on_a_cpu() -> None:
    for case in (ON_A_GPU, {"part": "step", "size_px": 128}):
        with pytest.raises(ValueError, match=r"GPU|CPU"):
            bench_field_cases.prepare(case, "warp", CPU)


def test_every_case_of_the_tables_is_one_of_these_with_other_numbers() -> None:
    known = {case["part"]: set(case) for case in [*SMALL, ON_A_GPU]}
    for _, varied, cases in TABLES.values():
        assert all(set(case) == known[case["part"]] and varied in case for case in cases)


def test_all_take_turns_and_the_other_version_is_the_other(small_tables, tmp_path) -> None:
    found = bench_field(["grid-size", "faces"], CPU, 3, 60.0, BACKEND)
    assert found["device"].startswith("CPU")
    for rows in found["tables"].values():
        for row in rows:
            assert row["rounds"] == 3 and row["cannot"] == {}
            assert set(row["ms"]) == {"Warp", "torch", str(BACKEND)} and min(row["ms"].values()) > 0
            assert set(row["ratio"]) == {"torch", str(BACKEND)}
    text = as_tables(found)
    assert text.startswith("Measured on: CPU") and "## Rows" in text and "torch / Warp" in text
    written = save(found, tmp_path / "out")
    assert json.loads(written[0].read_text(encoding="utf-8")) == found
    assert all(path.stat().st_size > 100 for path in written)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is ten times slower in one round moves the times and not the ratio."""

    class Weathered:
        def __init__(self, factor: float) -> None:
            self.times = iter([1 * factor, 10 * factor, 2 * factor])

        def prepare(self, case):
            return None

        def run(self) -> float:
            return next(self.times)

    found = module.measured({}, {"Warp": Weathered(1.0), "torch": Weathered(5.0)}, 3, 60.0)
    assert found["ms"] == {"Warp": 2, "torch": 10} and found["ratio"] == {"torch": 5}


def test_a_version_that_cannot_is_left_out_and_named(small_tables, tmp_path) -> None:
    broken = tmp_path / "recdreamer"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('from long ago')\n")
    found = bench_field(["grid-size"], CPU, 1, 60.0, tmp_path)
    row = found["tables"]["grid-size"][0]
    assert set(row["ms"]) == {"Warp", "torch"} and "ended" in row["cannot"][str(tmp_path)]
    assert "Left out" in as_tables(found)
    with pytest.raises(ValueError, match="has no recdreamer"):
        bench_field(["grid-size"], CPU, 1, 60.0, tmp_path / "nowhere")


def test_what_is_too_large_for_the_reference_is_left_out() -> None:
    case = {"part": "ray cast", "faces": 10**6, "size_px": 64}
    assert "too many" in str(module.Here("torch", CPU).prepare(case))


def test_the_ball_has_the_faces_that_were_asked_for() -> None:
    for faces in (1000, 100_000):
        ball = bench_field_cases.bumpy_ball(faces)
        assert len(ball.faces) == pytest.approx(faces, rel=0.05)
        assert ball.uvs_or_error().shape == (len(ball.faces), 3, 2)
        outward = ball.verts[ball.faces].mean(1)
        a, b, c = (ball.verts[ball.faces[:, corner]] for corner in range(3))
        assert ((np.cross(b - a, c - a) * outward).sum(1) > 0).all()
        assert surface_area(ball) == pytest.approx(4.8, rel=0.15)
