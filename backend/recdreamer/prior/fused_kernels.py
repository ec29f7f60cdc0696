"""The Warp kernels of `fused_warp.py`, for each half precision.

The tensors are channels-last, and are read in words of four numbers: single ones would use half of the memory's
bandwidth at most. All sums are made in float32, and in a fixed order. Division and exponentials are approximate, to some
2^-22, far below half precision: exact ones would take longer than the memory.
"""

import functools
from types import SimpleNamespace
from typing import no_type_check

import torch
import warp as wp

wp.set_module_options({"enable_backward": False})
OPTIONS = {"enable_backward": False, "fast_math": True}

ROWS = 4
"""Rows (pixels) that a thread reads at once, so that it need not wait for one after another."""


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

    @wp.func
    @no_type_check
    def moved(
        x: wp.array(dtype=wp.uint64, ndim=3), shift: wp.array2d(dtype=wp.uint64), picture: int, row: int, column: int
    ) -> wp.vec4:  # fmt: skip
        """Four numbers of x, plus the shift of their channels if there is any."""
        if shift.shape[0] > 0:
            return unpack(x[picture, row, column]) + unpack(shift[picture % shift.shape[0], column])
        return unpack(x[picture, row, column])

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def sum_up(
        x: wp.array(dtype=wp.uint64, ndim=3),
        shift: wp.array2d(dtype=wp.uint64),
        rows: int,
        sums: wp.array(dtype=wp.vec4, ndim=4),
    ):
        """Sums of x and x² over a part of the rows."""
        picture, part, column = wp.tid()
        first, second = wp.vec4(), wp.vec4()
        for row in range(part * rows, wp.min(part * rows + rows, x.shape[1]), ROWS):
            a, b = moved(x, shift, picture, row, column), moved(x, shift, picture, row + 1, column)
            c, d = moved(x, shift, picture, row + 2, column), moved(x, shift, picture, row + 3, column)
            first += (a + b) + (c + d)
            second += (wp.cw_mul(a, a) + wp.cw_mul(b, b)) + (wp.cw_mul(c, c) + wp.cw_mul(d, d))
        sums[picture, part, 0, column] = first
        sums[picture, part, 1, column] = second

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def to_coefficients(
        sums: wp.array(dtype=float, ndim=4),
        weight: wp.array(dtype=half),
        bias: wp.array(dtype=half),
        shift: wp.array2d(dtype=half),
        size: int,
        count: float,
        eps: float,
        coefficients: wp.array(dtype=float, ndim=3),
    ):
        """Scale, offset, mean (of x alone) and 1/deviation of each channel, from the sums of `size` channels."""
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
            before = mean
            if shift.shape[0] > 0:
                before = mean - float(shift[picture % shift.shape[0], channel])
            coefficients[picture, 0, channel] = scale
            coefficients[picture, 1, channel] = float(bias[channel]) - before * scale
            coefficients[picture, 2, channel] = before
            coefficients[picture, 3, channel] = inverse

    @wp.kernel(module="unique", module_options=OPTIONS)
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

    @wp.kernel(module="unique", module_options=OPTIONS)
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

    @wp.kernel(module="unique", module_options=OPTIONS)
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

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def normalize_groups(
        x: wp.array(dtype=wp.uint64, ndim=3),
        weight: wp.array(dtype=wp.uint64),
        bias: wp.array(dtype=wp.uint64),
        shift: wp.array2d(dtype=wp.uint64),
        width: int,
        eps: float,
        with_silu: int,
        coefficients: wp.array(dtype=wp.vec4, ndim=3),
        y: wp.array(dtype=wp.uint64, ndim=3),
    ):
        """`sum_up`, `to_coefficients` and `normalize` of a group `width` words wide."""
        picture, group, lane = wp.tid()
        first, second = wp.float32(0.0), wp.float32(0.0)
        for i in range(lane, x.shape[1] * width, wp.block_dim()):
            value = moved(x, shift, picture, i // width, group * width + i % width)
            first += (value[0] + value[1]) + (value[2] + value[3])
            second += wp.dot(value, value)
        one, other = wp.tile_sum(wp.tile(first)), wp.tile_sum(wp.tile(second))
        count = float(4 * x.shape[1] * width)
        mean = one[0] / count
        inverse = 1.0 / wp.sqrt(wp.max(other[0] / count - mean * mean, 0.0) + eps)
        for i in range(lane, width, wp.block_dim()):
            column = group * width + i
            scale, before = inverse * unpack(weight[column]), wp.vec4(mean)
            if shift.shape[0] > 0:
                before = wp.vec4(mean) - unpack(shift[picture % shift.shape[0], column])
            coefficients[picture, 0, column] = scale
            coefficients[picture, 1, column] = unpack(bias[column]) - wp.cw_mul(before, scale)
            coefficients[picture, 2, column] = before
            coefficients[picture, 3, column] = wp.vec4(inverse)
        for i in range(lane, x.shape[1] * width, wp.block_dim()):
            column = group * width + i % width
            z = moved(x, shift, picture, i // width, column) - wp.vec4(mean)
            z = wp.cw_mul(z, inverse * unpack(weight[column])) + unpack(bias[column])
            if with_silu != 0:
                z = silu(z)
            y[picture, i // width, column] = pack(z)

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def normalize_groups_backward(
        x: wp.array(dtype=wp.uint64, ndim=3),
        grad_y: wp.array(dtype=wp.uint64, ndim=3),
        coefficients: wp.array(dtype=wp.vec4, ndim=3),
        width: int,
        with_silu: int,
        grad_x: wp.array(dtype=wp.uint64, ndim=3),
    ):
        """`sum_up_gradients`, `to_means` and `normalize_backward` of a group `width` words wide."""
        picture, group, lane = wp.tid()
        inverse = coefficients[picture, 3, group * width]
        first, second = wp.float32(0.0), wp.float32(0.0)
        for i in range(lane, x.shape[1] * width, wp.block_dim()):
            column = group * width + i % width
            value = unpack(x[picture, i // width, column])
            grad = scaled_gradient(
                value, unpack(grad_y[picture, i // width, column]),
                coefficients[picture, 0, column], coefficients[picture, 1, column], with_silu,
            )  # fmt: skip
            first += (grad[0] + grad[1]) + (grad[2] + grad[3])
            second += wp.dot(grad, wp.cw_mul(value - coefficients[picture, 2, column], inverse))
        one, other = wp.tile_sum(wp.tile(first)), wp.tile_sum(wp.tile(second))
        count = float(4 * x.shape[1] * width)
        along, away = wp.vec4(one[0] / count), inverse * (other[0] / count)
        for i in range(lane, x.shape[1] * width, wp.block_dim()):
            column = group * width + i % width
            value = unpack(x[picture, i // width, column])
            grad = scaled_gradient(
                value, unpack(grad_y[picture, i // width, column]),
                coefficients[picture, 0, column], coefficients[picture, 1, column], with_silu,
            )  # fmt: skip
            grad_x[picture, i // width, column] = pack(
                grad - along - wp.cw_mul(value - coefficients[picture, 2, column], away)
            )

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def add_up(
        x: wp.array(dtype=wp.uint64, ndim=3),
        other: wp.array(dtype=wp.uint64, ndim=3),
        shift: wp.array2d(dtype=wp.uint64),
        y: wp.array(dtype=wp.uint64, ndim=3),
    ):
        picture, part, column = wp.tid()
        for i in range(ROWS):
            total = moved(x, shift, picture, ROWS * part + i, column)
            y[picture, ROWS * part + i, column] = pack(
                total + unpack(other[picture, ROWS * part + i, column])
            )

    @wp.kernel(module="unique", module_options=OPTIONS)
    @no_type_check
    def gate(inputs: wp.array2d(dtype=wp.uint64), outputs: wp.array2d(dtype=wp.uint64)):
        """First half of a row's columns times GELU of the second."""
        row, column = wp.tid()
        value = unpack(inputs[row, column])
        outputs[row, column] = pack(wp.cw_mul(value, gelu(unpack(inputs[row, outputs.shape[1] + column]))))

    @wp.kernel(module="unique", module_options=OPTIONS)
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
        normalize_groups=normalize_groups, normalize_groups_backward=normalize_groups_backward,
        sum_up=sum_up, to_coefficients=to_coefficients, normalize=normalize, sum_up_gradients=sum_up_gradients,
        normalize_backward=normalize_backward, add_up=add_up, gate=gate, gate_backward=gate_backward,
    )  # fmt: skip
