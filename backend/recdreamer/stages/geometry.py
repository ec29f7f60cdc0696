"""Stage 2: the surface of the first stage's field, refined by score distillation on its normals (paper, B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import Guide
from recdreamer.field import Field
from recdreamer.field.grid_values import grid_points, trilinear
from recdreamer.mesh import Mesh, extract_mesh
from recdreamer.models.surface import Surface
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import Report, Tick, no_tick
from recdreamer.sdf.distance_grid import DistanceGrid, light, uncolored
from recdreamer.sdf.from_mesh import SolidMesh
from recdreamer.shared.protocol import JobFolder
from recdreamer.stages.run import StageContext, particle_name, run_stage
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint

ALL_FACES = 1 << 30


def geometry_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guide: Guide,
    fields: Sequence[Field],
    colored: Sequence[Field],
    device: torch.device,
    report: Report,
    start: StartingPoint = FROM_PROMPT,
) -> tuple[list[Surface], float]:
    """Refine a surface for each field, starting from that of an earlier job if there is one.

    `colored` are the fields that hold the colours. Returns the surfaces and the seconds of all runs.
    """
    surfaces, seconds, num_steps = [], 0.0, config.geometry.num_steps
    context = StageContext(job, prior, device, report)
    for index, (field, colors) in enumerate(zip(fields, colored, strict=True)):
        before, in_all = index * num_steps, len(fields) * num_steps

        def tick(before: int = before, in_all: int = in_all) -> None:
            report.progress(before, in_all)

        if start.surface is not None:
            grid = colored_grid(config, resampled(start.surface, config.geometry.resolution), colors, tick)
        else:
            settings = replace(config.mesh, target_faces=ALL_FACES)
            mesh = extract_mesh(field.density, settings, device=device, tick=tick)
            grid = start_grid(config, mesh, colors, device, tick)
        surface = Surface(config, grid, device, freedom(start, config, device))
        seconds += run_stage(
            particle_name("geometry", index), context, config.step("geometry"), guide, surface,
            counted=(before, in_all),
        )  # fmt: skip
        surfaces.append(surface)
    return surfaces, seconds


def freedom(
    start: StartingPoint, config: GenerateConfig, device: torch.device
) -> Float[Tensor, "x y z"] | None:
    """The share of each step that a vertex takes: the job's strength, within its region only. None: all of it."""
    size, share = (config.geometry.resolution,) * 3, start.strength
    if start.region is None:
        return None if share == 1 else torch.full(size, share, device=device)
    return share * trilinear(start.region[None].to(device), grid_points(size[0], device))[:, 0].view(size)


def start_grid(
    config: GenerateConfig, mesh: Mesh, colors: Field, device: torch.device, tick: Tick = no_tick
) -> DistanceGrid:
    """The distances to a closed mesh in scene units, and the colours of a field."""
    resolution = config.geometry.resolution
    found = SolidMesh(mesh.verts, mesh.faces, device).on_grid(resolution, tick)
    return colored_grid(config, found.distances.view((resolution,) * 3), colors, tick)


def resampled(distances: Float[Tensor, "x y z"], resolution: int) -> Float[Tensor, "x2 y2 z2"]:
    """Distances on a grid of another resolution; returned as they are if the resolution is the same."""
    if len(distances) == resolution:
        return distances
    return trilinear(distances[None], grid_points(resolution, distances.device)).view((resolution,) * 3)


def colored_grid(
    config: GenerateConfig, distances: Float[Tensor, "x y z"], colors: Field, tick: Tick = no_tick
) -> DistanceGrid:
    """Distances with the colours of a field.

    The field's colours include the light of the first stage. They are divided by it, as the surface is lit again.
    """
    if config.geometry.picture == "normals":
        return uncolored(distances)
    resolution, device = len(distances), distances.device
    grid = DistanceGrid(distances, torch.zeros(3, *distances.shape, device=device))
    axis = torch.linspace(-1, 1, resolution, device=device)
    with torch.no_grad():
        normals = normalize(grid.gradients(), dim=0, eps=1e-6)
        for x, position in enumerate(axis):  # A slab at a time: memory does not grow with the cube.
            tick()
            rgb = colors(torch.cartesian_prod(position[None], axis, axis))[1].T.unflatten(1, (resolution, -1))
            grid.albedo[:, x] = rgb / light(normals[:, x].movedim(0, -1)).movedim(-1, 0)
    return grid
