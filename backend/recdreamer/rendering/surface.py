"""Pictures of a surface, with a gradient in its silhouettes too: NeuS (Wang et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.field import OccupancyGrid
from recdreamer.field.distance_grid import DistanceGrid, light
from recdreamer.field.volume import trilinear
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import march, max_steps
from recdreamer.rendering.render import Rendering

Shown = Literal["normals", "shaded"]
MIN_WEIGHT = 1e-3
"""Of a sample in its ray, below which its colour is not asked for."""


def render_surface(
    grid: DistanceGrid,
    occupancy: OccupancyGrid,
    cameras: Cameras,
    size_px: int,
    background: Float[Tensor, "views 3"],
    shown: Shown,
    softness: float,
    step_size: float,
    generator: torch.Generator | None = None,
) -> Rendering:
    """The surface as normals, (n + 1) / 2 in world axes, or as its albedo in a light from above.

    Between the ends of a sample the transmittance falls from Φ(d₀) to Φ(d₁), Φ(d) = sigmoid(d / softness), and never
    rises (NeuS, Eq. 13): a ray that nears the surface once is as opaque as 1 - Φ of its least distance, so that half
    of a pixel is covered where it grazes the surface, at any softness. Lengths in scene units; with a generator samples
    are jittered.
    """
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, size_px, size_px))
    shifts = rays_o.new_full((len(rays_o),), 0.5)
    if generator is not None:
        shifts = torch.rand(len(rays_o), generator=generator, device=generator.device).to(rays_o)
    begins = torch.zeros(len(rays_o), dtype=torch.int32, device=rays_o.device)
    samples, _ = march(rays_o, rays_d, occupancy, step_size, shifts, begins, max_steps(step_size))

    rays = samples.ray_indices.long()
    first, last = (
        F.logsigmoid(grid.distance(rays_o[rays] + t[:, None] * rays_d[rays]) / softness)
        for t in (samples.t_starts, samples.t_ends)
    )
    sigmas = (first - last).clamp_min(0) / (samples.t_ends - samples.t_starts).clamp_min(1e-9)
    # Few samples of a ray are seen: only they are asked what they look like.
    rgbs = torch.zeros_like(samples.xyz)
    with torch.no_grad():
        seen = (composite(sigmas, rgbs, samples)[0] > MIN_WEIGHT).nonzero()[:, 0]
    if len(seen):
        rgbs = rgbs.index_put((seen,), _look(grid, samples.xyz[seen], shown))

    weights, rgb, opacity, depth = composite(sigmas, rgbs, samples)
    of_views = lambda values: values.view(len(cameras), size_px, size_px, -1).permute(0, 3, 1, 2)  # noqa: E731
    opacity = of_views(opacity)
    return Rendering(
        of_views(rgb) + (1 - opacity) * background[:, :, None, None], opacity,
        of_views(depth) / opacity.clamp_min(1e-6),
        weights, samples.ray_indices, samples.t_mids, samples.xyz,
    )  # fmt: skip


def _look(grid: DistanceGrid, xyz: Float[Tensor, "points 3"], shown: Shown) -> Float[Tensor, "points 3"]:
    normals = grid.normals(xyz)
    if shown == "normals":
        return 0.5 * normals + 0.5
    return (trilinear(grid.albedo, xyz) * light(normals)).clamp(0, 1)
