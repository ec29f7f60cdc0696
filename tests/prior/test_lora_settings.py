"""The settings of the LoRA branch and of its training, each with the value that follows from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraBranch, LoraTrainer

from .test_lora import inputs


@pytest.fixture
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


def test_rank_and_layers_are_those_of_the_settings(prior: DiffusionPrior) -> None:
    named = LoraBranch(prior, 3, ("to_v",), seed=0).trainable()
    low_rank = {name: p for name, p in named.items() if "lora" in name}
    assert low_rank and all("to_v" in name for name in low_rank)
    for name, parameter in low_rank.items():
        assert parameter.shape[0 if "lora_A" in name else 1] == 3, name


def test_the_seed_decides_the_branchs_first_weights() -> None:
    first, again, other = (
        LoraBranch(DiffusionPrior.load("builtin", "cpu", torch.float32), 2, ("to_q",), seed).trainable()
        for seed in (1, 1, 2)
    )
    random = [name for name, p in first.items() if bool(p.any())]
    assert len(random) > 2
    for name in random:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]), name


def test_the_learning_rate_warms_up_over_the_steps_of_the_settings(prior: DiffusionPrior) -> None:
    latents, _, text, c2w = inputs(prior)
    trainer, rates = LoraTrainer(LoraBranch(prior, 2, ("to_q",), seed=0), 0.02, warmup_steps=4), []
    for step in (0, 1, 3, 9):
        trainer.step(latents, text, c2w, step, torch.Generator())
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.005, 0.01, 0.02, 0.02])


def test_a_tenth_of_the_lessons_have_no_camera(
    prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cameras, the texts and the renders otherwise as given."""
    latents, _, text, c2w = inputs(prior)
    branch, seen, draws = LoraBranch(prior, 2, ("to_q",), seed=0), [], torch.Generator().manual_seed(0)

    def output(latents_t: Tensor, t: Tensor, said: Tensor, cameras: Tensor) -> Tensor:
        assert torch.equal(said, text)
        seen.append(cameras)
        return torch.zeros_like(latents_t)

    monkeypatch.setattr(branch, "output", output)
    for _ in range(400):
        branch.loss(latents, text, c2w, draws)
    dropped = [not bool(cameras.any()) for cameras in seen]
    assert all(
        is_dropped or torch.equal(cameras, c2w) for is_dropped, cameras in zip(dropped, seen, strict=True)
    )
    # Binomial: mean 40, deviation 6.
    assert 16 <= sum(dropped) <= 64


def test_a_checkpoint_has_the_camera_network_and_what_the_optimizer_remembers(prior: DiffusionPrior) -> None:
    latents, _, text, c2w = inputs(prior)
    trainer = LoraTrainer(LoraBranch(prior, 2, ("to_q",), seed=0), 1e-2, warmup_steps=1)
    for step in range(2):
        trainer.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
    saved = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    other = LoraTrainer(
        LoraBranch(DiffusionPrior.load("builtin", "cpu", torch.float32), 2, ("to_q",), seed=5), 1e-2, 1
    )
    other.load(saved)
    for name, parameter in trainer.branch.trainable().items():
        assert torch.equal(parameter, other.branch.trainable()[name]), name
    assert torch.equal(trainer.branch.camera(c2w.flatten(1)), other.branch.camera(c2w.flatten(1)))
    loaded = other.tensors()
    assert loaded.keys() == saved.keys()
    assert [name for name, tensor in loaded.items() if not torch.equal(tensor, saved[name])] == []
    assert any("exp_avg" in name and bool(tensor.any()) for name, tensor in saved.items())
