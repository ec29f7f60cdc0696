"""Stage 2: the surface of the first stage's field, refined by score distillation on its normals (paper, B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import GenerateConfig, of_geometry
from recdreamer.distillation.methods import Guide
from recdreamer.field import Field
from recdreamer.field.distance_grid import SOLID, DistanceGrid, light
from recdreamer.field.signed_distance import SolidMesh
from recdreamer.field.volume import grid_points, trilinear
from recdreamer.mesh import Mesh, MeshConfig, extract_mesh
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder
from recdreamer.report import Report
from recdreamer.stage import particle_name, run_stage
from recdreamer.start import StartingPoint
from recdreamer.surface import Surface

ALL_FACES = 1 << 30


def geometry_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guide: Guide,
    fields: Sequence[Field],
    device: torch.device,
    report: Report,
    start: StartingPoint | None = None,
) -> tuple[list[Surface], float]:
    """A refined surface of each field. Returns them and the seconds of all runs."""
    surfaces, seconds = [], 0.0
    for index, field in enumerate(fields):
        mesh = extract_mesh(field.density, replace(config.mesh, target_faces=ALL_FACES), device=device)
        grid = start_grid(config, mesh, field, device)
        surface = Surface(config, grid, device, freedom(start, config, device))
        name = particle_name("geometry", index)
        seconds += run_stage(name, job, of_geometry(config), prior, guide, surface, device, report)
        surfaces.append(surface)
    return surfaces, seconds


def earlier_surface(job: JobFolder, device: torch.device) -> DistanceGrid | None:
    """The surface that the job which this one continues came to; None when there is none."""
    request = job.read_request()
    if request.start != "continue":
        return None
    checkpoint = CheckpointStore(JobFolder(Path(request.start_job)).checkpoints).newest("geometry")
    if checkpoint is None:
        return None
    distances = checkpoint.tensors["surface.distances"].to(device)
    return DistanceGrid(distances, distances.new_zeros(()).expand(3, *distances.shape))


def freedom(
    start: StartingPoint | None, config: GenerateConfig, device: torch.device
) -> Float[Tensor, "x y z"] | None:
    """How much of each step a vertex takes: by the job's strength, and within its region only. None: all of it."""
    if start is None:
        return None
    size, share = (config.geometry.resolution,) * 3, start.strength
    if start.region is None:
        return None if share == 1 else torch.full(size, share, device=device)
    return share * trilinear(start.region[None].to(device), grid_points(size[0], device))[:, 0].view(size)


def surface_settings(config: GenerateConfig) -> MeshConfig:
    """How the mesh of a refined surface is extracted: its level is known, and it has no gaps to be closed."""
    return replace(config.mesh, threshold=0.5 * SOLID, closed_gap=0.0)


def start_grid(config: GenerateConfig, mesh: Mesh, field: Field, device: torch.device) -> DistanceGrid:
    """The distances to a closed mesh in scene units, and the colours of the field that it came from.

    Those colours hold the light of the first stage; what is lit anew is what they would be without it.
    """
    resolution = config.geometry.resolution
    found = SolidMesh(mesh.verts, mesh.faces, device).on_grid(resolution)
    distances = found.distances.view((resolution,) * 3)
    if config.geometry.picture == "normals":  # Nobody will see an albedo.
        return DistanceGrid(distances, distances.new_zeros(()).expand(3, *distances.shape)).to(device)
    grid = DistanceGrid(distances, torch.zeros(3, *distances.shape, device=device)).to(device)
    axis = torch.linspace(-1, 1, resolution, device=device)
    with torch.no_grad():
        normals = normalize(grid.gradients(), dim=0, eps=1e-6)
        for x, position in enumerate(axis):  # A slab at a time: memory does not grow with the cube.
            rgb = field(torch.cartesian_prod(position[None], axis, axis))[1].T.unflatten(1, (resolution, -1))
            grid.albedo[:, x] = rgb / light(normals[:, x].movedim(0, -1)).movedim(-1, 0)
    return grid
