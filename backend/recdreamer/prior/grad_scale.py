"""Gradients through a network in float16, which ends at 6 · 10⁻⁸: scaled on their way in, and back on their way out.

What a loss scale does for a whole program, for each pass through a network, and without a number to be found by trial:
the largest entry of each gradient decides. bfloat16 has the range of float32 and needs none of this; cards before Ampere
(Turing: GeForce 20, T4) do not have it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST = 32.0
"""Of a gradient at the network's output. Inside it may become two thousand times larger, or 10⁹ times smaller."""


class GradScale:
    """The scale of the gradients of one pass: `enter` what the network reads, and `leave` with what it returns."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Does nothing unless the network's `dtype` is float16."""
        self.is_needed = dtype == torch.float16
        self.factor: Tensor | None = None
        """Of the latest backward pass; a power of two, so that it rounds nothing."""

    def enter(self, values: Tensor) -> Tensor:
        """The same values, before they become halves."""
        return _Enter.apply(values, self) if self.is_needed else values  # pyright: ignore[reportReturnType]

    def leave(self, values: Tensor) -> Tensor:
        """The same values, once they are floats again."""
        return _Leave.apply(values, self) if self.is_needed else values  # pyright: ignore[reportReturnType]


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: GradScale) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        ctx.scale.factor = factor_of(grad)
        return grad * ctx.scale.factor, None


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: GradScale) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad / ctx.scale.factor, None


def factor_of(grad: Tensor) -> Tensor:
    """The power of two that brings the largest entry to about LARGEST; nothing waits for a GPU.

    >>> [factor_of(torch.tensor([largest, 0.0])).item() for largest in (32.0, 1.0, 0.0625)]
    [1.0, 32.0, 512.0]
    """
    largest = grad.abs().amax().float().clamp_min(1e-30)
    return (LARGEST / largest).log2().floor().exp2()
