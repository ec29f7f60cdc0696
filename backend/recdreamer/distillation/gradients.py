"""Bounds on the two terms of the gradient, as pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.parallel.team import added
from recdreamer.parallel.view_shares import ALL_VIEWS, Share

Clamp = Literal["none", "cap", "released"]


def clipped_scores(
    grad: Float[Tensor, "batch c h w"], limits: tuple[float, float], progress: Float[Tensor, ""]
) -> Float[Tensor, "batch c h w"]:
    """Clip the weighted gradient to ±v, where v moves linearly from one limit to the other over the run.

    Debiased-SDS (Hong et al. 2023); the weight w_t is applied before, as in threestudio.

    Halfway between the limits 2 and 8:

    >>> clipped_scores(torch.tensor([-9.0, 1.0, 7.0]).view(1, 1, 1, 3), (2.0, 8.0), torch.tensor(0.5)).flatten().tolist()
    [-5.0, 1.0, 5.0]
    """
    limit = limits[0] + (limits[1] - limits[0]) * progress
    return grad.clamp(-limit, limit)


def clamped(
    rectifier: Float[Tensor, "batch c h w"],
    denoiser: Float[Tensor, "batch c h w"],
    mode: Clamp,
    limit: float = 1.0,
    share: Share = ALL_VIEWS,
) -> Float[Tensor, "batch c h w"]:
    """The rectifier's gradient, limited to `limit` times the denoiser's norm (paper, B.3).

    `none`: Eq. 13 as printed. `cap`: each view's norm is capped by that view's denoiser norm. `released`: like
    the authors' code, multiplied by the number of latent entries and capped over the whole batch.

    A rectifier of norm 10 against a denoiser of norm 5:

    >>> rectifier, denoiser = (torch.tensor(g).view(1, 1, 1, 2) for g in ([6.0, 8.0], [3.0, -4.0]))
    >>> clamped(rectifier, denoiser, "none").flatten().tolist()
    [6.0, 8.0]
    >>> clamped(rectifier, denoiser, "cap").flatten().tolist()
    [3.0, 4.0]
    >>> clamped(rectifier / 40, denoiser, "released").norm().item()  # two entries · 10 / 40
    0.5
    """
    if mode == "none":
        return rectifier
    if mode == "released":
        rectifier = rectifier * (rectifier[0].numel() * max(len(rectifier), share.total))
        # Of all views, wherever they are.
        squares = added(torch.stack([rectifier.square().sum(), denoiser.square().sum()]), share)
        scale = limit * squares[1].sqrt() / squares[0].sqrt().clamp_min(1e-12)
    else:
        norms = [torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True) for g in (rectifier, denoiser)]
        scale = limit * norms[1] / norms[0].clamp_min(1e-12)
    return rectifier * scale.clamp_max(1.0)
