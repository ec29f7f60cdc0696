"""What the stages of a job share, and the shapes that stages 1 and 2 hand to the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from recdreamer.config import GenerateConfig, surface_settings
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import MeshConfig, Shade
from recdreamer.mesh.level import Density
from recdreamer.models.painting import SHOW_ALL
from recdreamer.models.radiance import Particles
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.report import Report, Tick
from recdreamer.sdf.distance_grid import DistanceGrid, uncolored
from recdreamer.shared.protocol import JobFolder
from recdreamer.stages.geometry import geometry_stage
from recdreamer.stages.shape import shape_stage, skipped_shape
from recdreamer.start.starting_point import StartingPoint, field_of


@dataclass
class JobRun:
    """One run of a job, with everything that its stages share."""

    job: JobFolder
    config: GenerateConfig
    report: Report
    begin: Callable[[str], None]
    """Reports that a stage begins, by its name."""
    device: torch.device
    seeds: dict[str, int]
    """By stage; a stage that was repeated has a seed of its own."""
    start: StartingPoint
    prior: DiffusionPrior
    guides: dict[str, Guide]
    models: dict[str, Any] = field(default_factory=dict)
    """What is known of the pretrained models, by what they are for; for the report."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, of all its runs; filled as the stages end."""
    _ticks: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def has(self, stage: str) -> bool:
        """The stage is one of those that the job runs."""
        return stage in self.config.stages

    def seeded(self, stage: str) -> GenerateConfig:
        """The job's configuration with the seed of a stage."""
        return replace(self.config, seed=self.seeds[stage])

    def tick(self) -> None:
        """Progress of the mesh stage, whose steps are not known beforehand."""
        self.report.progress(min(next(self._ticks), 99), 100)

    def tick_of_extraction(self, num_meshes: int) -> Tick:
        """Progress while meshes are extracted, as a part of the stage that follows."""
        if not self.has("texture"):
            return self.tick
        steps = num_meshes * (self.config.texture.num_steps + self.config.texture.detail_steps)
        return partial(self.report.progress, 0, steps)


@dataclass(frozen=True)
class Shape:
    """The outcome of stages 1 and 2 for one particle: a level set and its colours."""

    density: Density
    settings: MeshConfig
    field: RadianceField | RegionField
    """The field that holds the colours."""
    shade: Shade | None
    """The colours of the surface; None: to be composited from the field behind it."""
    is_ahead: bool
    """`shade` was learned on the surface, and the field does not have it yet."""


def first_shapes(run: JobRun) -> Particles:
    """Stage 1, or the fields that the job starts from."""
    if not run.has("shape"):
        return skipped_shape(run.job, run.config, run.start, run.device)
    run.begin("shape")
    particles, run.seconds["shape"] = shape_stage(
        run.job, run.seeded("shape"), run.prior, run.guides["shape"], run.device, run.report, run.start
    )
    return particles


def refined_shapes(run: JobRun, particles: Particles) -> list[Shape]:
    """Stage 2 of each particle, or the surface that an earlier job has refined, or the level set of the field."""
    config, painting = run.config, run.start.painting
    fields = [scene.field for scene in particles.scenes]
    colored: Sequence[RadianceField | RegionField] = fields
    if painting:  # Finer than the grid of the surface.
        colored = [field_of(painting, config.texture.field).to(run.device)] * len(fields)
    for each in (*fields, *colored):
        each.set_progress(SHOW_ALL)

    grids = _refined_grids(run, fields, colored)
    densities, settings = [each.density for each in fields], config.mesh
    if grids:
        densities, settings = [grid.solidity for grid in grids], surface_settings(config)
    is_ahead = run.has("geometry") and config.geometry.picture == "shaded" and not painting
    shades: list[Shade | None] = [None] * len(fields)
    if is_ahead:
        shades = [grid.color for grid in grids]
    elif painting:
        shades = [lambda points, normals, each=each: each(points)[1] for each in colored]
    return [
        Shape(density, settings, each, shade, is_ahead)
        for density, each, shade in zip(densities, colored, shades, strict=True)
    ]


def _refined_grids(
    run: JobRun,
    fields: Sequence[RadianceField | RegionField],
    colored: Sequence[RadianceField | RegionField],
) -> list[DistanceGrid]:
    """The refined surface of each field; empty where no stage and no earlier job has refined one."""
    if run.has("geometry"):
        run.begin("geometry")
        surfaces, run.seconds["geometry"] = geometry_stage(
            run.job, run.seeded("geometry"), run.prior, run.guides["geometry"],
            fields, colored, run.device, run.report, run.start,
        )  # fmt: skip
        return [surface.grid for surface in surfaces]
    return [] if run.start.surface is None else [uncolored(run.start.surface)] * len(fields)
