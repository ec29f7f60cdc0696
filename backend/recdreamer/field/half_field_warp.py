"""A hash grid and its network in half precision, for GPUs: kernels and matrix products, with their backward pass.

Features and hidden units are halves, sums and parameters are floats. The gradient is divided by its largest entry, so
that halves hold it, and multiplied again where it is added up in floats. Features lie one after another (not point
after point), so that neighbouring threads read and write neighbouring numbers.
"""

import functools
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor
from torch.nn import functional as F

from recdreamer.field.hash_grid import HashGrid
from recdreamer.field.hash_grid_warp import CUBE_ROOT, in_cells, lower_corner, vertex_row
from recdreamer.kernels import launch

wp.set_module_options({"enable_backward": False})

RUN_RESOLUTION = 128
"""Up to this resolution neighbouring samples of a ray share cells, at the steps that a field is rendered with."""
RUN_POINTS = 32
"""Samples that one thread adds up before it writes: few enough to leave work for all threads of a GPU."""
CHANNELS, PADDED = 4, 8
"""Density and colour, filled up with zeros: 4 channels take up to three times as long on tensor cores."""
TINY = 1e-30

ADD_PAIR = """
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .u64 place; cvta.to.global.u64 place, %0; red.global.add.v2.f32 [place], {%1, %2}; }"
        :: "l"(&table.data[row]), "f"(value[0]), "f"(value[1]) : "memory");
#else
    wp::atomic_add(table, row, value);
#endif
"""


@wp.func
@no_type_check
def unpacked(pair: wp.int64):
    """Two floats that were read by one access, which no compiler would do for a vector of floats."""
    return wp.vec2(wp.cast(wp.int32(pair), wp.float32), wp.cast(wp.int32(pair >> wp.int64(32)), wp.float32))


@wp.func_native(ADD_PAIR)
@no_type_check
def add_pair(table: wp.array(dtype=wp.vec2), row: int, value: wp.vec2): ...


