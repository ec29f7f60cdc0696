"""Ray marching as Warp kernels: walk each ray once and record its steps in a table, then pack the table."""

from typing import no_type_check

import torch
import warp as wp
from torch import Tensor

from recdreamer.field.occupancy import OccupancyGrid
from recdreamer.kernels import launch
from recdreamer.rendering.march import END, Samples, max_steps

wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def box_overlap(ray_o: wp.vec3, ray_d: wp.vec3, lower: wp.vec3, upper: wp.vec3) -> wp.vec2:
    """Distances at which a ray enters and leaves a box; the first is larger if it misses."""
    near, far = wp.float32(0.0), wp.float32(1.0e30)
    for axis in range(3):
        d = ray_d[axis]
        if wp.abs(d) < 1.0e-12:
            d = 1.0e-12
        inverse = 1.0 / d
        a, b = (lower[axis] - ray_o[axis]) * inverse, (upper[axis] - ray_o[axis]) * inverse
        near, far = wp.max(near, wp.min(a, b)), wp.min(far, wp.max(a, b))
    return wp.vec2(near, far)


@wp.func
@no_type_check
def cell_index(coordinate: float, resolution: int) -> int:
    return wp.clamp(int(wp.floor((coordinate + 1.0) * (float(resolution) * 0.5))), 0, resolution - 1)


@wp.kernel
@no_type_check
def walk(
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    occupied: wp.array3d(dtype=wp.bool),
    bounds: wp.array(dtype=wp.vec3),
    step_size: float,
    last_step: int,
    shifts: wp.array(dtype=float),
    begins: wp.array(dtype=int),
    end: int,
    table: wp.array2d(dtype=int),
    counts: wp.array(dtype=int),
    goes_on: wp.array(dtype=int),
):
    ray = wp.tid()
    counts[ray] = 0
    goes_on[ray] = end
    begin = begins[ray]
    if begin == end:
        return
    ray_o, ray_d, shift = rays_o[ray], rays_d[ray], shifts[ray]
    matter = box_overlap(ray_o, ray_d, bounds[0], bounds[1])
    if matter[0] >= matter[1]:
        return
    cube = box_overlap(ray_o, ray_d, wp.vec3(-1.0, -1.0, -1.0), wp.vec3(1.0, 1.0, 1.0))
    # Start one step early, because rounding may put the first sample on either side of the border.
    step = wp.max(begin, int(wp.floor(matter[0] / step_size - shift)) - 1)
    stop = wp.min(step + last_step, int(wp.ceil(matter[1] / step_size - shift)) + 1)
    resolution = occupied.shape[0]
    limit = table.shape[1]
    count = wp.int32(0)
    while step < stop:
        t_start = (float(step) + shift) * step_size
        t_end = wp.min(t_start + step_size, cube[1])
        t_start = wp.max(t_start, cube[0])
        if t_end > t_start:
            position = ray_o + 0.5 * (t_start + t_end) * ray_d
            x, y, z = (
                cell_index(position[0], resolution),
                cell_index(position[1], resolution),
                cell_index(position[2], resolution),
            )
            if occupied[x, y, z]:
                if count == limit:
                    goes_on[ray] = step
                    break
                table[ray, count] = step
                count += 1
        step += 1
    counts[ray] = count


@wp.kernel
@no_type_check
def pack(
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    step_size: float,
    shifts: wp.array(dtype=float),
    table: wp.array2d(dtype=int),
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=int),
    ray_indices: wp.array(dtype=int),
    t_starts: wp.array(dtype=float),
    t_ends: wp.array(dtype=float),
    xyz: wp.array(dtype=wp.vec3),
):
    ray = wp.tid()
    count = counts[ray]
    if count == 0:
        return
    ray_o, ray_d, shift = rays_o[ray], rays_d[ray], shifts[ray]
    cube = box_overlap(ray_o, ray_d, wp.vec3(-1.0, -1.0, -1.0), wp.vec3(1.0, 1.0, 1.0))
    first = stops[ray] - count
    for slot in range(count):
        t_start = (float(table[ray, slot]) + shift) * step_size
        t_end = wp.min(t_start + step_size, cube[1])
        t_start = wp.max(t_start, cube[0])
        ray_indices[first + slot] = ray
        t_starts[first + slot] = t_start
        t_ends[first + slot] = t_end
        xyz[first + slot] = ray_o + 0.5 * (t_start + t_end) * ray_d


def march_warp(
    rays_o: Tensor,
    rays_d: Tensor,
    occupancy: OccupancyGrid,
    step_size: float,
    shifts: Tensor,
    begins: Tensor,
    limit: int,
) -> tuple[Samples, Tensor]:
    """`march_reference`, except for samples on a border within rounding."""
    num_rays = len(rays_o)
    rays_o, rays_d = rays_o.contiguous(), rays_d.contiguous()
    table = begins.new_empty(num_rays, limit)
    counts, goes_on = torch.empty_like(begins), torch.empty_like(begins)
    grid = [occupancy.occupied, occupancy.bounds]
    steps = max_steps(step_size) + 2
    walking = [*grid, step_size, steps, shifts, begins, END, table, counts, goes_on]
    launch(walk, num_rays, [rays_o, rays_d, *walking])

    stops = counts.cumsum(0, dtype=torch.int32)
    # The only synchronization with the device: the size of the packed tensors.
    total = int(stops[-1]) if num_rays else 0
    ray_indices, distances = begins.new_empty(total), rays_o.new_empty(2, total)
    samples = Samples(counts, ray_indices, distances[0], distances[1], rays_o.new_empty(total, 3))
    packed = [samples.ray_indices, samples.t_starts, samples.t_ends, samples.xyz]
    if total:
        launch(pack, num_rays, [rays_o, rays_d, step_size, shifts, table, counts, stops, *packed])
    return samples, goes_on
