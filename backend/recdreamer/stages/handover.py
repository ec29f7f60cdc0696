"""What one stage hands on to the next: a shape, and an object on its way to a textured mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recdreamer.config import GenerateConfig
from recdreamer.field import RadianceField
from recdreamer.field.region_field import RegionField
from recdreamer.mesh import Mesh, MeshConfig, NormalAt, Shade, mesh_of_field, stand_on_origin
from recdreamer.mesh.level import Density
from recdreamer.mesh.mesh import turned
from recdreamer.report import Tick, Warn
from recdreamer.stages.texture import own_field
from recdreamer.start.starting_point import StartingPoint


@dataclass(frozen=True)
class Shape:
    """What stages 1 and 2 have come to, or were given: a level set, and who has its colours."""

    density: Density
    settings: MeshConfig
    field: RadianceField | RegionField
    """Whose colours it has so far."""
    shade: Shade | None
    """The colours of its surface; None: they are to be composited from what the field has behind it."""
    is_ahead: bool
    """Those colours are not the field's, but learnt on the surface since."""


@dataclass
class Work:
    """One object on its way to a textured mesh."""

    mesh: Mesh
    """In scene units."""
    field: RadianceField | RegionField
    """Whose colours it has so far."""
    shade: Shade
    normal_at: NormalAt | None
    place: Callable[[Mesh], Mesh]
    """From scene units to where it is written."""
    facts: dict[str, Any]
    is_ahead: bool = False
    """Of `shade`: learnt on the surface, the field has not got it yet."""

    @classmethod
    def given(cls, start: StartingPoint, config: GenerateConfig, device: torch.device) -> Work:
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
    ) -> Work:
        """The mesh of a shape. It stands on the origin, but for one of which only a region changed: that stays where
        the start mesh was. Raises JobError where there is no object."""

        def color(xyz: Tensor) -> Tensor:
            return shape.field(xyz)[1]

        found = mesh_of_field(
            shape.density, color, shape.settings, seed=config.seed, device=device, tick=tick, warn=warn
        )
        place = placing(start, config.height_m)
        shade = shape.shade or found.shade
        return cls(found.mesh, shape.field, shade, found.normal_at, place, found.facts, shape.is_ahead)

    def face_front(self, yaw_deg: float) -> None:
        """Write the mesh turned by its yaw."""
        place, self.facts = self.place, self.facts | {"yaw_deg": yaw_deg}
        self.place = lambda mesh: place(
            replace(mesh, verts=turned(mesh.verts, yaw_deg).astype(mesh.verts.dtype))
        )


def placing(start: StartingPoint, height_m: float) -> Callable[[Mesh], Mesh]:
    """The way from scene units to where the mesh is written."""
    placement = start.fixed_placement
    if placement is None:
        return lambda mesh: stand_on_origin(mesh, height_m)
    return lambda mesh: replace(mesh, verts=placement.to_world(mesh.verts))
