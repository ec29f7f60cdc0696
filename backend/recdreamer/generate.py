"""A generation from request to result: the stages in order, each resumed from its newest checkpoint."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import torch

from recdreamer.config import GenerateConfig, as_json, surface_settings
from recdreamer.device import choose_device, choose_dtype
from recdreamer.distillation.methods import Guide
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.job.repeat import empty_result, repeated_seeds, take_result
from recdreamer.mesh import (
    Shade,
    dress_mesh,
)
from recdreamer.models.painting import SHOW_ALL, Painting
from recdreamer.models.radiance import Particles
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.protocol import JobFolder, Stage, write_atomically
from recdreamer.report import Report
from recdreamer.sdf.distance_grid import DistanceGrid, uncolored
from recdreamer.stages.facing import yaw_of
from recdreamer.stages.geometry import geometry_stage
from recdreamer.stages.guidance import prepare_guides
from recdreamer.stages.handover import Shape, Work
from recdreamer.stages.shape import shape_stage
from recdreamer.stages.texture import copied, own_field, texture_stage
from recdreamer.start.prepare import prepare_start
from recdreamer.start.starting_point import StartingPoint, field_of

SHARES = {"prepare": 3.0, "shape": 60.0, "geometry": 10.0, "texture": 20.0, "mesh": 7.0}
"""All stages in order, with their share of a job's time."""


def generate(job: JobFolder, config: GenerateConfig, report: Report) -> None:
    """Run a job to its result, or up to where `report` stops it.

    Writes config.json, previews/, checkpoints/ and result/. Raises JobError for expected trouble, Cancelled
    and Paused after a checkpoint.
    """
    device, begin = choose_device(config.device), announcer(config, report)
    write_atomically(job.root / "config.json", json.dumps(as_json(config), indent=2, ensure_ascii=False))
    begin("prepare")
    seeded = _seeded(config, repeated_seeds(job))
    # First of all: what cannot be started from is told before anything is loaded or drawn.
    start = prepare_start(job, config, device, lambda: report.progress(0, 1))
    torch.manual_seed(config.seed)
    prior = DiffusionPrior.load(config.prior, device, choose_dtype(config.prior, device))
    guides, seconds = prepare_guides(job, config, prior, report.warning), {}
    prior.free_text_encoder()

    is_painted = "texture" in config.stages
    shapes = (
        []
        if start.is_only_painted
        else make_shapes(job, config, seeded, prior, guides, start, device, report, begin, seconds)
    )

    # Meshes are made as a part of what comes next.
    progress = itertools.count(1)
    steps = len(shapes) * (config.texture.num_steps + config.texture.detail_steps)

    def tick() -> None:
        report.progress(min(next(progress), 99), 100)

    extracting = partial(report.progress, 0, steps) if is_painted else tick
    begin("texture" if is_painted else "mesh")
    if start.is_only_painted:
        works = [Work.given(start, seeded["texture"], device)]
    else:
        surfaced = seeded["geometry"]
        works = [
            Work.extracted(shape, surfaced, start, device, report.warning, extracting) for shape in shapes
        ]

    paintings: list[Painting] = []
    if is_painted:
        painted = seeded["texture"]
        fields = [texture_field(painted, start, work.field, index) for index, work in enumerate(works)]
        started = time.monotonic()
        if config.texture.inherit:
            fields = [
                copied(painted, field, work.mesh, work.shade, device, extracting) if work.is_ahead else field
                for work, field in zip(works, fields, strict=True)
            ]
        copying = time.monotonic() - started
        meshes = [work.mesh for work in works]
        paintings, seconds["texture"] = texture_stage(
            job, painted, prior, guides, meshes, fields, device, report
        )
        seconds["texture"] += copying
        for work, painting in zip(works, paintings, strict=True):
            work.shade = lambda points, normals, painting=painting: painting.color(points)
        begin("mesh")

    if start.may_turn:
        for index, work in enumerate(works):
            shown = paintings[index] if is_painted else Painting(config, work.mesh, work.field, device)
            work.face_front(yaw_of(shown, guides["shape"].rectifiers, config.cameras, prior.image_px))

    started, summaries, folder = time.monotonic(), [], empty_result(job)
    for index, work in enumerate(works):
        summaries.append(
            dress_mesh(
                work.mesh,
                work.shade,
                work.normal_at,
                config.mesh,
                folder / f"particle-{index}" if index else folder,
                place=work.place,
                seed=seeded["texture"].seed,
                device=device,
                tick=tick,
            )
            | work.facts
        )
    seconds["mesh"] = time.monotonic() - started
    result = {
        "prompt": config.prompt,
        "method": config.method,
        "seed": config.seed,
        "seeds": {stage: seeded[stage].seed for stage in config.stages},
        "stages": list(config.stages),
        "seconds": seconds,
        "steps": config.optimize.num_steps,
        "device": str(device),
        "meshes": summaries,
    }
    write_atomically(folder / "report.json", json.dumps(result, indent=2, ensure_ascii=False, default=str))
    take_result(job)
    report.progress(100, 100)


