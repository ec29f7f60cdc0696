"""The LoRA branch: begins as the prior, learns, and leaves the prior alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.prior.denoiser import Denoiser, Question
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraBranch, LoraTrainer

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def inputs(prior: DiffusionPrior, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, prior.unet.config.in_channels, 16, 16, generator=generator)
    c2w = torch.eye(4).repeat(2, 1, 1) + 0.3 * torch.randn(2, 4, 4, generator=generator)
    return latents, torch.tensor([100, 700]), prior.encode_text(["a red bear"]).expand(2, -1, -1), c2w


@pytest.fixture
def prior() -> DiffusionPrior:
    return DiffusionPrior.load("builtin", "cpu", torch.float32)


def test_begins_as_the_pretrained_model_for_any_camera(prior: DiffusionPrior) -> None:
    latents, t, text, c2w = inputs(prior)
    before = prior.eps(latents, t, text)
    branch = LoraBranch(prior, 4, TARGETS, seed=0)
    with torch.no_grad():
        (eps,) = Denoiser(prior, branch).ask(latents, t, Question(text, True, c2w))
    assert torch.allclose(eps, before, atol=1e-5)


def test_learns_the_renders_and_leaves_the_prior_alone(prior: DiffusionPrior) -> None:
    latents, t, text, c2w = inputs(prior)
    before, frozen = prior.eps(latents, t, text), {n: p.clone() for n, p in prior.unet.named_parameters()}
    trainer = LoraTrainer(LoraBranch(prior, 8, TARGETS, seed=0), 3e-3, warmup_steps=1)

    def loss() -> float:
        with torch.no_grad():
            losses = [
                trainer.branch.loss(latents, text, c2w, torch.Generator().manual_seed(i)) for i in range(8)
            ]
        return torch.stack(losses).mean().item()

    first = loss()
    for step in range(40):
        trainer.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
    assert loss() < 0.8 * first
    start = LoraBranch(DiffusionPrior.load("builtin", "cpu", torch.float32), 8, TARGETS, seed=0).trainable()
    for name, value in trainer.branch.trainable().items():
        assert not torch.equal(value, start[name]), f"{name} was not trained"
    with torch.no_grad():
        assert torch.equal(prior.eps(latents, t, text), before)
        (learnt,) = Denoiser(prior, trainer.branch).ask(latents, t, Question(text, True, c2w))
    assert not torch.allclose(learnt, before, atol=1e-2)
    after = dict(prior.unet.named_parameters())
    for name, value in frozen.items():
        twin = after.get(
            name,
            after.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")),
        )
        assert twin is not None and torch.equal(twin, value), name
        assert not twin.requires_grad


def test_the_camera_matters_once_trained(prior: DiffusionPrior) -> None:
    latents, t, text, c2w = inputs(prior)
    trainer = LoraTrainer(LoraBranch(prior, 4, TARGETS, seed=0), 1e-2, warmup_steps=1)
    for step in range(5):
        trainer.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
    with torch.no_grad():
        outputs = [trainer.branch.output(latents, t, text, camera) for camera in (c2w, c2w.flip(0))]
    assert not torch.allclose(*outputs, atol=1e-3)


def test_rows_of_one_forward_answer_as_if_asked_alone(prior: DiffusionPrior) -> None:
    """The gate of each row keeps the branch out of the pretrained rows, and the camera out of those without one."""
    latents, t, text, c2w = inputs(prior)
    trainer = LoraTrainer(LoraBranch(prior, 4, TARGETS, seed=0), 1e-2, warmup_steps=1)
    for step in range(5):
        trainer.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
    torch.nn.init.normal_(trainer.branch.camera[2].bias, generator=torch.Generator().manual_seed(0))
    denoiser, empty = Denoiser(prior, trainer.branch), prior.encode_text([""]).expand(2, -1, -1)
    questions = [
        Question(text), Question(empty), Question(text, True, c2w), Question(text, True),
        Question(text, True, torch.zeros_like(c2w)),
    ]  # fmt: skip
    with torch.no_grad():
        together = denoiser.ask(latents, t, *questions)
        alone = [denoiser.ask(latents, t, question)[0] for question in questions]
        assert torch.allclose(alone[0], prior.eps(latents, t, text), atol=1e-6)
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=2e-5)
    for i, one in enumerate(alone):
        for other in alone[:i]:
            assert not torch.allclose(one, other, atol=1e-3)


def test_checkpoint_restores_weights_and_optimizer(prior: DiffusionPrior) -> None:
    latents, t, text, c2w = inputs(prior)
    trainer = LoraTrainer(LoraBranch(prior, 4, TARGETS, seed=0), 1e-3, warmup_steps=1)

    def train(owner: LoraTrainer, steps: range) -> Tensor:
        for step in steps:
            owner.step(latents, text, c2w, step, torch.Generator().manual_seed(step))
        with torch.no_grad():
            return owner.branch.output(latents, t, text, c2w)

    train(trainer, range(3))
    saved = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    straight = train(trainer, range(3, 6))
    other = DiffusionPrior.load("builtin", "cpu", torch.float32)
    resumed = LoraTrainer(LoraBranch(other, 4, TARGETS, seed=9), 1e-3, warmup_steps=1)
    resumed.load(saved)
    assert torch.equal(train(resumed, range(3, 6)), straight)


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
    for name, tensor in other.tensors().items():
        assert torch.equal(tensor, saved[name]), name
    assert any("exp_avg" in name and bool(tensor.any()) for name, tensor in saved.items())
