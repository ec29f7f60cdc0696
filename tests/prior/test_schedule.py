"""The noise schedule against closed forms."""

from __future__ import annotations

import pytest
import torch

from recdreamer.prior.schedule import NoiseSchedule


@pytest.fixture(params=["epsilon", "v_prediction"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule((1 - betas).cumprod(0), request.param)


def test_signal_and_noise_rates_are_complementary(schedule: NoiseSchedule) -> None:
    t = torch.arange(1000)
    assert torch.allclose(
        schedule.alpha_t(t) ** 2 + schedule.sigma_t(t) ** 2, torch.ones(1, dtype=torch.float64)
    )


def test_output_and_target_are_inverse(schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, eps = torch.randn(2, 4, 3, 8, 8, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 99, 500, 999])
    latents_t = schedule.add_noise(clean, eps, t)
    target = schedule.target_of(clean, eps, t)
    assert torch.allclose(schedule.eps_of(target, latents_t, t), eps, atol=1e-12)
    assert torch.allclose(schedule.x0_hat(latents_t, eps, t), clean, atol=1e-9)


def test_tweedie_gives_the_posterior_mean_of_gaussian_data(schedule: NoiseSchedule) -> None:
    """For x_0 ~ N(mu, s²) the optimal noise estimate is sigma (x_t - alpha mu) / (alpha² s² + sigma²)."""
    mu, s = 0.7, 1.3
    t = torch.tensor([20, 400, 980])
    x_t = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)[:, None, None, None]
    alpha, sigma = schedule.alpha_t(t), schedule.sigma_t(t)
    variance = alpha**2 * s**2 + sigma**2
    eps = sigma * (x_t - alpha * mu) / variance
    posterior_mean = mu + alpha * s**2 / variance * (x_t - alpha * mu)
    assert torch.allclose(schedule.x0_hat(x_t, eps, t), posterior_mean, atol=1e-12)
