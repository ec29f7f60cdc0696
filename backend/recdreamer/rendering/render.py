"""Renders pictures of a field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.field import Field, OccupancyGrid
from recdreamer.parallel.view_shares import drawn
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import END, march
from recdreamer.rendering.march_buffered import march_buffered


@dataclass(frozen=True)
class RenderConfig:
    """Sampling of the rays."""

    step_size: float = 0.01
    """Distance between samples in scene units."""
    segment_samples: int = 12
    """Samples of a ray between two checks of its transmittance: fewer stop earlier, more need fewer launches."""
    min_trans: float = 1e-3
    """Transmittance below which a ray stops; the largest share of a pixel that may be lost."""
    haze_steps: int = 1
    """Steps that are one sample in training where they absorb less than 1 % each; 1: always one by one."""
    samples_per_ray: int = 48
    """The most samples of a ray on a GPU, as the mean over a step's rays; where a view wants more, they lie farther
    apart. An object that fills 40 % of the view wants fewer. The start blob wants 134 at Stable Diffusion's settings,
    and has 45 then: it is smooth, and a step takes 67 ms instead of 79. 0: no limit. A job on a small GPU may choose
    fewer (`stages.memory`)."""


@dataclass(frozen=True)
class Rendering:
    """Pictures, and the samples behind them (packed, in no particular order) for the regularisers."""

    rgb: Float[Tensor, "views 3 height width"]
    opacity: Float[Tensor, "views 1 height width"]
    depth: Float[Tensor, "views 1 height width"]
    """Expected distance from the camera to the hit surface; 0 where a ray hits nothing."""
    weights: Float[Tensor, "samples"]
    """Share of each sample in its ray; they add up to the ray's opacity."""
    ray_indices: Int[Tensor, "samples"]
    """Index into the pixels counted view by view, row by row."""
    t_mids: Float[Tensor, "samples"]
    xyz: Float[Tensor, "samples 3"]
    count: Int[Tensor, ""] | None = None
    """How many of the samples are real; those behind them have no weight. None: all."""
    wanted: Int[Tensor, ""] | None = None
    """How many samples there would be without a capacity."""


def render(
    field: Field,
    occupancy: OccupancyGrid,
    cameras: Cameras,
    height: int,
    width: int,
    background: Float[Tensor, "views 3"] | Float[Tensor, "views 3 height width"],
    config: RenderConfig,
    generator: torch.Generator | None = None,
    capacity: int | None = None,
) -> Rendering:
    """Pictures of the field in front of `background`; samples are jittered if a generator is given.

    Rays advance in segments and stop once they are opaque, so hidden matter is never evaluated. The
    segments are composited exactly: colour = first + trans · second, and so on. Each segment waits for the number of
    its samples. With a `capacity` nothing waits: all samples are evaluated at once, in buffers of that size, and those
    behind an opaque one are hidden afterwards. Where more are `wanted` than fit, they are farther apart.
    """
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, height, width))
    num_rays = len(rays_o)
    shifts = rays_o.new_full((num_rays,), 0.5)
    if generator is not None:
        shifts = drawn(torch.rand, (num_rays,), generator).to(rays_o)
    if capacity is not None:
        samples, wanted = march_buffered(
            rays_o, rays_d, occupancy, config.step_size, shifts, capacity, config.haze_steps
        )
        weights, rgb, opacity, depth = composite(*field(samples.xyz), samples, config.min_trans)
        shown = _pictures(rgb, 1 - opacity, depth, background, len(cameras), height, width)
        places = samples.ray_indices, samples.t_mids, samples.xyz
        return Rendering(*shown, weights, *places, samples.counts.sum(dtype=torch.int32), wanted)

    begins = torch.zeros(num_rays, dtype=torch.int32, device=rays_o.device)
    rgb, trans, depth = rays_o.new_zeros(num_rays, 3), rays_o.new_ones(num_rays), rays_o.new_zeros(num_rays)
    parts = []
    while True:
        samples, begins = march(
            rays_o, rays_d, occupancy, config.step_size, shifts, begins, config.segment_samples
        )
        if len(samples.xyz) == 0:
            break
        weights, rgb_sums, weight_sums, depth_sums = composite(*field(samples.xyz), samples)
        parts.append((trans[samples.ray_indices] * weights, samples))
        rgb = rgb + trans[:, None] * rgb_sums
        depth = depth + trans * depth_sums
        trans = trans * (1 - weight_sums)
        begins = begins.masked_fill(trans.detach() < config.min_trans, END)

    def joined(values: list[Tensor], empty: Tensor) -> Tensor:
        return torch.cat(values) if values else empty

    return Rendering(
        *_pictures(rgb, trans, depth, background, len(cameras), height, width),
        weights=joined([weights for weights, _ in parts], rays_o.new_zeros(0)),
        ray_indices=joined([samples.ray_indices for _, samples in parts], begins[:0]),
        t_mids=joined([samples.t_mids for _, samples in parts], rays_o.new_zeros(0)),
        xyz=joined([samples.xyz for _, samples in parts], rays_o.new_zeros(0, 3)),
    )


def _pictures(
    rgb: Float[Tensor, "rays 3"],
    trans: Float[Tensor, "rays"],
    depth: Float[Tensor, "rays"],
    background: Float[Tensor, "views 3"] | Float[Tensor, "views 3 height width"],
    num_views: int,
    height: int,
    width: int,
) -> tuple[
    Float[Tensor, "views 3 height width"],
    Float[Tensor, "views 1 height width"],
    Float[Tensor, "views 1 height width"],
]:
    """Colour, opacity and depth of the pixels; `depth` is the sum of w · t."""
    opacity = (1 - trans).view(num_views, 1, height, width)
    if background.ndim == 2:
        background = background[:, :, None, None]
    rgb = rgb.view(num_views, height, width, 3).permute(0, 3, 1, 2) + (1 - opacity) * background
    return rgb, opacity, depth.view(num_views, 1, height, width) / opacity.clamp(min=1e-6)
