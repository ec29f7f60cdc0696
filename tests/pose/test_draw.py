"""Templates drawn by the prior: each shows the pose that its label says, whoever else was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recdreamer.evaluation.figurines import POSES
from recdreamer.evaluation.oracle import load_oracle
from recdreamer.pose.draw import (
    DrawConfig,
    draw_gallery,
    draw_templates,
    heads_on_the_left,
    looking_alike,
    side_doubt,
)
from recdreamer.pose.features import PATCHES, FeatureExtractor, Features
from recdreamer.pose.templates import load_templates
from recdreamer.presets import EMBEDDED_DRAWING
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.shared.protocol import JobFolder, Template

DISOBEYED = DrawConfig(
    front="from front view", back="from back view", side="", left="facing left", right="facing right",
    num_samples=16, guidance_scale=3.0, num_steps=25,
)  # fmt: skip
"""For the embedded prior, whose side is found by matching."""


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


@pytest.mark.parametrize("prompt", ["a red bear", "a blue bird"])
def test_every_template_shows_what_its_label_says(prior: DiffusionPrior, prompt: str, tmp_path: Path) -> None:
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), prompt, 1, EMBEDDED_DRAWING)
    assert {template.label for template in drawn} == set(POSES)
    images = torch.stack([template.image for template in load_templates(JobFolder(tmp_path), drawn, 64)])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    assert seen == [template.label for template in drawn]


@pytest.mark.parametrize("count", [1, 3])
def test_samples_that_look_to_the_wrong_side_are_left_out(
    prior: DiffusionPrior, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obedient = prior.sample

    def sample(prompts: list[str], generator: torch.Generator, *settings: float) -> torch.Tensor:
        samples = obedient(prompts, generator, *settings)
        samples[:count] = samples[:count].flip(-1)
        return samples

    monkeypatch.setattr(prior, "sample", sample)
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", 2, EMBEDDED_DRAWING)
    images = torch.stack([template.image for template in load_templates(JobFolder(tmp_path), drawn, 64)])
    seen = [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]
    assert seen == [template.label for template in drawn]


def test_front_and_back_come_with_their_mirror_images(prior: DiffusionPrior, tmp_path: Path) -> None:
    drawn = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", 1, EMBEDDED_DRAWING)
    for label in POSES:
        shown = sorted((t.image, t.mirrored) for t in drawn if t.label == label)
        assert len(shown) == (4 if label in ("front", "back") else 2)
        assert {mirrored for _, mirrored in shown} == (
            {False, True} if label in ("front", "back") else {label == "left"}
        )


def test_the_gallery_holds_every_sample_under_what_it_shows(prior: DiffusionPrior, tmp_path: Path) -> None:
    listed = draw_gallery(tmp_path, prior, FeatureExtractor(), "a red bear", 1, EMBEDDED_DRAWING)
    assert len(listed) == 3 * EMBEDDED_DRAWING.num_samples == len(list(tmp_path.glob("*.png")))
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
    first = draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", 1, EMBEDDED_DRAWING)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert draw_templates(tmp_path, prior, FeatureExtractor(), "a red bear", 1, EMBEDDED_DRAWING) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def drawn_sides(
    prior: DiffusionPrior, mirrored: list[bool], folder: Path, monkeypatch: pytest.MonkeyPatch,
    prompt: str = "a red bear",
):  # fmt: skip
    """Templates whose pictures of the side were mirrored, and the words that were asked for."""
    obedient, asked = prior.sample, []

    def sample(prompts: list[str], generator: torch.Generator, *settings: float) -> torch.Tensor:
        samples = obedient(prompts, generator, *settings)
        if "facing" in prompts[0]:
            asked.extend(prompts)
            flips = torch.tensor(mirrored)[:, None, None, None]
            samples = torch.where(flips, samples.flip(-1), samples)
        return samples

    monkeypatch.setattr(prior, "sample", sample)
    return draw_templates(folder, prior, FeatureExtractor(), prompt, 2, DISOBEYED), asked


def seen_sides(drawn: tuple[Template, ...], folder: Path) -> list[str]:
    images = torch.stack([template.image for template in load_templates(JobFolder(folder), drawn, 64)])
    return [POSES[pose] for pose in load_oracle().pose_probs(images).argmax(1)]


def test_the_majority_says_which_side_is_left_where_words_are_obeyed_in_part(
    prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of sixteen look the wrong way; half of all were asked to look right, and are mirrored."""
    mirrored = [index in (0, 1, 6, 9) for index in range(16)]
    drawn, asked = drawn_sides(prior, mirrored, tmp_path, monkeypatch)
    assert asked[:2] == ["a red bear, facing left", "a red bear, facing right"]
    assert seen_sides(drawn, tmp_path) == [template.label for template in drawn]
    found = json.loads((tmp_path / "sides.json").read_text())
    assert (found["left"], found["in_all"]) == (12, 16)
    assert not side_doubt(tmp_path)


