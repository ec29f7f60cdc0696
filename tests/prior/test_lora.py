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
                trainer.branch.loss(trainer.draw(latents, text, c2w, torch.Generator().manual_seed(i)))
                for i in range(8)
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
