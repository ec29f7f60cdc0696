"""Where a job starts: from the prompt alone, from a mesh, or from the result of an earlier job."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.config import GenerateConfig
from recdreamer.field.radiance_field import FieldConfig, RadianceField
from recdreamer.field.region_field import RegionField, empty_like, free_within
from recdreamer.field.solid_field import SolidField
from recdreamer.mesh.mesh import Mesh
from recdreamer.named_tensors import part
from recdreamer.report import Tick
from recdreamer.sdf.from_mesh import Nearest, SolidMesh
from recdreamer.shared.material_slots import slots_in
from recdreamer.shared.protocol import Start
from recdreamer.shared.start_check import is_flat, painted_uvs
from recdreamer.start.mesh_file import Placement

REGION_REACH = (0.2, 0.4)
"""Distances from the surface, in scene units, up to which a region has its full weight, and from which it has none."""


@dataclass(frozen=True)
class StartingPoint:
    """The start of a job, in the scene. Grids hold values at the vertices of `grid_points`."""

    kind: Start
    strength: float
    """How far the result may leave the start: 0 keeps it, 1 forgets it."""
    original: dict[str, np.ndarray] = field(default_factory=dict)
    """The arrays of START_MESH, unchanged, in metres."""
    mesh: Mesh | None = None
    """The mesh in scene units, with its UVs if it has any; where it is painted, those of no two materials overlap."""
    placement: Placement | None = None
    """The position of the mesh in the scene."""
    distances: Float[Tensor, "x y z"] | None = None
    """Signed distances of the shape that the field starts from; None for kinds other than `object`."""
    region: Float[Tensor, "x y z"] | None = None
    """Weights in [0, 1] of where the result may change. None: everywhere."""
    rgb: Float[Tensor, "3 x y z"] | None = None
    """Colours of the shape's surface, extended into space."""
    scene: dict[str, Tensor] = field(default_factory=dict)
    """For the kind `continue`: the state of the earlier scene."""
    surface: Float[Tensor, "gx gy gz"] | None = None
    """Signed distances refined by an earlier job; None if there are none, or if this job makes a new shape."""
    painting: dict[str, Tensor] = field(default_factory=dict)
    """State of the field painted by an earlier job; empty if there is none, or if this job makes a new shape."""

    @property
    def is_only_painted(self) -> bool:
        """The mesh keeps its shape and its UVs; no stage before the texture runs."""
        return self.kind == "texture"

    @property
    def brings_a_shape(self) -> bool:
        """The field starts from the artist's object, which may fill as much of the scene as it likes."""
        return self.kind == "object"

    @property
    def is_flat(self) -> bool:
        """An object that lies flat on the ground: scaled by its height, it would become a field."""
        return self.kind == "object" and self.mesh is not None and is_flat(np.ptp(self.mesh.verts, axis=0))

    @property
    def goes_on(self) -> bool:
        """The field is that of an earlier job, which has passed the check for collapses already."""
        return self.kind == "continue"

    @property
    def may_turn(self) -> bool:
        """The result may be turned to face the front: no object or region of the artist's fixes its place."""
        return self.kind == "prompt" or (self.kind == "continue" and self.region is None)

    @property
    def fixed_placement(self) -> Placement | None:
        """The placement that the result must keep, as only a region of it changes; None where it is free."""
        return None if self.region is None else self.placement

    def unchanged(self) -> StartingPoint:
        """The start for a job that skips the shape stage: a new region does not change an earlier field."""
        return replace(self, region=self.scene.get("field.region")) if self.goes_on else self

    def free_colors(
        self, colors: RadianceField | RegionField, config: FieldConfig, seed: int
    ) -> RadianceField | RegionField:
        """The colours so far, free to change within the region of this job only.

        The field of a job that starts from an object was made for that region already.
        """
        return free_within(colors, self.region, config, seed) if self.goes_on else colors

    def field_config(self, config: FieldConfig) -> FieldConfig:
        """The field of an earlier job shows all its levels from the first step on."""
        return replace(config, steps_per_level=0) if self.goes_on else config

    def make_fields(
        self, config: FieldConfig, seed: int
    ) -> tuple[RadianceField | RegionField, SolidField | RadianceField | RegionField | None]:
        """The field to optimize, and a frozen copy of its start; None for a field that starts from the prompt."""
        config = self.field_config(config)
        if self.kind == "prompt":
            return RadianceField(config, seed), None
        if self.goes_on:
            earlier = field_of(part("field", self.scene), config)
            changing = free_within(earlier, self.region, config, seed)
            if changing is earlier:
                return earlier, deepcopy(earlier).requires_grad_(False)
            return changing, earlier.requires_grad_(False)
        changing = RadianceField(config, seed, self.distances)
        frozen = SolidField(config.start_density, self.distances, self.rgb)
        return changing if self.region is None else RegionField(frozen, changing, self.region), frozen


FROM_PROMPT = StartingPoint("prompt", 1.0)
"""The start of a job that has only its prompt: everything may change."""


def field_of(state: dict[str, Tensor], config: FieldConfig) -> RadianceField | RegionField:
    """The field of a checkpoint; `config` has what its state does not."""
    found = empty_like(state, "", config)
    found.load_state_dict(state)
    assert not isinstance(found, SolidField)
    return found


def has_region(original: dict[str, np.ndarray]) -> bool:
    """A part of the mesh must not change."""
    return "region" in original and bool(original["region"].min() < 1)


def centred(original: dict[str, np.ndarray], config: GenerateConfig) -> Placement:
    return Placement.centred(original["verts"][np.unique(original["faces"])], config.start.half_size)


def in_scene(start: StartingPoint, placement: Placement) -> StartingPoint:
    original = start.original
    verts, faces = placement.to_scene(original["verts"]), original["faces"]
    uvs = painted_uvs(original) if start.is_only_painted and "uvs" in original else original.get("uvs")
    mesh = Mesh(verts, faces, uvs, slots_in(original, len(faces)))
    return replace(start, mesh=mesh, placement=placement)


def sampled(
    start: StartingPoint,
    resolution: int,
    device: torch.device,
    tick: Tick,
    has_shape: bool,
) -> StartingPoint:
    """The start with its grids: distances and colours if `has_shape`, and the region if there is one."""
    assert start.mesh is not None
    found = SolidMesh(start.mesh.verts, start.mesh.faces, device).on_grid(resolution, tick)
    shape, region, rgb = (resolution,) * 3, None, None
    if has_region(start.original):
        weights = _at_nearest(found, start, start.original["region"][:, None])[:, 0]
        full, end = REGION_REACH
        weights = weights * ((end - found.distances) / (end - full)).clamp(0, 1)
        region = weights.clamp(0, 1).reshape(shape)
    if has_shape and "rgb" in start.original:
        rgb = _at_nearest(found, start, start.original["rgb"]).T.reshape(3, *shape).contiguous()
    distances = found.distances.reshape(shape) if has_shape else None
    return replace(start, distances=distances, region=region, rgb=rgb)


def _at_nearest(
    found: Nearest, start: StartingPoint, values: Float[np.ndarray, "verts channels"]
) -> Float[Tensor, "points channels"]:
    """The vertices' values, interpolated at the surface point nearest to each point."""
    device = found.distances.device
    corners = torch.from_numpy(start.original["faces"]).to(device)[found.faces].long()
    return torch.einsum("pk,pkc->pc", found.barycentrics, torch.from_numpy(values).to(device)[corners])
