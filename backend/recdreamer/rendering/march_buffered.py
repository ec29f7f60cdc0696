"""All samples along rays at once, in buffers of a fixed size: on a GPU, nothing has to wait for their number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import uses_warp
from recdreamer.rendering.march import Samples, intersect_cube, max_steps

HEADROOM = 1.2
"""Samples that no longer fit are taken so much farther apart that they fill the buffers by 1 / HEADROOM at most."""

HAZE_OPACITY = 0.01
"""Share of the light that a step of haze absorbs at most."""


def march_buffered(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    capacity: int,
    group: int = 1,
) -> tuple[Samples, Int[Tensor, ""]]:
    """All samples of `march`, padded to `capacity` by samples of length 0; and how many there would be without a limit.

    If there are more than fit, the steps of all rays are a whole number of times longer. `group` steps in a row are one
    sample where they have matter, but neither they nor the cells around have any that is denser than `haze_density`.

    The chord of the cube has four steps of 0.5, which fit into four places, but not into three:

    >>> from recdreamer.field.occupancy import OccupancyConfig
    >>> rays_o, rays_d = torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    >>> full, shifts = OccupancyGrid(OccupancyConfig(resolution=2)), torch.zeros(1)
    >>> for capacity in (5, 4, 3):
    ...     samples, wanted = march_buffered(rays_o, rays_d, full, 0.5, shifts, capacity)
    ...     print(wanted.item(), samples.t_starts.tolist(), samples.t_ends.tolist())
    4 [2.0, 2.5, 3.0, 3.5, 0.0] [2.5, 3.0, 3.5, 4.0, 0.0]
    4 [2.0, 2.5, 3.0, 3.5] [2.5, 3.0, 3.5, 4.0]
    4 [2.0, 3.0, 0.0] [3.0, 4.0, 0.0]
    """
    if uses_warp(rays_o):
        from recdreamer.rendering.march_buffered_warp import march_buffered_warp

        return march_buffered_warp(rays_o, rays_d, occupancy, step_size, shifts, capacity, group)
    return march_buffered_reference(rays_o, rays_d, occupancy, step_size, shifts, capacity, group)


def haze_density(step_size: float) -> float:
    """Density up to which a step absorbs less than HAZE_OPACITY.

    >>> round(haze_density(0.01), 9)
    1.0
    """
    return HAZE_OPACITY / step_size


def stretch_to_fit(wanted: Int[Tensor, ""], capacity: int) -> Int[Tensor, ""]:
    """How many times longer the steps have to be.

    >>> [stretch_to_fit(torch.tensor(wanted), 100).item() for wanted in (100, 101, 160, 170)]
    [1, 2, 2, 3]
    """
    return torch.where(wanted > capacity, (HEADROOM * wanted / capacity).ceil(), 1).int()


def march_buffered_reference(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    capacity: int,
    group: int = 1,
) -> tuple[Samples, Int[Tensor, ""]]:
    """The same in plain torch; it waits for the device."""
    haze = haze_density(step_size)
    whole = _all_steps(rays_o, rays_d, occupancy, step_size, shifts, group, haze)
    wanted = whole.counts.sum(dtype=torch.int32)
    stretch = int(stretch_to_fit(wanted, capacity))
    if stretch > 1:
        whole = _all_steps(rays_o, rays_d, occupancy, stretch * step_size, shifts, group, haze)
    stops = whole.counts.cumsum(0).clamp_max(capacity)
    counts = stops.diff(prepend=stops.new_zeros(1)).int()

    def padded(values: Tensor) -> Tensor:
        values = values[:capacity]
        return torch.cat([values, values.new_zeros(capacity - len(values), *values.shape[1:])])

    rays, t_starts, t_ends, xyz = (
        padded(values) for values in (whole.ray_indices.int(), whole.t_starts, whole.t_ends, whole.xyz)
    )
    return Samples(counts, rays, t_starts, t_ends, xyz, True), wanted


def _all_steps(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    group: int,
    haze: float,
) -> Samples:
    """Every step of every ray in one table, from the beginning of its first group on."""
    nears, fars = (ends[:, None] for ends in intersect_cube(rays_o, rays_d))
    first = (nears[:, 0] / step_size - shifts).floor().int().clamp_min(0)
    first = first - (first + (shifts * 65536).int()) % group
    num_groups = -(-(max_steps(step_size) + 2) // group) + 1
    steps = first[:, None] + torch.arange(group * num_groups, device=first.device, dtype=first.dtype)
    t_starts = (steps + shifts[:, None]) * step_size
    t_ends, t_starts = torch.minimum(t_starts + step_size, fars), torch.maximum(t_starts, nears)
    xyz = rays_o[:, None] + (0.5 * (t_starts + t_ends))[..., None] * rays_d[:, None]
    is_step = t_ends > t_starts
    is_taken = is_step & occupancy.contains(xyz)
    if group > 1:
        resolution = occupancy.config.resolution
        x, y, z = ((xyz + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1).unbind(-1)
        is_dense = is_step & occupancy.thicker_than(haze)[x, y, z]
        groups = (len(rays_o), num_groups, group)
        is_haze = is_taken.view(groups).any(-1) & ~is_dense.view(groups).any(-1)
        # One sample in the place of the first step.
        is_first = torch.arange(group, device=first.device) == 0
        is_taken = torch.where(is_haze[..., None], is_first, is_taken.view(groups)).flatten(1)
        ends = t_ends.view(groups)
        t_ends = torch.where(is_haze[..., None], ends[..., -1:], ends).flatten(1)
        xyz = rays_o[:, None] + (0.5 * (t_starts + t_ends))[..., None] * rays_d[:, None]
    taken = is_taken & (t_ends > t_starts)
    rays = taken.nonzero()[:, 0]
    return Samples(taken.sum(dim=1, dtype=torch.int32), rays, t_starts[taken], t_ends[taken], xyz[taken])
