"""The gradients of the methods with respect to the latents of the renders, as pure functions."""

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


def esd_grad(
    eps_pretrained: Float[Tensor, "batch c h w"],
    eps_lora: Float[Tensor, "batch c h w"],
    eps_lora_free: Float[Tensor, "batch c h w"],
    w_t: Float[Tensor, "batch 1 1 1"],
    entropy_weight: float,
) -> Float[Tensor, "batch c h w"]:
    """w_t · (eps_pretrained - λ · eps_lora_free - (1 - λ) · eps_lora): ESD (Wang et al. 2024).

    `eps_lora_free` is the branch's estimate without a camera. λ = 0 is VSD; in threestudio this is classifier-free
    guidance of the branch with scale 1 - λ.
    """
    return w_t * (eps_pretrained - entropy_weight * eps_lora_free - (1 - entropy_weight) * eps_lora)


def bridge_grad(
    eps_target: Float[Tensor, "batch c h w"], eps_source: Float[Tensor, "batch c h w"], weight: float
) -> Float[Tensor, "batch c h w"]:
    """weight · (eps_target - eps_source): second stage of SDS-Bridge (McAllister et al. 2024).

    Its released 3D code has neither w_t nor a guidance scale here, and weight 1.
    """
    return weight * (eps_target - eps_source)


def clipped_scores(
    grad: Float[Tensor, "batch c h w"], limits: tuple[float, float], progress: float
) -> Float[Tensor, "batch c h w"]:
    """Each entry of the weighted gradient within ±v, v going linearly from one limit to the other over the run.

    Debiased-SDS (Hong et al. 2023); weighted by w_t before, as in threestudio.
    """
    limit = limits[0] + (limits[1] - limits[0]) * progress
    return grad.clamp(-limit, limit)


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
