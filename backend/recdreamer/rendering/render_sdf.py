"""Renders a surface with gradients that include its silhouettes: NeuS (Wang et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from recdreamer.cameras import Cameras, camera_rays
from recdreamer.field import OccupancyGrid
from recdreamer.field.grid_values import trilinear
from recdreamer.parallel.view_shares import drawn
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import END, Samples, joined, march
from recdreamer.rendering.render import Rendering
from recdreamer.sdf.distance_grid import DistanceGrid, light

Shown = Literal["normals", "shaded"]
MIN_WEIGHT = 1e-5
"""Samples with a smaller weight in their ray are dropped. Many small weights add up: 1e-4 would distort an outline's
gradient by 12 %, this by 0.3 %."""
SEGMENT_SAMPLES = 32
"""Samples of a ray between two checks of its transmittance: about as many as lead to the surface and into it."""


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
    """The surface's normals as (n + 1) / 2 in world axes, or its albedo under the lighting of the embedded prior.

    Between the ends of a sample the transmittance falls from Φ(d₀) to Φ(d₁), Φ(d) = sigmoid(d / softness), and never
    rises (NeuS, Eq. 13): a ray that approaches the surface once has opacity 1 - Φ of its least distance, so that half
    of a pixel is covered where it grazes the surface, at any softness. Lengths are in scene units; samples are jittered
    if a generator is given.
    """
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in camera_rays(cameras, size_px, size_px))
    shifts = rays_o.new_full((len(rays_o),), 0.5)
    if generator is not None:
        shifts = drawn(torch.rand, (len(rays_o),), generator).to(rays_o)
    samples = _seen(grid, occupancy, rays_o, rays_d, shifts, softness, step_size)
    sigmas = _sigmas(grid, samples, rays_o, rays_d, softness, step_size)
    weights, rgb, opacity, depth = composite(
        sigmas, _look(grid, samples.xyz, rays_d[samples.ray_indices.long()], shown), samples
    )
    of_views = lambda values: values.view(len(cameras), size_px, size_px, -1).permute(0, 3, 1, 2)  # noqa: E731
    opacity = of_views(opacity)
    return Rendering(
        of_views(rgb) + (1 - opacity) * background[:, :, None, None], opacity,
        of_views(depth) / opacity.clamp_min(1e-6),
        weights, samples.ray_indices, samples.t_mids, samples.xyz,
    )  # fmt: skip


@torch.no_grad()
def _seen(
    grid: DistanceGrid,
    occupancy: OccupancyGrid,
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    shifts: Float[Tensor, "rays"],
    softness: float,
    step_size: float,
) -> Samples:
    """The few visible samples of each ray: only they need a gradient and are kept in memory.

    Rays advance in segments and stop once they are opaque.
    """
    begins = torch.zeros(len(rays_o), dtype=torch.int32, device=rays_o.device)
    trans, parts = rays_o.new_ones(len(rays_o)), []
    while True:
        samples, begins = march(rays_o, rays_d, occupancy, step_size, shifts, begins, SEGMENT_SAMPLES)
        if len(samples.xyz) == 0:
            return joined(parts) if parts else samples
        sigmas = _sigmas(grid, samples, rays_o, rays_d, softness, step_size)
        weights, _, opacities, _ = composite(sigmas, torch.zeros_like(samples.xyz), samples)
        parts.append(samples.only(trans[samples.ray_indices] * weights > MIN_WEIGHT))
        trans = trans * (1 - opacities)
        begins = begins.masked_fill(trans < MIN_WEIGHT, END)


def _sigmas(
    grid: DistanceGrid,
    samples: Samples,
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    softness: float,
    step_size: float,
) -> Float[Tensor, "samples"]:
    """Densities whose integral over a sample equals the fall of log Φ from its start to its end.

    From 0.1 above a plane to 0.1 below it, Φ falls from 1 / (1 + 1/e) to 1 / (1 + e), which is by a factor of e:

    >>> from recdreamer.field.grid_values import grid_points
    >>> from recdreamer.sdf.distance_grid import uncolored
    >>> plane = uncolored(grid_points(5)[:, 2].reshape(5, 5, 5))
    >>> one, t = torch.tensor([1]), torch.tensor([0.9])
    >>> samples = Samples(one, one - 1, t, t + 0.2, torch.zeros(1, 3))
    >>> down = torch.tensor([[0.0, 0.0, -1.0]])
    >>> round(_sigmas(plane, samples, -down, down, softness=0.1, step_size=0.2).item(), 3)
    5.0
    """
    rays = samples.ray_indices.long()

    def log_phi(t: Float[Tensor, "points"], rays: Int[Tensor, "points"]) -> Float[Tensor, "points"]:
        return F.logsigmoid(grid.distance(rays_o[rays] + t[:, None] * rays_d[rays]) / softness)

    # Most samples end where the next one starts.
    is_last = torch.ones_like(rays, dtype=torch.bool)
    gaps = samples.t_starts[1:] - samples.t_ends[:-1]
    is_last[:-1] = (rays[1:] != rays[:-1]) | (gaps > 0.5 * step_size)
    last = is_last.nonzero()[:, 0]
    starts = log_phi(samples.t_starts, rays)
    ends = starts.roll(-1).index_put((last,), log_phi(samples.t_ends[last], rays[last]))
    return (starts - ends).clamp_min(0) / (samples.t_ends - samples.t_starts).clamp_min(1e-9)


def _look(
    grid: DistanceGrid, xyz: Float[Tensor, "points 3"], rays_d: Float[Tensor, "points 3"], shown: Shown
) -> Float[Tensor, "points 3"]:
    normals = grid.normals(xyz)
    if shown == "normals":
        return 0.5 * normals + 0.5
    return (trilinear(grid.albedo, xyz) * light(normals, rays_d)).clamp(0, 1)
