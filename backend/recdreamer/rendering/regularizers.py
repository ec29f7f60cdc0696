"""Regularisers of the rendered volume, one function each. Weights belong to the caller.

Where the views are divided among processes, each has the part of its own `share`; they are weighted by it and added up.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.field import Field
from recdreamer.parallel.team import part_of_mean
from recdreamer.parallel.view_shares import ALL_VIEWS, Share, share_of
from recdreamer.rendering.picked import picked
from recdreamer.rendering.render import Rendering


def sparsity_loss(opacity: Float[Tensor, "views 1 height width"]) -> Float[Tensor, ""]:
    """Mean of sqrt(opacity² + 0.01): favours little matter (threestudio's `sparsity`).

    >>> round(sparsity_loss(torch.zeros(1, 1, 2, 2)).item(), 4)
    0.1
    """
    return (opacity.square() + 0.01).sqrt().mean()


def opaque_loss(opacity: Float[Tensor, "views 1 height width"]) -> Float[Tensor, ""]:
    """Mean binary entropy of the pixels' opacity, in nats: favours solid or clear pixels (threestudio's `opaque`).

    >>> round(opaque_loss(torch.full((1, 1, 1, 1), 0.5)).item(), 4)  # ln 2
    0.6931
    """
    opacity = opacity.clamp(1e-3, 1 - 1e-3)
    return -(opacity * opacity.log() + (1 - opacity) * (1 - opacity).log()).mean()


def weight_entropy_loss(
    weights: Float[Tensor, "samples"],
    count: Int[Tensor, ""] | None = None,
    share: Share = ALL_VIEWS,
    in_all: int = 0,
) -> Float[Tensor, ""]:
    """Mean binary entropy of the samples' weights, in bits: favours few samples per ray over fog.

    ProlificDreamer's released code (base 2, per sample). Only the first `count` are samples; None: all are. `in_all` is
    the number of samples with those that were skipped, whose entropy is 0; 0: none were.

    >>> weight_entropy_loss(torch.tensor([0.5, 0.5])).item()
    1.0
    >>> weight_entropy_loss(torch.tensor([0.5, 0.5]), in_all=8).item()
    0.25
    """
    weights = weights.clamp(1e-5, 1 - 1e-5)
    entropy = -(weights * weights.log2() + (1 - weights) * (1 - weights).log2())
    if count is None:
        return part_of_mean(entropy.sum(), in_all or len(weights), share)
    is_real = torch.arange(len(weights), device=weights.device) < count
    return part_of_mean((entropy * is_real).sum(), in_all or count, share)


def z_variance_loss(rendering: Rendering, share: Share = ALL_VIEWS) -> Float[Tensor, ""]:
    """Mean variance of the distance along mostly opaque rays: favours thin surfaces (HiFA, Zhu et al. 2023).

    One opaque ray with half of its weight at 1 and half at 3:

    >>> one, weights, t_mids = torch.ones(1, 1, 1, 1), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 3.0])
    >>> rays, nowhere = torch.tensor([0, 0]), torch.zeros(2, 3)
    >>> z_variance_loss(Rendering(torch.zeros(1, 3, 1, 1), one, 2 * one, weights, rays, t_mids, nowhere)).item()
    1.0
    """
    opacity, depth = rendering.opacity.flatten(), rendering.depth.flatten()
    rays = rendering.ray_indices.long()
    spread = rendering.weights * (rendering.t_mids - depth[rays]).square()
    variances = torch.zeros_like(depth).index_add(0, rays, spread) / opacity.clamp(min=1e-6)
    is_hit = opacity.detach() > 0.5
    return part_of_mean(torch.where(is_hit, variances, 0).sum(), is_hit.sum(), share)


def smoothness_loss(
    field: Field, rendering: Rendering, radius: float, num_pairs: int, generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean squared difference of opacity and of colour between nearby points: (geometry, colour).

    Each pair is a visible sample (drawn by weight) and a neighbour at a normally distributed offset of scale
    `radius`. The opacity of a point is that of a layer `radius` thick, 1 − exp(−sigma · radius), which stays bounded
    as densities grow. Colour counts where there is matter. Works on any field, including hash grids, which have no
    neighbouring vertices to compare.
    """
    share = share_of(generator)
    if len(rendering.weights) == 0 and not share.is_split:
        zero = rendering.opacity.sum() * 0
        return zero, zero
    draws = torch.rand(num_pairs, generator=generator, device=generator.device).to(rendering.xyz)
    # Padding has no weight, so it is never drawn, and stands in the order of the rays.
    rays = rendering.ray_indices if rendering.count is None else None
    found = picked(draws, rendering.xyz.detach(), share, rendering.weights, rays)
    points = found.xyz
    offsets = torch.randn(num_pairs, 3, generator=generator, device=generator.device).to(points)
    neighbours = (points + radius * offsets).clamp(-1, 1)
    sigmas, rgbs = field(torch.cat([points, neighbours]))
    alphas = -torch.expm1(-radius * sigmas)
    alpha, alpha_near = alphas.chunk(2)
    rgb, rgb_near = rgbs.chunk(2)
    matter = torch.minimum(alpha, alpha_near).detach()
    color = (matter[:, None] * (rgb - rgb_near).square()).mean(1)
    return found.mean((alpha - alpha_near).square(), share), found.mean(color, share)