HALF = [index % 4 < 2 for index in range(16)]


@pytest.mark.parametrize("are_all_turned", [False, True])
def test_heads_say_which_side_is_left_where_words_do_not(
    prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_all_turned: bool
) -> None:
    """Half of all look to either side, so that either group may come first."""
    mirrored = [half != are_all_turned for half in HALF]
    drawn, _ = drawn_sides(prior, mirrored, tmp_path, monkeypatch, "a blue bird")
    assert seen_sides(drawn, tmp_path) == [template.label for template in drawn]
    assert json.loads((tmp_path / "sides.json").read_text())["heads"] > 0.1


def test_sides_without_a_clear_head_look_one_way_and_are_doubted(
    prior: DiffusionPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, _ = drawn_sides(prior, HALF, tmp_path, monkeypatch)
    sides = [pose for pose in seen_sides(drawn, tmp_path) if pose in ("right", "left")]
    assert sides in (["right"] * 2 + ["left"] * 2, ["left"] * 2 + ["right"] * 2)
    assert "8 of 16" in side_doubt(tmp_path)


class Colors(FeatureExtractor):
    """A patch is its color, and the ground has one of its own."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> Features:
        patches = torch.nn.functional.adaptive_avg_pool2d(images, PATCHES).flatten(2).transpose(1, 2)
        return Features(patches.mean(1), torch.nn.functional.normalize(patches + 0.05, dim=-1))


def painted(left: int, right: int) -> torch.Tensor:
    """An object of two colors, by channel, on a ground of the third."""
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, 2] = 1
    picture[:, :, 16:48, 16:48] = 0
    picture[:, left, 16:48, 16:32] = picture[:, right, 16:48, 32:48] = 1
    return picture


def test_the_head_is_where_a_side_is_like_the_front() -> None:
    """A step in the middle of eight columns: its correlation with their places is 4 / √21."""
    front, back = painted(0, 0), painted(1, 1)
    heads = heads_on_the_left(Colors(), torch.cat([painted(0, 1)] * 3), front, back)
    assert heads == pytest.approx(4 / 21**0.5, abs=1e-3)
    assert heads_on_the_left(Colors(), painted(1, 0), front, back) == pytest.approx(-heads, abs=1e-3)
    assert heads_on_the_left(Colors(), painted(0, 0), front, back) == pytest.approx(0, abs=1e-3)


def test_pictures_of_the_side_are_turned_alike_by_matching(prior: DiffusionPrior) -> None:
    generator = torch.Generator().manual_seed(5)
    samples = prior.sample(["a blue bird, facing left"] * 8, generator)
    flips = torch.arange(8) % 3 == 0
    mixed = torch.where(flips[:, None, None, None], samples.flip(-1), samples)
    truth = load_oracle().pose_probs(mixed).argmax(1) == POSES.index("right")
    assert 0 < int(truth.sum()) < 8 and torch.equal(looking_alike(FeatureExtractor(), mixed), truth)
