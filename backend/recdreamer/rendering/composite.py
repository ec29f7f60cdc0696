"""Front-to-back compositing of packed samples (NeRF, Mildenhall et al. 2020, Eq. 3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.kernels import uses_warp
from recdreamer.rendering.march import Samples


def composite(
    sigmas: Float[Tensor, "samples"],
    rgbs: Float[Tensor, "samples 3"],
    samples: Samples,
    min_trans: float = 0.0,
) -> tuple[Float[Tensor, "samples"], Float[Tensor, "rays 3"], Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Weights w = T · (1 − exp(−sigma · length)), and per ray the sums of w · rgb, w and w · t.

    Differentiable in `sigmas` and `rgbs`. The weights of a ray add up to its opacity. Samples behind the one where the
    transmittance falls below `min_trans` have no weight and no gradient, as if the ray stopped there.

    Two samples of length 1 that each let half of the light through, red before green:

    >>> counts, rays, t = torch.tensor([2]), torch.tensor([0, 0]), torch.tensor([0.0, 1.0])
    >>> samples = Samples(counts, rays, t, t + 1, torch.zeros(2, 3))
    >>> half = torch.tensor([2.0, 2.0]).log()
    >>> weights, rgb, opacity, depth = composite(half, torch.eye(3)[:2], samples)
    >>> [[round(x, 4) for x in values.flatten().tolist()] for values in (weights, rgb, opacity, depth)]
    [[0.5, 0.25], [0.5, 0.25, 0.0], [0.75], [0.625]]
    """
    if uses_warp(sigmas):
        from recdreamer.rendering.composite_warp import Composite

        return Composite.apply(
            sigmas, rgbs, samples.t_starts, samples.t_ends, samples.counts, min_trans, samples.is_padded
        )
    return composite_reference(sigmas, rgbs, samples, min_trans)


def composite_reference(
    sigmas: Float[Tensor, "samples"],
    rgbs: Float[Tensor, "samples 3"],
    samples: Samples,
    min_trans: float = 0.0,
) -> tuple[Float[Tensor, "samples"], Float[Tensor, "rays 3"], Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """The same in plain torch, in a table of rays × the most samples of any ray."""
    counts = samples.counts.long()
    padding = 0
    if samples.is_padded:
        padding = len(sigmas) - int(counts.sum())
        sigmas, rgbs, rays, t_starts, t_ends, xyz = (
            values[: len(values) - padding]
            for values in (sigmas, rgbs, samples.ray_indices, samples.t_starts, samples.t_ends, samples.xyz)
        )
        samples = Samples(samples.counts, rays, t_starts, t_ends, xyz)
    rays = samples.ray_indices.long()
    slots = torch.arange(len(rays), device=rays.device) - (counts.cumsum(0) - counts)[rays]
    width = int(counts.max()) if len(rays) else 0
    taus = sigmas.new_zeros(len(counts), width).index_put(
        (rays, slots), sigmas * (samples.t_ends - samples.t_starts)
    )
    trans = torch.exp(taus - taus.cumsum(dim=1))
    weights = (trans * -torch.expm1(-taus) * (trans >= min_trans))[rays, slots]

    def sums(values: Tensor) -> Tensor:
        return values.new_zeros(len(counts), *values.shape[1:]).index_add(0, rays, values)

    totals = sums(weights[:, None] * rgbs), sums(weights), sums(weights * samples.t_mids)
    return torch.nn.functional.pad(weights, (0, padding)), *totals
