"""Which words a camera's view gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.prior.prompts import VIEWS, Prompts, ViewConfig


class Recorder:
    """An encoder whose embedding is the number of the text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.texts += texts
        return torch.arange(float(len(texts)))[:, None, None].expand(-1, 3, 2)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [(0, 0, "front"), (30, 0, "front"), (31, 0, "right"), (-31, 0, "left"), (329, 0, "left"), (90, 0, "right"),
     (150, 0, "back"), (149, 0, "right"), (211, 0, "left"), (210, 0, "back"), (0, 61, "overhead"), (90, 60, "right")],
)  # fmt: skip
def test_a_camera_sees_the_view_of_its_place(azimuth: float, elevation: float, view: str) -> None:
    index = ViewConfig().of(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))
    assert VIEWS[index.item()] == view


def test_each_view_has_its_words_and_its_own_reduced_prompt() -> None:
    encode = Recorder()
    prompts = Prompts.encode(encode, "a smiling dog", ViewConfig(), True, {"back": "a dog"}, "a bad dog")
    assert encode.texts == [
        "a smiling dog", "", "a smiling dog, front view", "a smiling dog, side view",
        "a dog, back view", "a smiling dog, side view", "a smiling dog, overhead view",
        "a bad dog, front view", "a bad dog, side view", "a bad dog, back view", "a bad dog, side view",
        "a bad dog, overhead view",
    ]  # fmt: skip
    seen = prompts.seen_from(torch.tensor([0.0, 180.0]), torch.zeros(2))[:, 0, 0]
    assert [encode.texts[int(i)] for i in seen] == ["a smiling dog, front view", "a dog, back view"]
    source = prompts.source_seen_from(torch.tensor([0.0, 180.0]), torch.zeros(2))[:, 0, 0]
    assert [encode.texts[int(i)] for i in source] == ["a bad dog, front view", "a bad dog, back view"]
    assert (prompts.plain[0, 0, 0], prompts.empty[0, 0, 0]) == (0, 1)


def test_an_empty_source_has_the_words_of_the_view_alone() -> None:
    encode = Recorder()
    Prompts.encode(encode, "a dog", ViewConfig(), True)
    assert encode.texts[-len(VIEWS) :] == ViewConfig().phrases()


def test_without_view_prompts_every_camera_gets_the_prompt_alone() -> None:
    encode = Recorder()
    Prompts.encode(encode, "a dog", ViewConfig(), False)
    assert encode.texts[2:] == ["a dog"] * len(VIEWS) + [""] * len(VIEWS)


@pytest.mark.parametrize(
    ("width", "azimuth", "view"),
    [(90.0, 45, "front"), (90.0, 46, "right"), (90.0, 134, "right"), (90.0, 135, "back"), (20.0, 11, "right"),
     (20.0, 350, "front"), (20.0, 349, "left")],
)  # fmt: skip
def test_the_width_of_the_front_says_where_the_sides_begin(width: float, azimuth: float, view: str) -> None:
    config = ViewConfig(front_width_deg=width)
    assert VIEWS[config.of(torch.tensor([float(azimuth)]), torch.zeros(1)).item()] == view


@pytest.mark.parametrize(
    ("bound", "elevation", "view"), [(30.0, 31, "overhead"), (30.0, 30, "front"), (80.0, 79, "front")]
)
def test_what_counts_as_overhead_is_a_setting(bound: float, elevation: float, view: str) -> None:
    config = ViewConfig(overhead_elevation_deg=bound)
    assert VIEWS[config.of(torch.zeros(1), torch.tensor([float(elevation)])).item()] == view
