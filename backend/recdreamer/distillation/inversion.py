"""DDIM inversion: the noise that leads to a given picture (SDI, Lukoianov et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.distillation.noised import Noised
from recdreamer.prior.schedule import NoiseSchedule

EpsOf = Callable[[Float[Tensor, "batch c h w"], Int[Tensor, "batch"]], Float[Tensor, "batch c h w"]]
"""Noise estimate of x_t at timesteps t."""


def inverted(x: Noised, eps_of: EpsOf, schedule: NoiseSchedule, num_steps: int) -> Noised:
    """x with x_t from `num_steps` of DDIM backwards from x_0 at t = 0, and with the noise that x_t then contains.

    Each step moves along the estimate at its beginning: x_s = alpha_s x̂_0 + sigma_s eps. Where the model is exact and
    the picture its own, x_t is the sample that DDIM (Song et al. 2021, Eq. 12) would have made it from. The small
    random part of the released code (inversion_eta) is left out. With no step at all the noise stays the random one
    that x has, and SDI is SDS.

    A model that knows the picture exactly says that x_0 has no noise, and keeps saying the noise that it is given:

    >>> import torch
    >>> schedule = NoiseSchedule(torch.tensor([1.0, 0.64]), "epsilon")
    >>> t, picture = torch.tensor([1]), torch.full((1, 1, 1, 1), 2.0)
    >>> x = Noised(picture, picture, picture, t, schedule.sigma_t(t), schedule.sigma_t(t), None, 0, 0.0)
    >>> found = inverted(x, lambda latents_t, t: torch.full_like(latents_t, 0.5), schedule, num_steps=1)
    >>> round(found.latents_t.item(), 4), round(found.eps.item(), 4)  # 0.8 · 2 + 0.6 · 0.5, and 0.5
    (1.9, 0.5)
    """
    if not num_steps:
        return x
    latents_t, now = x.latents, x.t * 0
    for step in range(1, num_steps + 1):
        then = x.t * step // num_steps
        eps = eps_of(latents_t, now)
        latents_t = schedule.add_noise(schedule.x0_hat(latents_t, eps, now), eps, then)
        now = then
    eps = (latents_t - schedule.alpha_t(x.t) * x.latents) / x.sigma_t
    return replace(x, latents_t=latents_t, eps=eps)
