"""Stage 3: the colours of a finished mesh, by the job's own method (paper, B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch.nn.functional import normalize

from recdreamer.config import GenerateConfig
from recdreamer.device import step_generator
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh, Shade
from recdreamer.mesh.mesh import face_cross, vertex_normals
from recdreamer.models.close_ups import CloseUps
from recdreamer.models.model import Descent, field_optimizer
from recdreamer.models.painting import SHOW_ALL, Painting
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import Report, Tick, no_tick
from recdreamer.shared.protocol import JobFolder
from recdreamer.stages.run import StageContext, particle_name, run_stage
from recdreamer.start.starting_point import StartingPoint

CHECKPOINT = "detail"
"""Name of the close-ups' checkpoints, and of their settings in TextureConfig, since the first version."""
COPIED_POINTS = 8192
"""Points of the mesh whose colours are compared in each step."""


def texture_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guides: dict[str, Guide],
    meshes: Sequence[Mesh],
    fields: Sequence[RadianceField | RegionField],
    device: torch.device,
    report: Report,
) -> tuple[list[Painting], float]:
    """Paint each mesh, in scene units, starting from a field's colours; close-ups sharpen the painting at the end.

    Returns the paintings and the seconds of all runs.
    """
    paintings, seconds, context = [], 0.0, StageContext(job, prior, device, report)
    of_each = config.texture.num_steps + config.texture.detail_steps
    for index, (mesh, field) in enumerate(zip(meshes, fields, strict=True)):
        before, in_all = index * of_each, len(meshes) * of_each
        painting = Painting(config, mesh, field, device)
        seconds += run_stage(
            particle_name("texture", index), context, config.step("texture"), guides["texture"], painting,
            counted=(before, in_all),
        )  # fmt: skip
        painting.forget_views()
        if config.texture.detail_steps:
            seconds += run_stage(
                particle_name(CHECKPOINT, index), context, config.step("close_ups"), guides["close_ups"],
                CloseUps(config, painting), counted=(before + config.texture.num_steps, in_all),
            )  # fmt: skip
        paintings.append(painting)
    return paintings, seconds


def copied(
    config: GenerateConfig,
    field: RadianceField | RegionField,
    mesh: Mesh,
    shade: Shade,
    device: torch.device,
    tick: Tick = no_tick,
) -> RadianceField | RegionField:
    """The field fitted to the colours of a surface, as far as it may change: least squares over the mesh."""
    settings, field = config.texture, deepcopy(field).to(device)
    field.set_progress(SHOW_ALL)
    learned = ((name, p) for name, p in field.named_parameters() if p.requires_grad)
    optimizer = field_optimizer(learned, settings.grid_learning_rate, settings.network_learning_rate)
    descent = Descent(optimizer, settings.copy_steps, settings.final_learning_rate, device)
    generator = step_generator(config.seed, 0, device)
    corners, normals, areas = (
        torch.from_numpy(values).float().to(device)
        for values in (
            mesh.verts[mesh.faces],
            vertex_normals(mesh)[mesh.faces],
            np.linalg.norm(face_cross(mesh), axis=1),
        )
    )
    for step in range(settings.copy_steps):
        tick()
        faces = torch.multinomial(areas, COPIED_POINTS, replacement=True, generator=generator)
        # Logarithms of uniform numbers, divided by their sum, are uniform in a triangle.
        draws = -torch.rand((COPIED_POINTS, 3, 1), generator=generator, device=device).clamp_min(1e-12).log()
        weights = draws / draws.sum(1, keepdim=True)
        points, facing = ((weights * values[faces]).sum(1) for values in (corners, normals))
        with torch.no_grad():
            wanted = shade(points, normalize(facing, dim=-1))
        descent.step((field(points)[1] - wanted).square().mean(), step)
    return field


def texture_field(
    config: GenerateConfig, start: StartingPoint, field: RadianceField | RegionField, index: int
) -> RadianceField | RegionField:
    """The field that stage 3 starts from: with the colours so far, or with fresh ones; free in the job's region only."""
    if not config.texture.inherit:
        return own_field(config, start, field, index)
    return start.free_colors(field, config.texture.field, config.seed + index)


def own_field(
    config: GenerateConfig,
    start: StartingPoint,
    earlier: RadianceField | RegionField | None = None,
    index: int = 0,
) -> RadianceField | RegionField:
    """A field without colours yet; if only a region may change, the earlier colours remain elsewhere."""
    fresh = RadianceField(config.texture.field, config.seed + index)
    if start.region is None:
        return fresh
    if earlier is None:
        return start.make_fields(config.texture.field, config.seed + index)[0]
    return RegionField(deepcopy(earlier), fresh, start.region)
