"""The gradients of SDS, VSD and USD with respect to the latents of the renders."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Clamp = Literal["none", "cap", "released"]


def sds_grad(
    eps_pretrained: Float[Tensor, "batch c h w"],
    eps: Float[Tensor, "batch c h w"],
    w_t: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch c h w"]:
    """w_t · (eps_pretrained - eps): DreamFusion; paper, Eq. 5."""
    return w_t * (eps_pretrained - eps)


def vsd_grad(
    eps_pretrained: Float[Tensor, "batch c h w"],
    eps_lora: Float[Tensor, "batch c h w"],
    w_t: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch c h w"]:
    """w_t · (eps_pretrained - eps_lora): ProlificDreamer; paper, Eq. 9 and 14."""
    return w_t * (eps_pretrained - eps_lora)


def rectifier_grad(
    log_ratio_grad: Float[Tensor, "batch c h w"],
    alpha_t: Float[Tensor, "batch 1 1 1"],
    sigma_t: Float[Tensor, "batch 1 1 1"],
    w_t: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch c h w"]:
    """-w_t · sigma_t / alpha_t · ∇_latents log r, second term of Eq. 13.

    `log_ratio_grad` is the gradient with respect to the clean latents, that is alpha_t times the one with
    respect to x_t.
    """
    return -w_t * (sigma_t / alpha_t) * log_ratio_grad


def clamped(
    rectifier: Float[Tensor, "batch c h w"],
    denoiser: Float[Tensor, "batch c h w"],
    mode: Clamp,
    limit: float = 1.0,
) -> Float[Tensor, "batch c h w"]:
    """The rectifier's gradient, kept from exceeding `limit` times the denoiser's (paper, B.3).

    `none`: Eq. 13 as printed. `cap`: each view's norm is capped by that view's denoiser norm. `released`: as
    the authors' code, multiplied by the number of latent entries and capped over the whole batch jointly.
    """
    if mode == "none":
        return rectifier
    if mode == "released":
        rectifier = rectifier * rectifier.numel()
        scale = limit * denoiser.norm() / rectifier.norm().clamp_min(1e-12)
    else:
        norms = [torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True) for g in (rectifier, denoiser)]
        scale = limit * norms[1] / norms[0].clamp_min(1e-12)
    return rectifier * scale.clamp_max(1.0)
