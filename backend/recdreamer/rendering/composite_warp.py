"""Compositing as Warp kernels: one thread per ray, forward and its exact derivative."""

from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor

from recdreamer.kernels import launch

wp.set_module_options({"enable_backward": False})


@wp.kernel
@no_type_check
def blend(
    sigmas: wp.array(dtype=float),
    rgbs: wp.array(dtype=wp.vec3),
    t_starts: wp.array(dtype=float),
    t_ends: wp.array(dtype=float),
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=int),
    min_trans: float,
    used: wp.array(dtype=int),
    weights: wp.array(dtype=float),
    rgb_sums: wp.array(dtype=wp.vec3),
    weight_sums: wp.array(dtype=float),
    depth_sums: wp.array(dtype=float),
):
    ray = wp.tid()
    rgb, depth, tau, trans = wp.vec3(), wp.float32(0.0), wp.float32(0.0), wp.float32(1.0)
    first = stops[ray] - counts[ray]
    last = first
    for sample in range(first, stops[ray]):
        if trans < min_trans:
            break
        last = sample + 1
        tau += sigmas[sample] * (t_ends[sample] - t_starts[sample])
        trans_behind = wp.exp(-tau)
        weight = trans - trans_behind
        trans = trans_behind
        weights[sample] = weight
        rgb += weight * rgbs[sample]
        depth += weight * 0.5 * (t_starts[sample] + t_ends[sample])
    used[ray] = last - first
    rgb_sums[ray] = rgb
    weight_sums[ray] = 1.0 - trans
    depth_sums[ray] = depth


@wp.kernel
@no_type_check
def blend_backward(
    rgbs: wp.array(dtype=wp.vec3),
    t_starts: wp.array(dtype=float),
    t_ends: wp.array(dtype=float),
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=int),
    used: wp.array(dtype=int),
    weights: wp.array(dtype=float),
    weight_sums: wp.array(dtype=float),
    grad_weights: wp.array(dtype=float),
    grad_rgb_sums: wp.array(dtype=wp.vec3),
    grad_weight_sums: wp.array(dtype=float),
    grad_depth_sums: wp.array(dtype=float),
    grad_sigmas: wp.array(dtype=float),
    grad_rgbs: wp.array(dtype=wp.vec3),
):
    ray = wp.tid()
    grad_rgb, grad_sum, grad_depth = grad_rgb_sums[ray], grad_weight_sums[ray], grad_depth_sums[ray]
    # From the far end: transmittance behind sample i, and the contribution of the samples behind it to the loss.
    trans_behind = 1.0 - weight_sums[ray]
    behind = wp.float32(0.0)
    last = stops[ray] - counts[ray] + used[ray] - 1
    for back in range(used[ray]):
        sample = last - back
        weight = weights[sample]
        t_mid = 0.5 * (t_starts[sample] + t_ends[sample])
        grad = grad_weights[sample] + wp.dot(rgbs[sample], grad_rgb) + grad_sum + t_mid * grad_depth
        grad_sigmas[sample] = (t_ends[sample] - t_starts[sample]) * (trans_behind * grad - behind)
        grad_rgbs[sample] = weight * grad_rgb
        behind += weight * grad
        trans_behind += weight


class Composite(torch.autograd.Function):
    """`composite_reference`."""

    @staticmethod
    def forward(
        ctx: Any,
        sigmas: Tensor,
        rgbs: Tensor,
        t_starts: Tensor,
        t_ends: Tensor,
        counts: Tensor,
        min_trans: float,
        is_padded: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sigmas, rgbs = sigmas.contiguous(), rgbs.contiguous()
        counts = counts.to(torch.int32)
        stops = counts.cumsum(0, dtype=torch.int32)
        # Hidden samples and padding are not written to.
        ctx.blank = torch.zeros_like if is_padded or min_trans > 0 else torch.empty_like
        weights, used = ctx.blank(sigmas), torch.empty_like(counts)
        rgb_sums, weight_sums = rgbs.new_empty(len(counts), 3), sigmas.new_empty(len(counts))
        depth_sums = torch.empty_like(weight_sums)
        sums = [weights, rgb_sums, weight_sums, depth_sums]
        launch(blend, len(counts), [sigmas, rgbs, t_starts, t_ends, counts, stops, min_trans, used, *sums])
        ctx.save_for_backward(rgbs, t_starts, t_ends, counts, stops, used, weights, weight_sums)
        return weights, rgb_sums, weight_sums, depth_sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rgbs, *_, counts, _, _, weights, _ = ctx.saved_tensors
        grad_sigmas, grad_rgbs = ctx.blank(weights), ctx.blank(rgbs)
        arguments = [*ctx.saved_tensors, *(grad.contiguous() for grad in grads), grad_sigmas, grad_rgbs]
        launch(blend_backward, len(counts), arguments)
        return grad_sigmas, grad_rgbs, None, None, None, None, None
