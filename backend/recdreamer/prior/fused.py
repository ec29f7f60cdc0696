"""Operations that are several kernels in torch, and one here: group normalization with SiLU, and GEGLU.

Torch's group normalization gives back tensors in another layout than convolutions like, so that each is copied to and
fro, and works on one group per multiprocessor, of which a large GPU has four times as many.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.kernels import kernels_are_on


def group_norm(
    x: Float[Tensor, "batch c h w"], norm: nn.GroupNorm, with_silu: bool, shift: Float[Tensor, "rows c"] | None = None
) -> Float[Tensor, "batch c h w"]:  # fmt: skip
    """Group normalization of x + shift, then SiLU if wanted. On a GPU in half precision by Warp, for frozen weights.

    The shift has a row for each picture, or one for all.
    """
    if x.is_cuda and kernels_are_on() and not norm.weight.requires_grad:
        from recdreamer.prior.fused_warp import GroupNormSilu, fits_group_norm

        if fits_group_norm(x) and norm.weight.dtype == x.dtype and (shift is None or shift.dtype == x.dtype):
            return GroupNormSilu.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, with_silu, shift)
    return group_norm_reference(x, norm, with_silu, shift)


def group_norm_reference(
    x: Float[Tensor, "batch c h w"], norm: nn.GroupNorm, with_silu: bool, shift: Float[Tensor, "rows c"] | None = None
) -> Float[Tensor, "batch c h w"]:  # fmt: skip
    """The same in torch.

    >>> norm = nn.GroupNorm(1, 2, eps=0.0)
    >>> x = Tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    >>> [round(value, 4) for value in group_norm_reference(x, norm, True).flatten().tolist()]
    [-0.2689, 0.7311]
    >>> shift = Tensor([[4.0, 0.0]])
    >>> [round(value, 4) for value in group_norm_reference(x, norm, True, shift).flatten().tolist()]
    [0.7311, -0.2689]
    """
    x = x if shift is None else x + shift[:, :, None, None]
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(y) if with_silu else y


def add(
    x: Float[Tensor, "batch c h w"], other: Float[Tensor, "batch c h w"], shift: Float[Tensor, "rows c"]
) -> Float[Tensor, "batch c h w"]:
    """x + other + shift, as at the end of a residual block. On a GPU in half precision by Warp, for a frozen shift."""
    if x.is_cuda and kernels_are_on() and not shift.requires_grad:
        from recdreamer.prior.fused_warp import Sum, fits_group_norm

        if fits_group_norm(x) and x.dtype == other.dtype == shift.dtype:
            return Sum.apply(x, other, shift)
    return add_reference(x, other, shift)


def add_reference(
    x: Float[Tensor, "batch c h w"], other: Float[Tensor, "batch c h w"], shift: Float[Tensor, "rows c"]
) -> Float[Tensor, "batch c h w"]:
    """The same in torch.

    >>> add_reference(Tensor([[[[1.0, 2.0]]]]), Tensor([[[[10.0, 20.0]]]]), Tensor([[100.0]])).tolist()
    [[[[111.0, 122.0]]]]
    """
    return x + shift[:, :, None, None] + other


def geglu(inputs: Float[Tensor, "*batch twice"]) -> Float[Tensor, "*batch once"]:
    """The first half of the features times GELU of the second (Shazeer 2020). On a GPU in half precision by Warp."""
    if inputs.is_cuda and kernels_are_on():
        from recdreamer.prior.fused_warp import Geglu, fits_geglu

        if fits_geglu(inputs):
            return Geglu.apply(inputs)
    return geglu_reference(inputs)


def geglu_reference(inputs: Float[Tensor, "*batch twice"]) -> Float[Tensor, "*batch once"]:
    """The same in torch.

    >>> round(geglu_reference(Tensor([2.0, 1.0])).item(), 4)  # 2 · 1 · Φ(1)
    1.6827
    """
    value, opening = inputs.chunk(2, dim=-1)
    return value * F.gelu(opening)
