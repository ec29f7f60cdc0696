"""Line 4 of Algorithm 1 against its formulas and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.distillation.gradients import clamped
from recdreamer.distillation.methods import Answers
from recdreamer.distillation.noised import Noised
from recdreamer.optimize import distillation_grad

from .mixture import EXACT, guide, usd_guide


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


T = torch.tensor([300])


def noised(latents: Tensor, latents_t: Tensor, eps: Tensor, sigma_t: Tensor) -> Noised:
    return Noised(latents, latents_t, eps, T.expand(len(latents)), sigma_t, sigma_t.square(), None, 0, 0.0)


def test_without_a_rectifier_the_gradient_is_the_weighted_difference() -> None:
    """Eq. 9; with the drawn noise in the branch's place Eq. 5, and nothing where both answer alike."""
    pretrained, other = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    sigma_t = torch.tensor([0.3, 0.9], dtype=torch.float64)[:, None, None, None]
    x = noised(other, other, other, sigma_t)
    for eps_phi in (other, pretrained):
        answers = Answers(pretrained, eps_phi, pretrained, x.w_t)
        assert torch.equal(
            distillation_grad(guide("vsd"), x, answers), sigma_t.square() * (pretrained - eps_phi)
        )


@pytest.mark.parametrize("jacobian", [True, False])
def test_rectifier_gradient_is_the_derivative_of_the_weighted_log_ratio(jacobian: bool) -> None:
    """Through a smooth denoiser and a smooth classifier, against central differences of w σ/α log r(α z + σ eps)."""
    alpha, sigma = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[0.6]], dtype=torch.float64)
    latents, eps = draw(1, 3).reshape(1, 3, 1, 1), draw(1, 3, seed=2).reshape(1, 3, 1, 1)
    alpha_t, sigma_t, w_t = alpha[..., None, None], sigma[..., None, None], (sigma**2)[..., None, None]
    matrix, classes = draw(3, 3, seed=3), draw(4, 3, seed=4)

    def log_ratio(noisy: Tensor, frozen_eps: Tensor | None) -> Tensor:
        flat = noisy.flatten(1)
        estimate = torch.tanh(flat @ matrix) if frozen_eps is None else frozen_eps
        x0_hat = (flat - sigma * estimate) / alpha
        return torch.logsumexp(
            (x0_hat @ classes.T).log_softmax(-1) + torch.tensor([0.1, 1.0, 0.4, 2.0]).log(), -1
        )

    frozen = None if jacobian else torch.tanh((alpha_t * latents + sigma_t * eps).flatten(1) @ matrix)
    noisy = (alpha_t * latents + sigma_t * eps).requires_grad_()
    (towards,) = torch.autograd.grad(log_ratio(noisy, frozen).sum(), noisy)
    x = noised(latents, noisy.detach(), eps, sigma_t)
    answers = Answers(eps, eps, eps, w_t, (), towards)
    grad = distillation_grad(usd_guide(EXACT, x.t), x, answers)

    step = 1e-6
    for i in range(3):
        moved = torch.zeros_like(latents)
        moved[0, i] = step
        up = log_ratio(alpha_t * (latents + moved) + sigma_t * eps, frozen)
        down = log_ratio(alpha_t * (latents - moved) + sigma_t * eps, frozen)
        numeric = -(w_t * sigma_t / alpha_t).flatten() * (up - down) / (2 * step)
        assert torch.allclose(grad[0, i].flatten(), numeric, rtol=1e-6)


def test_cap_limits_each_view_by_its_own_denoiser() -> None:
    denoiser = torch.stack([torch.ones(4, 2, 2), 10 * torch.ones(4, 2, 2)])
    rectifier = 5 * torch.ones(2, 4, 2, 2)
    norms = clamped(rectifier, denoiser, "cap").flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.tensor([4.0, 20.0]))
    assert torch.allclose(clamped(rectifier, denoiser, "cap", 0.5)[0].norm(), torch.tensor(2.0))


def test_no_clamp_is_the_printed_formula() -> None:
    rectifier = draw(2, 4, 2, 2)
    assert torch.equal(clamped(100 * rectifier, 1e-3 * rectifier, "none"), 100 * rectifier)


def test_released_clamp_makes_both_terms_equally_long() -> None:
    """Multiplied by the number of entries the rectifier practically always reaches the joint cap."""
    denoiser, rectifier = draw(2, 4, 8, 8), 0.01 * draw(2, 4, 8, 8, seed=1)
    assert torch.allclose(clamped(rectifier, denoiser, "released").norm(), denoiser.norm())


@pytest.mark.parametrize("mode", ["none", "cap", "released"])
def test_zero_vectors_are_safe(mode: str) -> None:
    zero = torch.zeros(2, 4, 2, 2)
    assert clamped(zero, zero, mode).abs().max() == 0
    assert torch.isfinite(clamped(zero, torch.ones_like(zero), mode)).all()
