"""Noised renders (Alg. 1, line 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.parallel.view_shares import drawn
from recdreamer.prior.schedule import NoiseSchedule


@dataclass(frozen=True)
class Noised:
    """Noised latents of renders (Alg. 1, line 3) and the cameras of the renders."""

    latents: Float[Tensor, "batch c h w"]
    """Without noise, and without gradient."""
    latents_t: Float[Tensor, "batch c h w"]
    eps: Float[Tensor, "batch c h w"]
    t: Int[Tensor, "batch"]
    sigma_t: Float[Tensor, "batch 1 1 1"]
    w_t: Float[Tensor, "batch 1 1 1"]
    """ω(t) = sigma_t²: the weight in threestudio's DreamFusion and ProlificDreamer, which the paper's runs used."""
    cameras: Cameras | None
    """None for pictures without a camera (2D particles)."""
    step: int
    progress: float
    """Share of the steps done so far."""

    @property
    def azimuth_deg(self) -> Float[Tensor, "batch"] | None:
        return None if self.cameras is None else self.cameras.azimuth_deg

    @property
    def c2w(self) -> Float[Tensor, "batch 4 4"] | None:
        return None if self.cameras is None else self.cameras.c2w


def add_noise(
    latents: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], cameras: Cameras | None,
    step: int, num_steps: int, schedule: NoiseSchedule, generator: torch.Generator,
) -> Noised:  # fmt: skip
    """Alg. 1, line 3: x_t = alpha_t x_0 + sigma_t eps.

    ω(t) is sigma_t² = 1 - 0.64, whatever the noise:

    >>> schedule = NoiseSchedule(torch.tensor([0.64]), "epsilon")
    >>> x = add_noise(torch.zeros(1, 4, 2, 2), torch.tensor([0]), None, 50, 200, schedule, torch.Generator())
    >>> round(x.w_t.item(), 4), x.progress
    (0.36, 0.25)
    """
    latents = latents.detach()
    eps = drawn(torch.randn, tuple(latents.shape), generator, latents.dtype)
    sigma_t = schedule.sigma_t(t)
    latents_t = schedule.add_noise(latents, eps, t)
    return Noised(latents, latents_t, eps, t, sigma_t, sigma_t.square(), cameras, step, step / num_steps)
