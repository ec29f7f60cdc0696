"""Templates drawn by the prior: each shows the pose that its label says, whoever else was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.pose.draw import NUM_SAMPLES, draw_gallery, draw_templates
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import load_templates
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.protocol import JobFolder, Template


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


@pytest.mark.parametrize("prompt", ["a red bear", "a blue bird"])
def test_every_template_shows_what_its_label_says(prior: DiffusionPrior, prompt: str, tmp_path: Path) -> None:
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), prompt, seed=1)
    assert {template.label for template in drawn} == set(POSES)
    images = torch.stack([template.image for template in load_templates(JobFolder(tmp_path), drawn, 64)])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    assert seen == [template.label for template in drawn]


@pytest.mark.parametrize("count", [1, 3])
def test_samples_that_look_to_the_wrong_side_are_left_out(
    prior: DiffusionPrior, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obedient = prior.sample

    def sample(prompts: list[str], generator: torch.Generator) -> torch.Tensor:
        samples = obedient(prompts, generator)
        samples[:count] = samples[:count].flip(-1)
        return samples

    monkeypatch.setattr(prior, "sample", sample)
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=2)
    images = torch.stack([template.image for template in load_templates(JobFolder(tmp_path), drawn, 64)])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    assert seen == [template.label for template in drawn]


def test_front_and_back_come_with_their_mirror_images(prior: DiffusionPrior, tmp_path: Path) -> None:
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1)
    for label in POSES:
        shown = sorted((t.image, t.mirrored) for t in drawn if t.label == label)
        assert len(shown) == (4 if label in ("front", "back") else 2)
        assert {mirrored for _, mirrored in shown} == (
            {False, True} if label in ("front", "back") else {label == "left"}
        )


def test_the_gallery_holds_every_sample_under_what_it_shows(prior: DiffusionPrior, tmp_path: Path) -> None:
    listed = draw_gallery(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1)
    assert len(listed) == 3 * NUM_SAMPLES == len(list(tmp_path.glob("*.png")))
    report = json.loads((tmp_path / "gallery.json").read_text())
    assert [sample["image"] for sample in report["samples"]] == [sample.image for sample in listed]
    for label in {sample.label for sample in listed}:
        shares = [sample.share for sample in listed if sample.label == label]
        assert shares == sorted(shares, reverse=True)
    sure = [sample for sample in listed if sample.share > 0.8]
    templates = tuple(Template(sample.label, sample.image) for sample in sure)
    images = torch.stack([template.image for template in load_templates(JobFolder(tmp_path), templates, 64)])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    right = sum(pose == sample.label for pose, sample in zip(seen, sure, strict=True))
    assert len(sure) > 12 and right >= 0.9 * len(sure)


def test_existing_pictures_are_not_drawn_again(prior: DiffusionPrior, tmp_path: Path) -> None:
    first = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
