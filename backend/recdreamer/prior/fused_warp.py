"""Group normalization with SiLU, and GEGLU, by Warp in half precision: forward, and their exact derivatives."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recdreamer.kernels import launch, launch_tiled
from recdreamer.prior.fused_kernels import HALVES, ROWS, make_kernels, to_means

BLOCK = 512
LARGEST_GROUP = 1 << 14
"""Words in a group up to which one block of threads does all of it: below, a launch costs more than idle processors."""
THREADS = 1 << 16
"""Threads over which a sum is spread: enough to fill a large GPU."""


def fits_group_norm(x: Tensor) -> bool:
    """Whether the kernels take pictures of this kind."""
    return x.dtype in HALVES and x.shape[1] % 4 == 0 and (x.shape[2] * x.shape[3]) % ROWS == 0


def fits_geglu(inputs: Tensor) -> bool:
    """Whether the kernels take inputs of this kind."""
    return inputs.dtype in HALVES and inputs.shape[-1] % 8 == 0


def _words(x: Tensor) -> Tensor:
    """Pictures as an array of words: (picture, pixel, four channels). The tensor must be channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).view(torch.int64)


def _rows(features: Tensor) -> Tensor:
    """Features as an array of words: (row, four features)."""
    return features.view(-1, features.shape[-1]).view(torch.int64)


def _parts(words: Tensor) -> tuple[int, int]:
    """Into how many parts the pixels are divided for their sum, and how many each of them has."""
    pictures, pixels, columns = words.shape
    parts = max(1, min(pixels // (4 * ROWS), THREADS // (pictures * columns)))
    rows = -(-pixels // (parts * ROWS)) * ROWS
    return -(-pixels // rows), rows


def _width(words: Tensor, groups: int) -> int:
    """Words of a pixel in a group if one block of threads does it, or else 0."""
    width, odd = divmod(words.shape[2], groups)
    return 0 if odd or words.shape[1] * width > LARGEST_GROUP else width


class GroupNormSilu(torch.autograd.Function):
    """`fused.group_norm_reference`, with the gradient towards the pictures alone: weight and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, with_silu: bool,
        shift: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous(memory_format=torch.channels_last)
        kernels, words, y = make_kernels(x.dtype), _words(x), torch.empty_like(x)
        pictures, pixels, columns = words.shape
        coefficients = x.new_empty(pictures, 4, columns, 4, dtype=torch.float32)
        ctx.save_for_backward(x, coefficients)
        ctx.groups, ctx.with_silu, ctx.rows = groups, int(with_silu), 0 if shift is None else len(shift)
        shift = x.new_empty(0, x.shape[1]) if shift is None else shift.contiguous()
        weights = [tensor.view(torch.int64) for tensor in (weight, bias, shift)]
        if width := _width(words, groups):
            launch_tiled(
                kernels.normalize_groups, (pictures, groups),
                [words, *weights, width, eps, int(with_silu), coefficients, _words(y)], BLOCK, x.device,
            )  # fmt: skip
            return y
        parts, rows = _parts(words)
        sums = x.new_empty(pictures, parts, 2, columns, 4, dtype=torch.float32)
        launch(kernels.sum_up, (pictures, parts, columns), [words, weights[2], rows, sums])
        size = 4 * columns // groups
        flat = [tensor.flatten(-2) for tensor in (sums, coefficients)]
        arguments = [flat[0], weight, bias, shift, size, float(pixels * size), eps, flat[1]]
        launch_tiled(kernels.to_coefficients, (pictures, groups), arguments, BLOCK, x.device)
        launch(
            kernels.normalize, (pictures, pixels // ROWS, columns),
            [words, coefficients, int(with_silu), _words(y)],
        )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, coefficients = ctx.saved_tensors
        grad_y = grad_y.contiguous(memory_format=torch.channels_last)
        kernels, grad_x = make_kernels(x.dtype), torch.empty_like(x)
        words, grads = _words(x), _words(grad_y)
        pictures, pixels, columns = words.shape
        if width := _width(words, ctx.groups):
            arguments = [words, grads, coefficients, width, ctx.with_silu, _words(grad_x)]
            kernel, blocks = kernels.normalize_groups_backward, (pictures, ctx.groups)
            launch_tiled(kernel, blocks, arguments, BLOCK, x.device)
            return grad_x, None, None, None, None, None, _of_shift(ctx, grad_x)
        parts, rows = _parts(words)
        sums = x.new_empty(pictures, parts, 2, columns, 4, dtype=torch.float32)
        means = x.new_empty(pictures, 2, columns, 4, dtype=torch.float32)
        launch(
            kernels.sum_up_gradients, (pictures, parts, columns),
            [words, grads, coefficients, ctx.with_silu, rows, sums],
        )  # fmt: skip
        size = 4 * columns // ctx.groups
        arguments = [sums.flatten(-2), size, float(pixels * size), means.flatten(-2)]
        launch_tiled(to_means, (pictures, ctx.groups), arguments, BLOCK, x.device)
        launch(
            kernels.normalize_backward, (pictures, pixels // ROWS, columns),
            [words, grads, coefficients, means, ctx.with_silu, _words(grad_x)],
        )  # fmt: skip
        return grad_x, None, None, None, None, None, _of_shift(ctx, grad_x)


def _of_shift(ctx: Any, grad_x: Tensor) -> Tensor | None:
    """The gradient on a shift, which is added to all pixels, and perhaps to all pictures."""
    if not ctx.needs_input_grad[6]:
        return None
    return grad_x.sum((2, 3)) if ctx.rows == len(grad_x) else grad_x.sum((0, 2, 3))[None]


class Sum(torch.autograd.Function):
    """`fused.add_reference`, for a frozen shift."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor, shift: Tensor) -> Tensor:
        x, other = (one.contiguous(memory_format=torch.channels_last) for one in (x, other))
        words, y = _words(x), torch.empty_like(x)
        pictures, pixels, columns = words.shape
        launch(
            make_kernels(x.dtype).add_up, (pictures, pixels // ROWS, columns),
            [words, _words(other), shift.contiguous().view(torch.int64), _words(y)],
        )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad_y, grad_y, None


class Geglu(torch.autograd.Function):
    """`fused.geglu_reference`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous()
        outputs = inputs.new_empty(*inputs.shape[:-1], inputs.shape[-1] // 2)
        arrays = [_rows(tensor) for tensor in (inputs, outputs)]
        launch(make_kernels(inputs.dtype).gate, arrays[1].shape, arrays)
        ctx.save_for_backward(inputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        grad_inputs = torch.empty_like(inputs)
        arrays = [_rows(tensor) for tensor in (inputs, grad_outputs.contiguous(), grad_inputs)]
        launch(make_kernels(inputs.dtype).gate_backward, arrays[1].shape, arrays)
        return grad_inputs
