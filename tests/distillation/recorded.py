"""A denoiser that remembers what it was asked, and answers so that each question can be told from the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdreamer.cameras import Cameras, orbit_cameras
from recdreamer.prior.denoiser import Question
from recdreamer.prior.prompts import VIEWS, Prompts, ViewConfig
from recdreamer.prior.schedule import NoiseSchedule

NAMES = ("plain", "empty", *VIEWS, *(f"source, {view}" for view in VIEWS))
"""Texts by the number that their embedding holds."""
SCHEDULE = NoiseSchedule(torch.linspace(0.999, 0.01, 1000), "epsilon")


def prompts(view_config: ViewConfig | None = None) -> Prompts:
    """Every form of a prompt, each as its number among NAMES."""
    numbers = torch.arange(float(len(NAMES)))[:, None, None]
    return Prompts(numbers[:1], numbers[1:2], numbers[2:7], numbers[7:], view_config or ViewConfig())


def cameras(*azimuth_deg: float) -> Cameras:
    return orbit_cameras(torch.tensor(azimuth_deg), torch.full((len(azimuth_deg),), 10.0), 4.0, 30.0)


@dataclass(frozen=True)
class Asked:
    """A question as it was put."""

    latents_t: Tensor
    t: Tensor
    texts: tuple[str, ...]
    """The name of each row's text."""
    of_branch: bool
    c2w: Tensor | None


class RecordingDenoiser:
    """Answers with a constant for each text: `answer(name, of_branch)`."""

    def __init__(self) -> None:
        self.branch, self.schedule = None, SCHEDULE
        self.asked: list[Asked] = []

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]:
        found = []
        for question in questions:
            names = tuple(NAMES[int(number)] for number in question.text[:, 0, 0])
            self.asked.append(Asked(latents_t.detach(), t, names, question.of_branch, question.c2w))
            rows = torch.tensor([answer(name, question.of_branch) for name in names])
            found.append(rows[:, None, None, None] + 0 * latents_t)
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """The first three channels as the picture."""
        return latents[:, :3]


def answer(name: str, of_branch: bool = False) -> float:
    """What is answered to a text, by the pretrained model or by its branch."""
    return 0.01 * NAMES.index(name) + (0.5 if of_branch else 0.0)
