"""What is said about templates before any time is spent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.cameras import orbit_cameras
from recdreamer.evaluation.figurines import COLORS, KINDS, Figurines, render_figurines
from recdreamer.images import write_picture
from recdreamer.pose.anchoring import Drawn
from recdreamer.pose.check import Advice, TemplateVerdict, check_templates
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import load_templates
from recdreamer.shared.protocol import CLASS_AZIMUTHS_DEG, JobFolder, Template


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor()


def view(azimuth_deg: float, elevation_deg: float = 8.0, distance: float = 4.0) -> torch.Tensor:
    row = torch.zeros(1, dtype=torch.long)
    figures = Figurines.of(row + KINDS.index("bird"), row + list(COLORS).index("blue"))
    cameras = orbit_cameras(torch.tensor([azimuth_deg]), torch.tensor([elevation_deg]), distance, 30.0)
    return render_figurines(figures, cameras, 64, torch.full((1, 3), 0.8))[0]


def check(
    folder: Path,
    extractor: FeatureExtractor,
    shown: list[tuple[str, torch.Tensor]],
    with_reference: bool = True,
) -> tuple[list[TemplateVerdict], list[Advice]]:
    templates = []
    for index, (label, image) in enumerate(shown):
        write_picture(folder / f"{index}.png", image)
        templates.append(Template(label, f"{index}.png"))
    drawn = None
    if with_reference:
        known = [
            Template(label, f"known-{label}-{elevation}.png")
            for label in CLASS_AZIMUTHS_DEG
            for elevation in (4, 12)
        ]
        for template in known:
            elevation = float(Path(template.image).stem.split("-")[-1])
            write_picture(folder / template.image, view(CLASS_AZIMUTHS_DEG[template.label], elevation))
        drawn = Drawn(
            load_templates(JobFolder(folder), tuple(known), 64), [template.image for template in known]
        )
    loaded = load_templates(JobFolder(folder), tuple(templates), 64)
    return check_templates(folder, tuple(templates), loaded, extractor, None, drawn)


FOUR = [("front", 0.0), ("right", 90.0), ("back", 180.0), ("left", 270.0)]


def test_good_templates_get_no_advice(extractor: FeatureExtractor, tmp_path: Path) -> None:
    verdicts, advice = check(tmp_path, extractor, [(label, view(azimuth)) for label, azimuth in FOUR])
    assert not advice and not any(verdict.warnings for verdict in verdicts)
    assert [verdict.reads_as for verdict in verdicts] == [label for label, _ in FOUR]
    assert all(0.1 < verdict.coverage < 0.6 for verdict in verdicts)
    report = json.loads((tmp_path / "check" / "check.json").read_text(encoding="utf-8"))
    assert [item["image"] for item in report["templates"]] == [f"{i}.png" for i in range(4)]
    assert set(report["templates"][0]["pose_probs"]) == set(CLASS_AZIMUTHS_DEG)
    for item in report["templates"]:
        assert (tmp_path / item["overlay"]).is_file() and (tmp_path / item["match"]).is_file()


def test_a_wrong_label_is_doubted(extractor: FeatureExtractor, tmp_path: Path) -> None:
    azimuths = [("front", 180.0), ("right", 90.0), ("back", 0.0), ("left", 270.0)]
    verdicts, _ = check(tmp_path, extractor, [(label, view(azimuth)) for label, azimuth in azimuths])
    assert [verdict.reads_as for verdict in verdicts] == ["back", "right", "front", "left"]
    assert verdicts[0].warnings[0].message == "This view looks like back, but its label is front."


def test_without_a_reference_the_others_of_its_class_tell(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    shown = [(label, view(azimuth, elevation)) for label, azimuth in FOUR for elevation in (4.0, 12.0)]
    shown[1] = ("front", view(180.0, 12.0))
    verdicts, _ = check(tmp_path, extractor, shown, with_reference=False)
    assert verdicts[1].reads_as == "back"


def test_one_picture_for_both_sides(extractor: FeatureExtractor, tmp_path: Path) -> None:
    shown = [("front", view(0.0)), ("right", view(90.0)), ("left", view(90.0))]
    _, advice = check(tmp_path, extractor, shown)
    assert [one.message for one in advice] == ["Right and left share a picture."]


def test_classes_that_look_alike(extractor: FeatureExtractor, tmp_path: Path) -> None:
    shown = [("front", view(0.0)), ("a", view(180.0, 6.0)), ("b", view(180.0, 7.0))]
    _, advice = check(tmp_path, extractor, shown, with_reference=False)
    assert any(one.message == "A and b cannot be told apart." for one in advice), advice


def test_an_object_far_away_is_too_small(extractor: FeatureExtractor, tmp_path: Path) -> None:
    shown = [(label, view(azimuth)) for label, azimuth in FOUR[1:]]
    verdicts, _ = check(tmp_path, extractor, [("front", view(0.0, distance=16.0)), *shown])
    assert "too small in the frame" in verdicts[0].warnings[-1].message


def test_an_object_over_the_edge_is_cut_off(extractor: FeatureExtractor, tmp_path: Path) -> None:
    shown = [(label, view(azimuth)) for label, azimuth in FOUR[1:]]
    verdicts, _ = check(tmp_path, extractor, [("front", view(0.0).roll(24, -1)), *shown])
    assert any("cut off" in warning.message for warning in verdicts[0].warnings)


def test_alpha_is_the_mask(extractor: FeatureExtractor, tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 120, np.uint8)
    pixels[..., 3] = 0
    pixels[16:48, 16:48, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "front.png")
    write_picture(tmp_path / "back.png", view(180.0))
    templates = (Template("front", "front.png"), Template("back", "back.png"))
    loaded = load_templates(JobFolder(tmp_path), templates, 64)
    verdicts, _ = check_templates(tmp_path, templates, loaded, extractor, None)
    assert verdicts[0].coverage == 0.25
    shown = np.asarray(Image.open(tmp_path / verdicts[0].overlay))
    green = shown[..., 1] > shown[..., 0] + 10
    assert green[16:48, 16:48].all() and green.mean() == 0.25


def test_a_reference_that_cannot_tell_a_block_out_is_not_heeded(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    """A body of one colour: the prior's figures say nothing about its sides, and nobody's label is doubted."""
    axis = torch.linspace(-1, 1, 64)
    shown = []
    for index, (label, _) in enumerate(FOUR):
        body = ((axis[None] / (0.3 + 0.02 * index)) ** 2 + (axis[:, None] / 0.7) ** 2 < 1).float()
        shown.append((label, 0.8 - body * torch.tensor([0.0, 0.5, 0.6])[:, None, None]))
    verdicts, _ = check(tmp_path, extractor, shown)
    assert [verdict.reads_as for verdict in verdicts] == [label for label, _ in FOUR]