@functools.cache
def make_kernels(features: int) -> tuple[Any, Any]:
    """Forward and backward kernel for that many features per level."""
    vec = wp.vec2 if features == 2 else wp.types.vector(length=features, dtype=wp.float32)
    corners = wp.types.matrix(shape=(8, features), dtype=wp.float32)

    stored = wp.int64 if features == 2 else vec

    if features == 2:
        load, add = unpacked, add_pair
    else:

        @wp.func
        @no_type_check
        def unchanged(value: vec):
            return value

        @wp.func
        @no_type_check
        def add_vec(table: wp.array(dtype=vec), row: int, value: vec):
            wp.atomic_add(table, row, value)

        load, add = unchanged, add_vec

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def encode(
        xyz: wp.array2d(dtype=float),
        table: wp.array(dtype=stored),
        level_weights: wp.array(dtype=float),
        layout: wp.array2d(dtype=int),
        encoded: wp.array2d(dtype=wp.float16),
    ):
        level, point = wp.tid()
        weight = level_weights[level]
        total = vec()
        if weight != 0.0:
            resolution, offset, size = layout[0, level], layout[1, level], layout[2, level]
            side = resolution + 1
            is_dense, mask = side <= CUBE_ROOT and side * side * side <= size, wp.uint32(size - 1)
            position = in_cells(xyz, point, resolution)
            cell = lower_corner(position, resolution)
            fraction = position - wp.vec3(float(cell[0]), float(cell[1]), float(cell[2]))
            for dz in range(2):
                share_z = wp.where(dz == 1, fraction[2], 1.0 - fraction[2]) * weight
                for dy in range(2):
                    share_zy = wp.where(dy == 1, fraction[1], 1.0 - fraction[1]) * share_z
                    for dx in range(2):
                        share = wp.where(dx == 1, fraction[0], 1.0 - fraction[0]) * share_zy
                        row = vertex_row(cell[0] + dx, cell[1] + dy, cell[2] + dz, side, is_dense, mask)
                        total += share * load(table[offset + row])
        for feature in range(wp.static(features)):
            encoded[level * wp.static(features) + feature, point] = wp.float16(total[feature])

    @wp.func
    @no_type_check
    def write(
        grad_table: wp.array(dtype=vec),
        offset: int,
        cell: wp.vec3i,
        side: int,
        is_dense: bool,
        mask: wp.uint32,
        sums: corners,
    ):
        for dz in range(2):
            for dy in range(2):
                for dx in range(2):
                    row = vertex_row(cell[0] + dx, cell[1] + dy, cell[2] + dz, side, is_dense, mask)
                    add(grad_table, offset + row, sums[4 * dz + 2 * dy + dx])

    @wp.kernel(module="unique", enable_backward=False)
    @no_type_check
    def scatter(
        xyz: wp.array2d(dtype=float),
        grads: wp.array2d(dtype=wp.float16),
        factor: wp.array(dtype=float),
        level_weights: wp.array(dtype=float),
        layout: wp.array2d(dtype=int),
        first_level: int,
        run: int,
        grad_table: wp.array(dtype=vec),
    ):
        index, chunk = wp.tid()
        level = first_level + index
        weight = level_weights[level] * factor[0]
        if weight == 0.0:
            return
        resolution, offset, size = layout[0, level], layout[1, level], layout[2, level]
        side = resolution + 1
        is_dense, mask = side <= CUBE_ROOT and side * side * side <= size, wp.uint32(size - 1)
        # Sums for the corners of the current cell, until a point lies in another one.
        current, sums = wp.vec3i(-1, -1, -1), corners()
        first = chunk * run
        for point in range(first, wp.min(first + run, xyz.shape[0])):
            grad = vec()
            for feature in range(wp.static(features)):
                grad[feature] = weight * float(grads[level * wp.static(features) + feature, point])
            # Hidden points cost nothing.
            if wp.dot(grad, grad) != 0.0:
                position = in_cells(xyz, point, resolution)
                cell = lower_corner(position, resolution)
                if not (cell == current):  # noqa: SIM201 (Warp has no != for vectors)
                    if current[0] >= 0:
                        write(grad_table, offset, current, side, is_dense, mask, sums)
                    current, sums = cell, corners()
                fraction = position - wp.vec3(float(cell[0]), float(cell[1]), float(cell[2]))
                for dz in range(2):
                    share_z = wp.where(dz == 1, fraction[2], 1.0 - fraction[2])
                    for dy in range(2):
                        share_zy = wp.where(dy == 1, fraction[1], 1.0 - fraction[1]) * share_z
                        for dx in range(2):
                            share = wp.where(dx == 1, fraction[0], 1.0 - fraction[0]) * share_zy
                            sums[4 * dz + 2 * dy + dx] += share * grad
        if current[0] >= 0:
            write(grad_table, offset, current, side, is_dense, mask, sums)

    return encode, scatter


@wp.func
@no_type_check
def sigmoid(x: float):
    return 1.0 / (1.0 + wp.exp(-x))


@wp.kernel
@no_type_check
def activate(
    raw: wp.array2d(dtype=wp.float16),
    bias: wp.array(dtype=float),
    sigmas: wp.array(dtype=float),
    rgbs: wp.array(dtype=wp.vec3),
):
    point = wp.tid()
    x = float(raw[point, 0]) + bias[point]
    # softplus(x) = log(1 + e^x), without overflow above, and without loss of digits below.
    power = wp.exp(wp.min(x, 20.0))
    sigmas[point] = wp.where(
        x > 20.0, x, wp.where(x < -8.0, power - 0.5 * power * power, wp.log(1.0 + power))
    )
    rgbs[point] = wp.vec3(
        sigmoid(float(raw[point, 1])), sigmoid(float(raw[point, 2])), sigmoid(float(raw[point, 3]))
    )


@wp.kernel
@no_type_check
def activate_backward(
    raw: wp.array2d(dtype=wp.float16),
    bias: wp.array(dtype=float),
    grad_sigmas: wp.array(dtype=float),
    grad_rgbs: wp.array(dtype=wp.vec3),
    grad_raw: wp.array2d(dtype=float),
):
    point = wp.tid()
    grad_raw[point, 0] = grad_sigmas[point] * sigmoid(float(raw[point, 0]) + bias[point])
    grad_rgb = grad_rgbs[point]
    for channel in range(3):
        y = sigmoid(float(raw[point, 1 + channel]))
        grad_raw[point, 1 + channel] = grad_rgb[channel] * y * (1.0 - y)
        grad_raw[point, 4 + channel] = 0.0
    grad_raw[point, 7] = 0.0


