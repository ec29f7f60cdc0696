"""Samples along rays in occupied space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import uses_warp


@dataclass(frozen=True)
class Samples:
    """Samples packed ray after ray; ray r has `counts[r]` of them, near to far. Padding may follow."""

    counts: Int[Tensor, "rays"]
    ray_indices: Int[Tensor, "samples"]
    t_starts: Float[Tensor, "samples"]
    t_ends: Float[Tensor, "samples"]
    xyz: Float[Tensor, "samples 3"]
    is_padded: bool = False
    """Whether samples of no ray may follow, of length 0; their `ray_indices` are 0, too."""

    @property
    def t_mids(self) -> Float[Tensor, "samples"]:
        return 0.5 * (self.t_starts + self.t_ends)

    def only(self, kept: Bool[Tensor, "samples"]) -> Samples:
        """The samples marked in `kept`, packed the same way."""
        rays = self.ray_indices[kept]
        counts = torch.bincount(rays, minlength=len(self.counts)).to(self.counts.dtype)
        return Samples(counts, rays, self.t_starts[kept], self.t_ends[kept], self.xyz[kept])


def joined(parts: Sequence[Samples]) -> Samples:
    """Merge samples of the same rays, packed ray after ray; within a ray, earlier parts come first."""
    rays = torch.cat([part.ray_indices for part in parts])
    order = rays.argsort(stable=True)
    counts = torch.stack([part.counts for part in parts]).sum(0, dtype=parts[0].counts.dtype)
    t_starts, t_ends, xyz = (
        torch.cat([getattr(part, name) for part in parts])[order] for name in ("t_starts", "t_ends", "xyz")
    )
    return Samples(counts, rays[order], t_starts, t_ends, xyz)


def march(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    begins: Int[Tensor, "rays"],
    limit: int,
) -> tuple[Samples, Int[Tensor, "rays"]]:
    """At most `limit` further samples of each ray, and the step at which the ray continues.

    Step k of a ray covers the distances [(k + shift) · step_size, (k + 1 + shift) · step_size], clipped to
    the cube [-1, 1]^3 so that the lengths add up to the chord; its sample is the midpoint. Steps are counted
    from the camera, so pruning drops samples without moving the others.

    >>> rays_o, rays_d = torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    >>> from recdreamer.field.occupancy import OccupancyConfig
    >>> full, begins = OccupancyGrid(OccupancyConfig(resolution=2)), torch.zeros(1, dtype=torch.int32)
    >>> samples, _ = march(rays_o, rays_d, full, 0.75, torch.zeros(1), begins, limit=8)
    >>> samples.t_starts.tolist(), samples.t_ends.tolist()  # cut at 2 and 4
    ([2.0, 2.25, 3.0, 3.75], [2.25, 3.0, 3.75, 4.0])
    """
    if uses_warp(rays_o):
        from recdreamer.rendering.march_warp import march_warp

        return march_warp(rays_o, rays_d, occupancy, step_size, shifts, begins, limit)
    return march_reference(rays_o, rays_d, occupancy, step_size, shifts, begins, limit)


def march_reference(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    begins: Int[Tensor, "rays"],
    limit: int,
) -> tuple[Samples, Int[Tensor, "rays"]]:
    """The same in plain torch: every step of every ray in one table."""
    nears, fars = intersect_cube(rays_o, rays_d)
    first = torch.maximum((nears / step_size - shifts).floor().to(begins.dtype), begins)
    steps = first[:, None] + torch.arange(max_steps(step_size), device=first.device, dtype=first.dtype)
    t_starts = (steps + shifts[:, None]) * step_size
    t_ends = torch.minimum(t_starts + step_size, fars[:, None])
    t_starts = torch.maximum(t_starts, nears[:, None])
    t_mids = 0.5 * (t_starts + t_ends)
    xyz = rays_o[:, None] + t_mids[..., None] * rays_d[:, None]
    is_live = (t_ends > t_starts) & occupancy.contains(xyz)
    is_taken = is_live & (is_live.cumsum(dim=1) <= limit)
    # The first occupied step beyond the limit; rays without one have ended.
    is_left = is_live & ~is_taken
    goes_on = torch.where(is_left.any(dim=1), first + is_left.to(first.dtype).argmax(dim=1), END)
    ray_indices = is_taken.nonzero()[:, 0]
    samples = Samples(is_taken.sum(dim=1), ray_indices, t_starts[is_taken], t_ends[is_taken], xyz[is_taken])
    return samples, goes_on.to(begins.dtype)


END = 1 << 30
"""Step index of a ray with nothing left to sample."""


def max_steps(step_size: float) -> int:
    """Upper bound on the steps along the longest chord of the cube.

    >>> max_steps(1.0)  # ⌈2 · √3⌉ + 2
    6
    """
    return math.ceil(2 * math.sqrt(3) / step_size) + 2


def intersect_cube(
    rays_o: Float[Tensor, "rays 3"], rays_d: Float[Tensor, "rays 3"]
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Distances at which rays enter and leave [-1, 1]^3; near > far where a ray misses it.

    >>> near, far = intersect_cube(torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    >>> near.item(), far.item()
    (2.0, 4.0)
    """
    # A component of exactly zero would give 0 · inf on the faces.
    inverse = 1 / torch.where(rays_d.abs() < 1e-12, 1e-12, rays_d)
    lower, upper = (-1 - rays_o) * inverse, (1 - rays_o) * inverse
    nears = torch.minimum(lower, upper).amax(dim=-1).clamp(min=0)
    fars = torch.maximum(lower, upper).amin(dim=-1)
    return nears, fars
