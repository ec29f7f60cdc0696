"""Group normalization with SiLU, and GEGLU, as Warp kernels in half precision: forward, and their exact derivatives.

The tensors are channels-last, and are read in words of four numbers: single ones would use half of the memory's
bandwidth at most. All sums are made in float32, and in a fixed order.
"""

import functools
from types import SimpleNamespace
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from recdreamer.kernels import launch, launch_tiled

wp.set_module_options({"enable_backward": False})

ROWS = 4
"""Rows (pixels) that a thread reads at once, so that it need not wait for one after another."""
BLOCK = 256
THREADS = 1 << 16
"""Threads over which a sum is spread: enough to fill a large GPU."""


@wp.func
@no_type_check
def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + wp.exp(-z))


@wp.func
@no_type_check
def silu(z: wp.vec4) -> wp.vec4:
    return wp.vec4(z[0] * sigmoid(z[0]), z[1] * sigmoid(z[1]), z[2] * sigmoid(z[2]), z[3] * sigmoid(z[3]))


@wp.func
@no_type_check
def silu_slope(z: float) -> float:
    s = sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


@wp.func
@no_type_check
def silu_slopes(z: wp.vec4) -> wp.vec4:
    return wp.vec4(silu_slope(z[0]), silu_slope(z[1]), silu_slope(z[2]), silu_slope(z[3]))


@wp.func
@no_type_check
def normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + wp.erf(0.7071067811865476 * x))


@wp.func
@no_type_check
def gelu(x: wp.vec4) -> wp.vec4:
    return wp.vec4(
        x[0] * normal_cdf(x[0]), x[1] * normal_cdf(x[1]), x[2] * normal_cdf(x[2]), x[3] * normal_cdf(x[3])
    )


@wp.func
@no_type_check
def gelu_slope(x: float) -> float:
    return normal_cdf(x) + x * 0.3989422804014327 * wp.exp(-0.5 * x * x)


@wp.func
@no_type_check
def gelu_slopes(x: wp.vec4) -> wp.vec4:
    return wp.vec4(gelu_slope(x[0]), gelu_slope(x[1]), gelu_slope(x[2]), gelu_slope(x[3]))


# Written twice: Warp tells functions apart by their source, and would take one for both.
@wp.func
@no_type_check
def unpack_bfloat16(word: wp.uint64) -> wp.vec4:
    return wp.vec4(
        float(wp.cast(wp.uint16(word), wp.bfloat16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(16)), wp.bfloat16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(32)), wp.bfloat16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(48)), wp.bfloat16)),
    )


@wp.func
@no_type_check
def pack_bfloat16(v: wp.vec4) -> wp.uint64:
    return (
        wp.uint64(wp.cast(wp.bfloat16(v[0]), wp.uint16))
        | (wp.uint64(wp.cast(wp.bfloat16(v[1]), wp.uint16)) << wp.uint64(16))
        | (wp.uint64(wp.cast(wp.bfloat16(v[2]), wp.uint16)) << wp.uint64(32))
        | (wp.uint64(wp.cast(wp.bfloat16(v[3]), wp.uint16)) << wp.uint64(48))
    )


@wp.func
@no_type_check
def unpack_float16(word: wp.uint64) -> wp.vec4:
    return wp.vec4(
        float(wp.cast(wp.uint16(word), wp.float16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(16)), wp.float16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(32)), wp.float16)),
        float(wp.cast(wp.uint16(word >> wp.uint64(48)), wp.float16)),
    )


@wp.func
@no_type_check
def pack_float16(v: wp.vec4) -> wp.uint64:
    return (
        wp.uint64(wp.cast(wp.float16(v[0]), wp.uint16))
        | (wp.uint64(wp.cast(wp.float16(v[1]), wp.uint16)) << wp.uint64(16))
        | (wp.uint64(wp.cast(wp.float16(v[2]), wp.uint16)) << wp.uint64(32))
        | (wp.uint64(wp.cast(wp.float16(v[3]), wp.uint16)) << wp.uint64(48))
    )


HALVES = {
    torch.bfloat16: (wp.bfloat16, unpack_bfloat16, pack_bfloat16),
    torch.float16: (wp.float16, unpack_float16, pack_float16),
}
"""The scalar type of each half precision, and how four of its numbers are in a word."""


