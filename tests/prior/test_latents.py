"""Pictures to latents and back, and noise estimates, with networks whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from recdreamer.prior.denoiser import Denoiser
from recdreamer.prior.diffusion import DiffusionPrior, TinyDecoder
from recdreamer.prior.schedule import NoiseSchedule, Prediction

FACTOR = 0.18215
"""Stable Diffusion's; the embedded prior's is 1, with which a forgotten factor could not be seen."""
PX = 4


class PlainVae:
    """Latents are the picture itself, in [-1, 1] and without any scale."""

    dtype = torch.float32
    config = SimpleNamespace(scaling_factor=FACTOR)

    def encode(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=images))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


class TimeUnet:
    """Answers t / 1000 + x_t / 2, whatever the text."""

    dtype, device = torch.float32, torch.device("cpu")

    def __call__(self, latents_t: Tensor, t: Tensor, text: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=t[:, None, None, None] / 1000 + latents_t / 2)


def prior_of(prediction: Prediction = "epsilon") -> DiffusionPrior:
    schedule = NoiseSchedule(torch.linspace(0.99, 0.01, 1000), prediction)
    return DiffusionPrior(TimeUnet(), PlainVae(), None, nn.Identity(), schedule, PX)


def pictures() -> Tensor:
    return torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(0))


def test_latents_are_encoded_and_decoded_in_the_scale_of_the_denoiser() -> None:
    images, prior = pictures(), prior_of()
    latents = prior.encode(images)
    assert torch.allclose(latents, FACTOR * (2 * images - 1))
    assert torch.allclose(prior.decode(latents), images, atol=1e-6)
    assert torch.allclose(Denoiser(prior).decode(latents), images, atol=1e-6)


def test_both_ways_have_a_gradient() -> None:
    """∂z/∂x = 2 · factor, and ∂x/∂z = 1 / (2 · factor)."""
    prior, images = prior_of(), pictures().requires_grad_()
    latents = prior.encode(images)
    (slope,) = torch.autograd.grad(latents.sum(), images, retain_graph=True)
    assert torch.allclose(slope, torch.full_like(slope, 2 * FACTOR))
    leaf = latents.detach().requires_grad_()
    (back,) = torch.autograd.grad(prior.decode(leaf).sum(), leaf)
    assert torch.allclose(back, torch.full_like(back, 0.5 / FACTOR))


def test_pictures_of_another_size_are_resampled_to_the_models() -> None:
    assert prior_of().encode(torch.rand(1, 3, 2 * PX, 2 * PX)).shape == (1, 3, PX, PX)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_each_row_is_estimated_at_its_own_timestep(prediction: Prediction) -> None:
    prior, t = prior_of(prediction), torch.tensor([100, 800])
    latents_t, text = (
        torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1)),
        torch.zeros(2, 1, 1),
    )
    output = torch.tensor([0.1, 0.8])[:, None, None, None] + latents_t / 2
    signal = prior.schedule.alphas_cumprod[t][:, None, None, None]
    wanted = output if prediction == "epsilon" else signal.sqrt() * output + (1 - signal).sqrt() * latents_t
    assert torch.allclose(prior.eps(latents_t, t, text), wanted)


class Grey(TinyDecoder):
    """Shows grey whatever the latents."""

    def __init__(self) -> None:
        pass

    def decode(self, latents: Tensor) -> Tensor:
        return torch.full((len(latents), 3, PX, PX), 0.25)


def test_the_denoiser_decodes_by_the_tiny_decoder_where_there_is_one() -> None:
    latents = torch.ones(1, 3, PX, PX)
    assert (Denoiser(prior_of(), decoder=Grey()).decode(latents) == 0.25).all()
    assert (Denoiser(prior_of()).decode(latents) > 1).all()
