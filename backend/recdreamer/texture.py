"""Stage 3: the colour of a mesh whose shape is settled, by the job's own method (paper, B.3)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from recdreamer.close_ups import CloseUps
from recdreamer.config import GenerateConfig, of_detail, of_texture
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh
from recdreamer.painting import Painting
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder
from recdreamer.report import Report
from recdreamer.stage import particle_name, run_stage
from recdreamer.start import StartingPoint


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
    """A painting of each mesh, in scene units, that begins with a field's colours and then is sharpened by close-ups.

    Returns them and the seconds of all runs.
    """
    paintings, seconds = [], 0.0
    of_each = config.texture.num_steps + config.texture.detail_steps
    for index, (mesh, field) in enumerate(zip(meshes, fields, strict=True)):
        before, in_all = index * of_each, len(meshes) * of_each
        painting = Painting(config, mesh, field, device)
        seconds += run_stage(
            particle_name("texture", index), job, of_texture(config), prior, guides["texture"], painting, device,
            report, counted=(before, in_all),
        )  # fmt: skip
        painting.forget_views()
        if config.texture.detail_steps:
            seconds += run_stage(
                particle_name("detail", index), job, of_detail(config), prior, guides["detail"],
                CloseUps(config, painting), device, report, counted=(before + config.texture.num_steps, in_all),
            )  # fmt: skip
        paintings.append(painting)
    return paintings, seconds


def own_field(
    config: GenerateConfig,
    start: StartingPoint | None,
    earlier: RadianceField | RegionField | None = None,
    index: int = 0,
) -> RadianceField | RegionField:
    """A field that has no colours yet; where only a region may change, it has the earlier ones elsewhere."""
    fresh = RadianceField(config.texture.field, config.seed + index)
    if start is None or start.region is None:
        return fresh
    if earlier is None:
        return start.make_fields(config.texture.field, config.seed + index)[0]
    return RegionField(deepcopy(earlier), fresh, start.region)
