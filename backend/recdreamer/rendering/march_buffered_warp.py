"""`march_buffered` as a Warp kernel: count the samples of each ray, then write them."""

from dataclasses import replace
from typing import no_type_check

import torch
import warp as wp
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import launch
from recdreamer.rendering.march import Samples, max_steps
from recdreamer.rendering.march_buffered import haze_density, stretch_to_fit
from recdreamer.rendering.march_warp import box_overlap, cell_index

wp.set_module_options({"enable_backward": False})

COUNT, RECOUNT, FILL = wp.constant(0), wp.constant(1), wp.constant(2)
"""Why rays are walked."""


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


@wp.func
@no_type_check
def first_of_groups(first: int, shift: float, group: int):
    """Where the group of steps begins that has a ray's first step in it. Groups begin anywhere, as the shift says."""
    return first - (first + int(shift * 65536.0)) % group


@wp.func
@no_type_check
def is_haze(
    occupied: wp.array3d(dtype=wp.bool),
    thick: wp.array3d(dtype=wp.bool),
    ray_o: wp.vec3,
    ray_d: wp.vec3,
    cube: wp.vec2,
    start: int,
    group: int,
    shift: float,
    step_size: float,
):
    """Whether a group of steps has matter, but only thin matter."""
    is_any, is_thin = wp.bool(False), wp.bool(True)
    for step in range(start, start + group):
        span = within(cube, step, shift, step_size)
        if span[1] > span[0]:
            position = ray_o + 0.5 * (span[0] + span[1]) * ray_d
            resolution = occupied.shape[0]
            x, y, z = (
                cell_index(position[0], resolution),
                cell_index(position[1], resolution),
                cell_index(position[2], resolution),
            )
            is_any = is_any or occupied[x, y, z]
            is_thin = is_thin and not thick[x, y, z]
    return is_any and is_thin


@wp.kernel
@no_type_check
def walk_groups(
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    occupied: wp.array3d(dtype=wp.bool),
    thick: wp.array3d(dtype=wp.bool),
    bounds: wp.array(dtype=wp.vec3),
    base_step_size: float,
    last_step: int,
    group: int,
    shifts: wp.array(dtype=float),
    stretch: wp.array(dtype=int),
    purpose: int,
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=int),
    ray_indices: wp.array(dtype=int),
    t_starts: wp.array(dtype=float),
    t_ends: wp.array(dtype=float),
    xyz: wp.array(dtype=wp.vec3),
):
    ray = wp.tid()
    # Nothing changes if all fit.
    if purpose == RECOUNT and stretch[0] == 1:
        return
    slot, stop = wp.int32(0), wp.int32(1 << 30)
    if purpose == FILL:
        slot = stops[ray] - counts[ray]
        stop = slot + counts[ray]
    else:
        counts[ray] = 0
    ray_o, ray_d, shift = rays_o[ray], rays_d[ray], shifts[ray]
    matter = box_overlap(ray_o, ray_d, bounds[0], bounds[1])
    if slot == stop or matter[0] >= matter[1]:
        return
    step_size = base_step_size * float(stretch[0])
    cube = box_overlap(ray_o, ray_d, wp.vec3(-1.0, -1.0, -1.0), wp.vec3(1.0, 1.0, 1.0))
    steps = steps_in_matter(matter, shift, step_size, last_step)
    start = first_of_groups(steps[0], shift, group)
    while start < steps[1]:
        # The whole group at once where it is haze, otherwise step by step.
        length = wp.int32(1)
        if group > 1:  # noqa: SIM102 (Warp would evaluate both sides)
            if is_haze(occupied, thick, ray_o, ray_d, cube, start, group, shift, step_size):
                length = group
        for step in range(start, start + group, length):
            span = wp.vec2(
                within(cube, step, shift, step_size)[0], within(cube, step + length - 1, shift, step_size)[1]
            )
            if slot < stop and span[1] > span[0]:
                position = ray_o + 0.5 * (span[0] + span[1]) * ray_d
                if length > 1 or is_occupied(occupied, position):
                    if purpose == FILL:
                        ray_indices[slot] = ray
                        t_starts[slot] = span[0]
                        t_ends[slot] = span[1]
                        xyz[slot] = position
                    slot += 1
        start += group
    if purpose != FILL:
        counts[ray] = slot


def march_buffered_warp(
    rays_o: Tensor,
    rays_d: Tensor,
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Tensor,
    capacity: int,
    group: int,
) -> tuple[Samples, Tensor]:
    """`march_buffered_reference`, except for samples on a border within rounding; it does not wait for the device.

    Each ray is walked once to count its samples and once to write them.
    """
    thick = occupancy.thicker_than(haze_density(step_size)) if group > 1 else occupancy.occupied
    grids, last_step = [occupancy.occupied, thick, occupancy.bounds], max_steps(step_size) + 2
    rays = [rays_o.contiguous(), rays_d.contiguous(), *grids, step_size, last_step, group, shifts]
    counts = torch.empty(len(rays_o), dtype=torch.int32, device=rays_o.device)
    samples = Samples(
        counts,
        counts.new_zeros(capacity),
        rays_o.new_zeros(capacity),
        rays_o.new_zeros(capacity),
        rays_o.new_zeros(capacity, 3),
        True,
    )
    packed = [samples.ray_indices, samples.t_starts, samples.t_ends, samples.xyz]
    launch(walk_groups, len(counts), [*rays, counts.new_ones(1), int(COUNT), counts, counts, *packed])
    wanted = counts.sum(dtype=torch.int32)
    stretch = stretch_to_fit(wanted, capacity)[None]
    launch(walk_groups, len(counts), [*rays, stretch, int(RECOUNT), counts, counts, *packed])
    stops = counts.cumsum(0, dtype=torch.int32).clamp_max(capacity)
    # Rays of which the first samples fit, or none, if rounding has used up the headroom.
    counts = stops.diff(prepend=stops.new_zeros(1))
    launch(walk_groups, len(counts), [*rays, stretch, int(FILL), counts, stops, *packed])
    return replace(samples, counts=counts), wanted