class HalfField(torch.autograd.Function):
    """`RadianceField.decode(grid(xyz))` with the gradients towards the table and the network (not towards positions).

    `network` has the weight and bias of the hidden layer, then of the head.
    """

    @staticmethod
    def forward(
        ctx: Any, xyz: Tensor, bias: Tensor, grid: HashGrid, table: Tensor, *network: Tensor
    ) -> tuple[Tensor, Tensor]:
        xyz, bias = xyz.contiguous(), bias.contiguous()
        encoded = xyz.new_empty(grid.num_features, len(xyz), dtype=torch.half)
        encode, _ = make_kernels(table.shape[1])
        numbers = [grid.level_weights, grid.layout]
        stored = table.detach().view(torch.int64)[:, 0] if table.shape[1] == 2 else table
        launch(encode, (len(grid.resolutions), len(xyz)), [xyz, stored, *numbers, encoded])
        network = tuple(value.half() for value in (*network[:2], *map(_padded, network[2:])))
        raw = F.linear(_hidden(encoded, *network[:2]), *network[2:])
        sigmas, rgbs = torch.empty_like(bias), torch.empty_like(xyz)
        launch(activate, len(xyz), [raw, bias, sigmas, rgbs])
        # Hidden units take twice the memory of features, and less time than anything else to compute again.
        ctx.save_for_backward(xyz, bias, encoded, raw, *numbers, *network)
        ctx.resolutions, ctx.table_shape = grid.resolutions, table.shape
        return sigmas, rgbs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        xyz, bias, encoded, raw, level_weights, layout, *network = ctx.saved_tensors
        hidden_weight, hidden_bias, head_weight, _ = network
        grad_table = xyz.new_zeros(ctx.table_shape)
        if len(xyz) == 0:
            hidden, head = network[:2], (value[:CHANNELS] for value in network[2:])
            return (
                None,
                None,
                None,
                grad_table,
                *(torch.zeros_like(value).float() for value in (*hidden, *head)),
            )
        grad_raw = xyz.new_empty(raw.shape)
        launch(activate_backward, len(xyz), [raw, bias, *(grad.contiguous() for grad in grads), grad_raw])
        largest = torch.linalg.vector_norm(grad_raw, torch.inf).clamp_min(TINY)
        grad = (grad_raw / largest).half()
        hidden = _hidden(encoded, hidden_weight, hidden_bias)
        grad_hidden = torch.ops.aten.threshold_backward(grad @ head_weight, hidden, 0)
        grad_encoded = hidden_weight.T @ grad_hidden.T
        _, scatter = make_kernels(ctx.table_shape[1])
        coarse = sum(resolution <= RUN_RESOLUTION for resolution in ctx.resolutions)
        for first, last, run in ((0, coarse, RUN_POINTS), (coarse, len(ctx.resolutions), 1)):
            arguments = [xyz, grad_encoded, largest[None], level_weights, layout, first, run, grad_table]
            launch(scatter, (last - first, -(-len(xyz) // run)), arguments)
        return (
            None, None, None, grad_table,
            largest * _products(grad_hidden.T, encoded.T), largest * grad_hidden.sum(0, dtype=torch.float32),
            largest * _products(grad.T, hidden)[:CHANNELS], grad_raw[:, :CHANNELS].sum(0),
        )  # fmt: skip


def _padded(head: Tensor) -> Tensor:
    """The head's weight or bias, with channels of zeros."""
    return torch.cat([head, head.new_zeros(PADDED - CHANNELS, *head.shape[1:])])


def _hidden(encoded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(encoded.T, weight, bias).relu_()


def _products(one: Tensor, other: Tensor) -> Tensor:
    """Matrix product of halves in floats: sums over millions of points are beyond the range of halves."""
    if one.is_cuda:
        return torch.mm(one, other, out_dtype=torch.float32)
    return one.float() @ other.float()
