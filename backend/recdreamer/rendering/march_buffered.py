"""All samples along rays at once, in buffers of a fixed size: on a GPU, nothing has to wait for their number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import uses_warp
from recdreamer.rendering.march import Samples, march_reference

HEADROOM = 1.2
"""Samples that no longer fit are taken so much farther apart that they fill the buffers by 1 / HEADROOM at most."""


def march_buffered(
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Float[Tensor, "rays"],
    capacity: int,
) -> tuple[Samples, Int[Tensor, ""]]:
    """All samples of `march`, padded to `capacity` by samples of length 0; and how many there would be without a limit.

    If there are more than fit, the steps of all rays are a whole number of times longer.

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

        return march_buffered_warp(rays_o, rays_d, occupancy, step_size, shifts, capacity)
    return march_buffered_reference(rays_o, rays_d, occupancy, step_size, shifts, capacity)


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
) -> tuple[Samples, Int[Tensor, ""]]:
    """The same in plain torch; it waits for the device."""
    begins, limit = torch.zeros(len(rays_o), dtype=torch.int32, device=rays_o.device), 1 << 30
    whole, _ = march_reference(rays_o, rays_d, occupancy, step_size, shifts, begins, limit)
    wanted = whole.counts.sum(dtype=torch.int32)
    stretch = int(stretch_to_fit(wanted, capacity))
    if stretch > 1:
        whole, _ = march_reference(rays_o, rays_d, occupancy, stretch * step_size, shifts, begins, limit)
    stops = whole.counts.cumsum(0).clamp_max(capacity)
    counts = stops.diff(prepend=stops.new_zeros(1)).int()

    def padded(values: Tensor) -> Tensor:
        values = values[:capacity]
        return torch.cat([values, values.new_zeros(capacity - len(values), *values.shape[1:])])

    rays, *places = whole.ray_indices.int(), whole.t_starts, whole.t_ends, whole.xyz
    return Samples(counts, *(padded(values) for values in (rays, *places)), True), wanted
