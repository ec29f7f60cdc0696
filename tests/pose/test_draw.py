"""Templates drawn by the prior: each shows the pose that its label says, whoever else was drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.pose.draw import draw_templates
from recdreamer.pose.features import FeatureExtractor
from recdreamer.pose.templates import load_templates
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder


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


def test_what_is_there_is_not_drawn_again(prior: DiffusionPrior, tmp_path: Path) -> None:
    first = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", seed=1) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
