"""`march_buffered` as Warp kernels: count the samples of each ray, then write them."""

from typing import no_type_check

import torch
import warp as wp
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import launch
from recdreamer.rendering.march import Samples, max_steps
from recdreamer.rendering.march_buffered import stretch_to_fit
from recdreamer.rendering.march_warp import box_overlap, cell_index

wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def steps_in_matter(matter: wp.vec2, shift: float, step_size: float, last_step: int):
    """First step of a ray, and the one after its last."""
    # Start one step early, because rounding may put the first sample on either side of the border.
    first = wp.max(0, int(wp.floor(matter[0] / step_size - shift)) - 1)
    return wp.vec2i(first, wp.min(first + last_step, int(wp.ceil(matter[1] / step_size - shift)) + 1))


@wp.func
@no_type_check
def within(cube: wp.vec2, step: int, shift: float, step_size: float):
    """Start and end of a step, clipped to the cube."""
    t_start = (float(step) + shift) * step_size
    return wp.vec2(wp.max(t_start, cube[0]), wp.min(t_start + step_size, cube[1]))


@wp.func
@no_type_check
def is_occupied(occupied: wp.array3d(dtype=wp.bool), position: wp.vec3):
    resolution = occupied.shape[0]
    return occupied[
        cell_index(position[0], resolution),
        cell_index(position[1], resolution),
        cell_index(position[2], resolution),
    ]


@wp.kernel
@no_type_check
def count_samples(
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    occupied: wp.array3d(dtype=wp.bool),
    bounds: wp.array(dtype=wp.vec3),
    base_step_size: float,
    last_step: int,
    shifts: wp.array(dtype=float),
    stretch: wp.array(dtype=int),
    is_recount: bool,
    counts: wp.array(dtype=int),
):
    ray = wp.tid()
    if is_recount and stretch[0] == 1:
        return
    counts[ray] = 0
    ray_o, ray_d, shift = rays_o[ray], rays_d[ray], shifts[ray]
    matter = box_overlap(ray_o, ray_d, bounds[0], bounds[1])
    if matter[0] >= matter[1]:
        return
    step_size = base_step_size * float(stretch[0])
    cube = box_overlap(ray_o, ray_d, wp.vec3(-1.0, -1.0, -1.0), wp.vec3(1.0, 1.0, 1.0))
    steps = steps_in_matter(matter, shift, step_size, last_step)
    count = wp.int32(0)
    for step in range(steps[0], steps[1]):
        span = within(cube, step, shift, step_size)
        if span[1] > span[0] and is_occupied(occupied, ray_o + 0.5 * (span[0] + span[1]) * ray_d):
            count += 1
    counts[ray] = count


@wp.kernel
@no_type_check
def fill_samples(
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    occupied: wp.array3d(dtype=wp.bool),
    bounds: wp.array(dtype=wp.vec3),
    base_step_size: float,
    last_step: int,
    shifts: wp.array(dtype=float),
    stretch: wp.array(dtype=int),
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=int),
    ray_indices: wp.array(dtype=int),
    t_starts: wp.array(dtype=float),
    t_ends: wp.array(dtype=float),
    xyz: wp.array(dtype=wp.vec3),
):
    ray = wp.tid()
    if counts[ray] <= 0:
        return
    ray_o, ray_d, shift = rays_o[ray], rays_d[ray], shifts[ray]
    step_size = base_step_size * float(stretch[0])
    matter = box_overlap(ray_o, ray_d, bounds[0], bounds[1])
    cube = box_overlap(ray_o, ray_d, wp.vec3(-1.0, -1.0, -1.0), wp.vec3(1.0, 1.0, 1.0))
    steps = steps_in_matter(matter, shift, step_size, last_step)
    slot, stop = stops[ray] - counts[ray], stops[ray]
    for step in range(steps[0], steps[1]):
        if slot == stop:
            break
        span = within(cube, step, shift, step_size)
        if span[1] > span[0]:
            position = ray_o + 0.5 * (span[0] + span[1]) * ray_d
            if is_occupied(occupied, position):
                ray_indices[slot] = ray
                t_starts[slot] = span[0]
                t_ends[slot] = span[1]
                xyz[slot] = position
                slot += 1


def march_buffered_warp(
    rays_o: Tensor, rays_d: Tensor, occupancy: OccupancyGrid, step_size: float, shifts: Tensor, capacity: int
) -> tuple[Samples, Tensor]:
    """`march_buffered_reference`, except for samples on a border within rounding; it does not wait for the device.

    Each ray is walked once to count its samples and once to write them.
    """
    rays_o, rays_d = rays_o.contiguous(), rays_d.contiguous()
    rays = [rays_o, rays_d, occupancy.occupied, occupancy.bounds, step_size, max_steps(step_size) + 2, shifts]
    counts = torch.empty(len(rays_o), dtype=torch.int32, device=rays_o.device)
    launch(count_samples, len(counts), [*rays, counts.new_ones(1), False, counts])
    wanted = counts.sum(dtype=torch.int32)
    stretch = stretch_to_fit(wanted, capacity)[None]
    launch(count_samples, len(counts), [*rays, stretch, True, counts])
    stops = counts.cumsum(0, dtype=torch.int32).clamp_max(capacity)
    # Rays of which the first samples fit, or none, if rounding has used up the headroom.
    counts = stops.diff(prepend=stops.new_zeros(1))
    samples = Samples(
        counts,
        counts.new_zeros(capacity),
        *rays_o.new_zeros(2, capacity),
        rays_o.new_zeros(capacity, 3),
        True,
    )
    packed = [samples.ray_indices, samples.t_starts, samples.t_ends, samples.xyz]
    launch(fill_samples, len(counts), [*rays, stretch, counts, stops, *packed])
    return samples, wanted
