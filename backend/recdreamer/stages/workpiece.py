"""An object on its way from a shape to a textured mesh, and stage 3, which paints it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recdreamer.config import GenerateConfig
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh, NormalAt, Shade, mesh_of_field, stand_on_origin
from recdreamer.mesh.mesh import turned
from recdreamer.models.painting import Painting
from recdreamer.report import Tick, Warn
from recdreamer.stages.facing import yaw_of
from recdreamer.stages.handover import JobRun, Shape
from recdreamer.stages.texture import copied, own_field, texture_field, texture_stage
from recdreamer.start.starting_point import StartingPoint


@dataclass
class Workpiece:
    """One object on its way to a textured mesh."""

    mesh: Mesh
    """In scene units."""
    field: RadianceField | RegionField
    """The field that holds the colours so far."""
    shade: Shade
    normal_at: NormalAt | None
    place: Callable[[Mesh], Mesh]
    """From scene units to the place of the result."""
    facts: dict[str, Any]
    is_ahead: bool = False
    """`shade` was learned on the surface, and the field does not have it yet."""
    painting: Painting | None = None
    """The outcome of stage 3."""

    @classmethod
    def given(cls, start: StartingPoint, config: GenerateConfig, device: torch.device) -> Workpiece:
        """The artist's mesh, which is only painted."""
        assert start.mesh is not None
        field = own_field(config, start).to(device)
        verts = start.original["verts"]
        return cls(
            start.mesh, field, lambda points, normals: field(points)[1], None,
            lambda mesh: replace(mesh, verts=verts), {},
        )  # fmt: skip

    @classmethod
    def extracted(
        cls,
        shape: Shape,
        config: GenerateConfig,
        start: StartingPoint,
        device: torch.device,
        warn: Warn,
        tick: Tick,
    ) -> Workpiece:
        """The mesh of a shape, which will stand on the origin, or stay in place if only a region of it changes.

        Raises JobError where there is no object.
        """

        def color(xyz: Tensor) -> Tensor:
            return shape.field(xyz)[1]

        found = mesh_of_field(
            shape.density, color, shape.settings, seed=config.seed, device=device, tick=tick, warn=warn
        )
        place = placing(start, config.height_m)
        shade = shape.shade or found.shade
        return cls(found.mesh, shape.field, shade, found.normal_at, place, found.facts, shape.is_ahead)

    def take(self, painting: Painting) -> None:
        """Wear the colours of stage 3."""
        self.painting, self.shade = painting, lambda points, normals: painting.color(points)

    def turn(self, yaw_deg: float) -> None:
        """Write the mesh turned by its yaw."""
        place, self.facts = self.place, self.facts | {"yaw_deg": yaw_deg}
        self.place = lambda mesh: place(
            replace(mesh, verts=turned(mesh.verts, yaw_deg).astype(mesh.verts.dtype))
        )


def placing(start: StartingPoint, height_m: float) -> Callable[[Mesh], Mesh]:
    """The map from scene units to the place of the result."""
    placement = start.fixed_placement
    if placement is None and start.is_flat and start.placement is not None:
        metre = start.placement.scale
        return lambda mesh: stand_on_origin(mesh, float(np.ptp(mesh.verts[:, 2])) / metre)
    if placement is None:
        return lambda mesh: stand_on_origin(mesh, height_m)
    return lambda mesh: replace(mesh, verts=placement.to_world(mesh.verts))


def workpieces_of(run: JobRun, shapes: Sequence[Shape]) -> list[Workpiece]:
    """The mesh of each shape; the artist's own where the job only paints it."""
    if run.start.is_only_painted:
        return [Workpiece.given(run.start, run.seeded("texture"), run.device)]
    config, tick = run.seeded("geometry"), run.tick_of_extraction(len(shapes))
    return [
        Workpiece.extracted(shape, config, run.start, run.device, run.report.warning, tick)
        for shape in shapes
    ]


def paint_objects(run: JobRun, pieces: Sequence[Workpiece]) -> None:
    """Stage 3 of each object, from the colours so far or from none."""
    config, tick, started = run.seeded("texture"), run.tick_of_extraction(len(pieces)), time.monotonic()
    fields = [texture_field(config, run.start, piece.field, index) for index, piece in enumerate(pieces)]
    if config.texture.inherit:
        fields = [
            copied(config, field, piece.mesh, piece.shade, run.device, tick) if piece.is_ahead else field
            for piece, field in zip(pieces, fields, strict=True)
        ]
    copying = time.monotonic() - started
    paintings, seconds = texture_stage(
        run.job,
        config,
        run.prior,
        run.guides,
        [piece.mesh for piece in pieces],
        fields,
        run.device,
        run.report,
    )
    run.seconds["texture"] = copying + seconds
    for piece, painting in zip(pieces, paintings, strict=True):
        piece.take(painting)


def face_front(run: JobRun, pieces: Sequence[Workpiece]) -> None:
    """Turn each object so that its front is where Blender has it."""
    for piece in pieces:
        shown = piece.painting or Painting(run.config, piece.mesh, piece.field, run.device)
        rectifiers = run.guides["shape"].rectifiers
        piece.turn(yaw_of(shown, rectifiers, run.config.cameras, run.prior.image_px))
