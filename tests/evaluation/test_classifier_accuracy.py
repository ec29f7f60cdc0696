"""The measurements of the classifier: their arithmetic, and what they say of classifiers with a known fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation import classifier_accuracy, classifier_gradient
from recdreamer.evaluation.classifier_accuracy import as_tables, far_from_borders, measure_classifier, scores
from recdreamer.evaluation.classifier_subjects import ClassifierBench
from recdreamer.evaluation.figurines import POSES, Figurines
from recdreamer.evaluation.sketches import INK, PAPER, draw_sketches


def test_scores_are_those_of_a_table_worked_out_by_hand() -> None:
    truth, guess = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    found = scores(truth, guess, 3)
    precision, recall = [2 / 2, 1 / 2, 1 / 2], [2 / 3, 1 / 2, 1 / 1]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["precision"] == pytest.approx(sum(precision) / 3)
    assert found["recall"] == pytest.approx(sum(recall) / 3)
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert found["f1"] == pytest.approx(sum(f1) / 3)


def test_a_class_that_is_never_guessed_counts_as_zero() -> None:
    assert scores(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)["f1"] == pytest.approx(1 / 3)


def test_borders_lie_half_way_between_two_poses() -> None:
    azimuth_deg = torch.tensor([0.0, 34.0, 36.0, 45.0, 54.0, 56.0, 316.0, 326.0])
    assert far_from_borders(azimuth_deg).tolist() == [True, True, False, False, False, True, False, True]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All measurements on one figure of two kinds, small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier_accuracy, "COLORS", {"red": classifier_accuracy.COLORS["red"]})
        patch.setattr(classifier_accuracy, "KINDS", classifier_accuracy.KINDS[:2])
        patch.setattr(classifier_gradient, "ASCENT_STEPS", 3)
        folder = tmp_path_factory.mktemp("classifier")
        return measure_classifier(folder, 48, torch.device("cpu"), "builtin", 0)


def test_the_whole_report(found: dict[str, Any]) -> None:
    for values in found["renders"].values():
        assert set(values["clear"]) == {"accuracy", "precision", "recall", "f1"}
    assert found["renders"]["full"]["clear"]["accuracy"] > 0.8
    assert found["renders"]["full"]["clear"]["accuracy"] > found["renders"]["texture"]["clear"]["accuracy"]
    assert list(found["estimates"]) == ["100", "300", "500", "700", "900"]
    assert found["estimates"]["300"] > found["estimates"]["900"]
    for shares in found["shapeless"].values():
        assert sum(shares[pose] for pose in POSES) == pytest.approx(1, abs=1e-4)
        assert abs(shares["right - left"]) < 0.3
    assert (
        found["ascent"]["with the Jacobian"]["classifier log p"]
        > found["ascent"]["before"]["classifier log p"]
    )
    assert "| full |" in as_tables(found)


class Constant:
    """Answers front to everything: the classifier that the measurements must not praise."""

    labels = POSES

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = torch.tensor([5.0, 0.0, 0.0, 0.0]) + 0 * images.mean((1, 2, 3))[:, None]
        return logits.log_softmax(-1)


def test_a_classifier_that_knows_nothing_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ClassifierBench(tmp_path, torch.device("cpu"), "builtin", 0)
    subject = bench.subject(0, 0)
    monkeypatch.setattr(ClassifierBench, "classifier", lambda self, subject, **settings: Constant())
    monkeypatch.setattr(classifier_gradient, "ASCENT_STEPS", 2)
    table = classifier_accuracy.on_renders(bench, [subject], 40, lambda what: None)["renders"]
    assert table["full"]["clear"]["accuracy"] < 0.5
    moved = classifier_gradient.leaving_a_state(bench, [subject], count=4)
    assert moved["centered"]["slope"] < 1e-6


def views(count: int) -> tuple[Figurines, Any]:
    row = torch.zeros(count, dtype=torch.long)
    azimuth_deg = torch.arange(count) * 90.0
    return Figurines.of(row, row), orbit_cameras(azimuth_deg, torch.full((count,), 8.0), 4.0, 30.0)


def test_a_sketch_is_dark_lines_on_paper() -> None:
    sketch = draw_sketches(*views(3), 64)
    assert sketch.shape == (3, 3, 64, 64)
    assert (sketch[:, 0] == sketch[:, 2]).all(), "no colour"
    assert sketch.min() >= INK - 1e-6 and sketch.max() <= PAPER + 1e-6
    drawn = (sketch < 0.7).float().mean((1, 2, 3))
    assert ((drawn > 0.03) & (drawn < 0.3)).all()
    assert (sketch[..., 0] > PAPER - 1e-6).all(), "nothing is drawn beside the figure"


def test_a_hand_is_unsteady_and_repeats_itself_with_its_generator() -> None:
    clean = draw_sketches(*views(2), 64)
    one, again, other = (
        draw_sketches(*views(2), 64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert (one - clean).abs().mean() > 0.01 and (one - other).abs().mean() > 0.01
