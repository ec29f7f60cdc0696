"""What the stages are guided by: the words of the prompt, and where the poses of the templates are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recdreamer import guide
from recdreamer.config import resolve
from recdreamer.distillation.debiasing import PromptDebiaser
from recdreamer.pose.templates import PoseTemplate, class_azimuths
from recdreamer.prior.diffusion import DiffusionPrior

from .generate.small_jobs import job_of


def test_a_language_model_is_loaded_once_for_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Table(PromptDebiaser):
        def __init__(self, name: str) -> None:
            loaded.append(name)

        def reduced(self, prompt: str, candidates: object = ()) -> dict[str, str]:
            return dict.fromkeys(("side", "front", "back", "overhead"), prompt)

    monkeypatch.setattr(guide, "PromptDebiaser", Table)
    overrides = {"guidance.masked_lm": "some/model", "texture.detail_steps": 2}
    job, request = job_of(tmp_path, overrides, method="debiased_sds", stages=("shape", "geometry"))
    prior = DiffusionPrior.load("builtin", "cpu", torch.float32)
    guides = guide.prepare_guides(job, resolve(request), prior)
    assert loaded == ["some/model"], (
        "close-ups, which have words of their own, are not made without the texture"
    )
    assert guides["shape"].prompts is guides["geometry"].prompts


def test_class_azimuths_come_from_the_templates_else_from_the_name() -> None:
    image = torch.zeros(3, 8, 8)
    templates = [PoseTemplate("front", image, None, 350.0), PoseTemplate("front", image, None, 20.0),
                 PoseTemplate("left", image, None, None)]  # fmt: skip
    azimuths = class_azimuths(templates, ("front", "left"), torch.device("cpu"))
    assert azimuths.tolist() == pytest.approx([5.0, 270.0], abs=1e-3)