@wp.kernel
@no_type_check
def to_means(
    sums: wp.array(dtype=float, ndim=4), size: int, count: float, means: wp.array(dtype=float, ndim=3)
):
    """Both sums over a group, divided by `count`, for each of the group's `size` channels."""
    picture, group, lane = wp.tid()
    first, second = wp.float32(0.0), wp.float32(0.0)
    for i in range(lane, sums.shape[1] * size, wp.block_dim()):
        channel = group * size + i % size
        first += sums[picture, i // size, 0, channel]
        second += sums[picture, i // size, 1, channel]
    one, other = wp.tile_sum(wp.tile(first)), wp.tile_sum(wp.tile(second))
    for i in range(lane, size, wp.block_dim()):
        means[picture, 0, group * size + i] = one[0] / count
        means[picture, 1, group * size + i] = other[0] / count


@functools.cache
def make_kernels(dtype: torch.dtype) -> SimpleNamespace:
    """The kernels that read or write tensors of a half precision."""
    half, unpack, pack = HALVES[dtype]

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def sum_up(x: wp.array(dtype=wp.uint64, ndim=3), rows: int, sums: wp.array(dtype=wp.vec4, ndim=4)):
        """Sums of x and x² over a part of the rows."""
        picture, part, column = wp.tid()
        first, second = wp.vec4(), wp.vec4()
        for row in range(part * rows, wp.min(part * rows + rows, x.shape[1]), ROWS):
            a, b = unpack(x[picture, row, column]), unpack(x[picture, row + 1, column])
            c, d = unpack(x[picture, row + 2, column]), unpack(x[picture, row + 3, column])
            first += (a + b) + (c + d)
            second += (wp.cw_mul(a, a) + wp.cw_mul(b, b)) + (wp.cw_mul(c, c) + wp.cw_mul(d, d))
        sums[picture, part, 0, column] = first
        sums[picture, part, 1, column] = second

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def to_coefficients(
        sums: wp.array(dtype=float, ndim=4),
        weight: wp.array(dtype=half),
        bias: wp.array(dtype=half),
        size: int,
        count: float,
        eps: float,
        coefficients: wp.array(dtype=float, ndim=3),
    ):
        """Scale, shift, mean and 1/deviation of each channel, from the sums of a group of `size` channels."""
        picture, group, lane = wp.tid()
        first, second = wp.float32(0.0), wp.float32(0.0)
        for i in range(lane, sums.shape[1] * size, wp.block_dim()):
            channel = group * size + i % size
            first += sums[picture, i // size, 0, channel]
            second += sums[picture, i // size, 1, channel]
        one, other = wp.tile_sum(wp.tile(first)), wp.tile_sum(wp.tile(second))
        mean = one[0] / count
        inverse = 1.0 / wp.sqrt(wp.max(other[0] / count - mean * mean, 0.0) + eps)
        for i in range(lane, size, wp.block_dim()):
            channel = group * size + i
            scale = inverse * float(weight[channel])
            coefficients[picture, 0, channel] = scale
            coefficients[picture, 1, channel] = float(bias[channel]) - mean * scale
            coefficients[picture, 2, channel] = mean
            coefficients[picture, 3, channel] = inverse

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def normalize(
        x: wp.array(dtype=wp.uint64, ndim=3),
        coefficients: wp.array(dtype=wp.vec4, ndim=3),
        with_silu: int,
        y: wp.array(dtype=wp.uint64, ndim=3),
    ):
        picture, part, column = wp.tid()
        scale, shift = coefficients[picture, 0, column], coefficients[picture, 1, column]
        for i in range(ROWS):
            z = wp.cw_mul(unpack(x[picture, ROWS * part + i, column]), scale) + shift
            if with_silu != 0:
                z = silu(z)
            y[picture, ROWS * part + i, column] = pack(z)

    @wp.func
    @no_type_check
    def scaled_gradient(x: wp.vec4, grad: wp.vec4, scale: wp.vec4, shift: wp.vec4, with_silu: int) -> wp.vec4:
        """Gradient on the normalized values times weight and 1/deviation."""
        if with_silu != 0:
            grad = wp.cw_mul(grad, silu_slopes(wp.cw_mul(x, scale) + shift))
        return wp.cw_mul(grad, scale)

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def sum_up_gradients(
        x: wp.array(dtype=wp.uint64, ndim=3),
        grad_y: wp.array(dtype=wp.uint64, ndim=3),
        coefficients: wp.array(dtype=wp.vec4, ndim=3),
        with_silu: int,
        rows: int,
        sums: wp.array(dtype=wp.vec4, ndim=4),
    ):
        """Sums of the scaled gradient, and of its product with the normalized x, over a part of the rows."""
        picture, part, column = wp.tid()
        scale, shift = coefficients[picture, 0, column], coefficients[picture, 1, column]
        mean, inverse = coefficients[picture, 2, column], coefficients[picture, 3, column]
        first, second = wp.vec4(), wp.vec4()
        for row in range(part * rows, wp.min(part * rows + rows, x.shape[1]), ROWS):
            for i in range(ROWS):
                value = unpack(x[picture, row + i, column])
                grad = unpack(grad_y[picture, row + i, column])
                grad = scaled_gradient(value, grad, scale, shift, with_silu)
                first += grad
                second += wp.cw_mul(grad, wp.cw_mul(value - mean, inverse))
        sums[picture, part, 0, column] = first
        sums[picture, part, 1, column] = second

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def normalize_backward(
        x: wp.array(dtype=wp.uint64, ndim=3),
        grad_y: wp.array(dtype=wp.uint64, ndim=3),
        coefficients: wp.array(dtype=wp.vec4, ndim=3),
        means: wp.array(dtype=wp.vec4, ndim=3),
        with_silu: int,
        grad_x: wp.array(dtype=wp.uint64, ndim=3),
    ):
        picture, part, column = wp.tid()
        scale, shift = coefficients[picture, 0, column], coefficients[picture, 1, column]
        mean, inverse = coefficients[picture, 2, column], coefficients[picture, 3, column]
        first, second = means[picture, 0, column], means[picture, 1, column]
        for i in range(ROWS):
            value = unpack(x[picture, ROWS * part + i, column])
            grad = unpack(grad_y[picture, ROWS * part + i, column])
            grad = scaled_gradient(value, grad, scale, shift, with_silu)
            away = wp.cw_mul(wp.cw_mul(value - mean, inverse), second)
            grad_x[picture, ROWS * part + i, column] = pack(grad - first - away)

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def gate(inputs: wp.array2d(dtype=wp.uint64), outputs: wp.array2d(dtype=wp.uint64)):
        """First half of a row's columns times GELU of the second."""
        row, column = wp.tid()
        value = unpack(inputs[row, column])
        outputs[row, column] = pack(wp.cw_mul(value, gelu(unpack(inputs[row, outputs.shape[1] + column]))))

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def gate_backward(
        inputs: wp.array2d(dtype=wp.uint64),
        grad_outputs: wp.array2d(dtype=wp.uint64),
        grad_inputs: wp.array2d(dtype=wp.uint64),
    ):
        row, column = wp.tid()
        width = grad_outputs.shape[1]
        value, opening = unpack(inputs[row, column]), unpack(inputs[row, width + column])
        grad = unpack(grad_outputs[row, column])
        grad_inputs[row, column] = pack(wp.cw_mul(grad, gelu(opening)))
        grad_inputs[row, width + column] = pack(wp.cw_mul(grad, wp.cw_mul(value, gelu_slopes(opening))))

    return SimpleNamespace(
        sum_up=sum_up, to_coefficients=to_coefficients, normalize=normalize, sum_up_gradients=sum_up_gradients,
        normalize_backward=normalize_backward, gate=gate, gate_backward=gate_backward,
    )  # fmt: skip


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


class GroupNormSilu(torch.autograd.Function):
    """`fused.group_norm_reference`, with the gradient towards the pictures alone: weight and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, with_silu: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        kernels, words, y = make_kernels(x.dtype), _words(x), torch.empty_like(x)
        pictures, pixels, columns = words.shape
        parts, rows = _parts(words)
        sums = x.new_empty(pictures, parts, 2, columns, 4, dtype=torch.float32)
        coefficients = x.new_empty(pictures, 4, columns, 4, dtype=torch.float32)
        launch(kernels.sum_up, (pictures, parts, columns), [words, rows, sums])
        size = 4 * columns // groups
        flat = [tensor.flatten(-2) for tensor in (sums, coefficients)]
        arguments = [flat[0], weight, bias, size, float(pixels * size), eps, flat[1]]
        launch_tiled(kernels.to_coefficients, (pictures, groups), arguments, BLOCK, x.device)
        launch(
            kernels.normalize, (pictures, pixels // ROWS, columns),
            [words, coefficients, int(with_silu), _words(y)],
        )  # fmt: skip
        ctx.save_for_backward(x, coefficients)
        ctx.groups, ctx.with_silu = groups, int(with_silu)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        x, coefficients = ctx.saved_tensors
        grad_y = grad_y.contiguous(memory_format=torch.channels_last)
        kernels, grad_x = make_kernels(x.dtype), torch.empty_like(x)
        words, grads = _words(x), _words(grad_y)
        pictures, pixels, columns = words.shape
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
        return grad_x, None, None, None, None, None


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