def _seeded(config: GenerateConfig, repeated: dict[str, int]) -> dict[str, GenerateConfig]:
    """The job's configuration with each stage's seed; one that is left out has that of the stage before it."""
    seeded, seed = {}, config.seed
    for stage in get_args(Stage):
        seed = repeated.get(stage, config.seed) if stage in config.stages else seed
        seeded[stage] = replace(config, seed=seed)
    return seeded


def make_shapes(
    job: JobFolder,
    config: GenerateConfig,
    seeded: dict[str, GenerateConfig],
    prior: DiffusionPrior,
    guides: dict[str, Guide],
    start: StartingPoint,
    device: torch.device,
    report: Report,
    begin: Callable[[str], None],
    seconds: dict[str, float],
) -> list[Shape]:
    """Stages 1 and 2, as far as they are wanted, of each particle. `seeded` has the configuration of each stage."""
    if "shape" in config.stages:
        begin("shape")
        particles, seconds["shape"] = shape_stage(
            job, seeded["shape"], prior, guides["shape"], device, report, start
        )
    else:
        particles = handed_on(job, config, start, device)
    fields = [scene.field for scene in particles.scenes]
    # What an earlier job has refined and painted is not to be thrown away.
    painting = start.painting
    colored = [field_of(painting, config.texture.field).to(device)] * len(fields) if painting else fields
    for field in (*fields, *colored):
        field.set_progress(SHOW_ALL)
    densities, settings = [field.density for field in fields], config.mesh

    grids: list[DistanceGrid] = []
    if "geometry" in config.stages:
        begin("geometry")
        surfaces, seconds["geometry"] = geometry_stage(
            job, seeded["geometry"], prior, guides["geometry"], fields, colored, device, report, start
        )
        grids = [surface.grid for surface in surfaces]
    elif start.surface is not None:
        grids = [uncolored(start.surface)] * len(fields)
    if grids:
        densities, settings = [grid.solidity for grid in grids], surface_settings(config)
    # What an earlier job has painted is finer than the grid of the surface.
    is_ahead = "geometry" in config.stages and config.geometry.picture == "shaded" and not painting
    shades: list[Shade | None] = [None] * len(fields)
    if is_ahead:
        shades = [grid.color for grid in grids]
    elif painting:
        shades = [lambda points, normals, field=field: field(points)[1] for field in colored]
    return [
        Shape(density, settings, field, shade, is_ahead)
        for density, field, shade in zip(densities, colored, shades, strict=True)
    ]


def handed_on(
    job: JobFolder, config: GenerateConfig, start: StartingPoint, device: torch.device
) -> Particles:
    """The shape of a job that leaves the first stage out, kept for who continues it.

    Nothing of an earlier shape changes, so a region that this job brings has nothing to say in it.
    """
    particles, store = Particles(config, device, start.unchanged()), CheckpointStore(job.checkpoints)
    saved = store.newest("shape")
    if saved is None:
        store.save("shape", 0, particles.tensors(), {"seconds": 0.0}, final=True)
    else:
        particles.load(saved.tensors)
    return particles


def texture_field(
    config: GenerateConfig, start: StartingPoint, field: RadianceField | RegionField, index: int
) -> RadianceField | RegionField:
    """The colours that the third stage begins with: those so far, or fresh ones; free in the job's region only."""
    if not config.texture.inherit:
        return own_field(config, start, field, index)
    return start.free_colors(field, config.texture.field, config.seed + index)


def announcer(config: GenerateConfig, report: Report) -> Callable[[str], None]:
    """Tells that a stage begins, and which part of the job it is: what is left out has no part."""
    names = ["prepare", *(stage for stage in SHARES if stage in config.stages), "mesh"]
    whole = sum(SHARES[name] for name in names)
    begins = {name: sum(SHARES[other] for other in names[:i]) / whole for i, name in enumerate(names)}

    def begin(name: str) -> None:
        span = begins[name], begins[name] + SHARES[name] / whole
        report.stage(name, names.index(name), len(names), span)

    return begin
