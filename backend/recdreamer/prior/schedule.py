"""The noise schedule: amounts of signal and noise at timestep t, and the estimates that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
MIN_ALPHA_T = 1e-3
"""Below it, the clean estimate of a noisy sample is mostly rounding error."""


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = alpha_t · x_0 + sigma_t · eps with alpha_t² + sigma_t² = 1 (paper, Sec. 2.1).

    With alpha_t = 0.8, x_0 = 1 and eps = 2, x_t is 0.8 · 1 + 0.6 · 2 = 2 and v is 0.8 · 2 - 0.6 · 1 = 1:

    >>> schedule = NoiseSchedule(torch.tensor([0.64], dtype=torch.float64), "v_prediction")
    >>> t = torch.tensor([0])
    >>> round(schedule.alpha_t(t).item(), 6), round(schedule.sigma_t(t).item(), 6)
    (0.8, 0.6)
    >>> x_0, eps = torch.full((2, 1, 1, 1, 1), 1.0, dtype=torch.float64) * torch.tensor([1, 2]).view(2, 1, 1, 1, 1)
    >>> x_t = schedule.add_noise(x_0, eps, t)
    >>> v = schedule.target_of(x_0, eps, t)
    >>> [round(value.item(), 6) for value in (x_t, v, schedule.eps_of(v, x_t, t), schedule.x0_hat(x_t, eps, t))]
    [2.0, 1.0, 2.0, 1.0]
    """

    alphas_cumprod: Float[Tensor, "timesteps"]
    prediction: Prediction
    """Meaning of the network's output."""

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def last(self) -> int:
        """The highest timestep with some signal, from which sampling begins: the last one, but for models that were
        trained without any signal there (zero terminal SNR), whose clean estimate would be 0 / 0 at the last one.

        >>> NoiseSchedule(torch.tensor([0.9, 0.5, 0.1]), "epsilon").last
        2
        >>> NoiseSchedule(torch.tensor([0.9, 0.5, 0.0]), "v_prediction").last
        1
        """
        return int((self.alphas_cumprod.sqrt() >= MIN_ALPHA_T).nonzero()[-1])

    def alpha_t(self, t: Int[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
        return self.alphas_cumprod[t].sqrt()[:, None, None, None]

    def sigma_t(self, t: Int[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
        return (1 - self.alphas_cumprod[t]).sqrt()[:, None, None, None]

    def add_noise(
        self,
        latents: Float[Tensor, "batch c h w"],
        eps: Float[Tensor, "batch c h w"],
        t: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        return self.alpha_t(t) * latents + self.sigma_t(t) * eps

    def eps_of(
        self,
        output: Float[Tensor, "batch c h w"],
        latents_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """Noise estimate of a network output; eps = alpha_t · v + sigma_t · x_t for v-prediction."""
        if self.prediction == "epsilon":
            return output
        return self.alpha_t(t) * output + self.sigma_t(t) * latents_t

    def target_of(
        self,
        latents: Float[Tensor, "batch c h w"],
        eps: Float[Tensor, "batch c h w"],
        t: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """Training target for this prediction type; v = alpha_t · eps - sigma_t · x_0."""
        if self.prediction == "epsilon":
            return eps
        return self.alpha_t(t) * eps - self.sigma_t(t) * latents

    def x0_hat(
        self,
        latents_t: Float[Tensor, "batch c h w"],
        eps: Float[Tensor, "batch c h w"],
        t: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """Tweedie's estimate of the clean latents, (x_t - sigma_t · eps) / alpha_t (paper, Sec. 3.3)."""
        return (latents_t - self.sigma_t(t) * eps) / self.alpha_t(t)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction)
