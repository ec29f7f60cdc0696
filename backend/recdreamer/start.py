"""Where a job begins: with the prompt alone, with a mesh, or with what an earlier job has made."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.checkpoint import CheckpointStore
from recdreamer.config import GenerateConfig
from recdreamer.field.radiance_field import FieldConfig, RadianceField
from recdreamer.field.region_field import RegionField, empty_like
from recdreamer.field.signed_distance import Nearest, SolidMesh
from recdreamer.field.solid import SolidField
from recdreamer.mesh.extract import solid_parts
from recdreamer.mesh.mesh import Mesh
from recdreamer.mesh.raster import tiles_of_faces
from recdreamer.mesh.surface import CUBE_LO, find_surface, sample_box
from recdreamer.protocol import JobFolder, JobRequest, RequestError, Start, write_atomically
from recdreamer.start_mesh import Placement, read_start_mesh

FIELD_SIZES = (
    "num_levels", "features_per_level", "log2_table_size", "base_resolution", "max_resolution", "hidden_width",
)  # fmt: skip
"""Settings of a field that its tensors' shapes follow from."""
KEPT = "start/region.npz"
"""What a job that continues another has found out of that one, relative to its own folder."""
REGION_REACH = (0.2, 0.4)
"""Distances from the surface, in scene units, up to which a region holds in full, and at which it ends outside."""


@dataclass(frozen=True)
class StartingPoint:
    """What a job starts from, in the scene. Grids hold values at the vertices of `grid_points`."""

    kind: Start
    strength: float
    """How far the result may leave it: 0 keeps it, 1 forgets it."""
    original: dict[str, np.ndarray] = field(default_factory=dict)
    """The arrays of START_MESH as they came: metres, and to the last bit the artist's."""
    mesh: Mesh | None = None
    """That mesh in scene units, with its UVs if it has any."""
    placement: Placement | None = None
    """Where the scene has it."""
    distances: Float[Tensor, "x y z"] | None = None
    """Signed distances of the shape that the field begins with; None for other kinds than `object`."""
    region: Float[Tensor, "x y z"] | None = None
    """Weights in [0, 1]: where the result may change. None: everywhere."""
    rgb: Float[Tensor, "3 x y z"] | None = None
    """Colours of the shape's surface, carried on into space."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Of kind `continue`: the earlier scene as its checkpoint has it; empty where this job has one of its own."""

    def field_config(self, config: FieldConfig) -> FieldConfig:
        """A field that goes on has shown all its levels already."""
        return replace(config, steps_per_level=0) if self.kind == "continue" else config

    def make_fields(
        self, config: FieldConfig, seed: int
    ) -> tuple[RadianceField | RegionField, SolidField | RadianceField | RegionField | None]:
        """The field to optimize, and a frozen copy of what it begins with; None where a checkpoint will bring it.

        A job that continues one with a region keeps that region, unless it brings its own.
        """
        config = self.field_config(config)
        if self.kind == "continue" and not self.tensors:
            return RadianceField(config, seed), None
        if self.kind == "continue":
            state = {k.removeprefix("field."): v for k, v in self.tensors.items() if k.startswith("field.")}
            changing = empty_like(state, "", config)
            changing.load_state_dict(state)
            assert not isinstance(changing, SolidField)
            frozen = deepcopy(changing).requires_grad_(False)
            if isinstance(changing, RegionField) and self.region is not None:
                changing = changing.field
        else:
            changing = RadianceField(config, seed, self.distances)
            frozen = SolidField(config.start_density, self.distances, self.rgb)
        if self.region is not None and isinstance(changing, RadianceField):
            changing = RegionField(frozen, changing, self.region)
        return changing, frozen


def prepare_start(job: JobFolder, config: GenerateConfig, device: torch.device) -> StartingPoint | None:
    """The starting point of a job; None where it begins with the prompt alone.

    Raises RequestError with one sentence where the mesh or the earlier job cannot serve.
    """
    request = job.read_request()
    if request.start == "prompt":
        if request.start_mesh:
            raise RequestError(
                "A mesh is given, but the job starts from the prompt alone.",
                "Start from the object or from an earlier result, or leave the mesh out.",
            )
        return None
    if request.start == "continue":
        return _continued(job, request, config, device)
    original = read_start_mesh(job.root / request.start_mesh)
    placement = Placement.centred(original["verts"][np.unique(original["faces"])], config.start.half_size)
    start = _placed(StartingPoint(request.start, request.strength, original), placement)
    if request.start == "texture":
        _check_uvs(original)
        if "region" not in original:
            return start
    return _sampled(start, config.start.resolution, device, has_shape=True)


def _check_uvs(original: dict[str, np.ndarray]) -> None:
    """Raises RequestError where a texture could not be painted, before any time is spent on it."""
    if "uvs" not in original:
        return
    try:
        tiles_of_faces(original["uvs"])
    except ValueError as error:
        raise RequestError(str(error), "Or remove the UV map, and one is made.") from error


def _placed(start: StartingPoint, placement: Placement) -> StartingPoint:
    original = start.original
    mesh = Mesh(placement.to_scene(original["verts"]), original["faces"], original.get("uvs"))
    return replace(start, mesh=mesh, placement=placement)


def _sampled(start: StartingPoint, resolution: int, device: torch.device, has_shape: bool) -> StartingPoint:
    """With its grids: of distances and colours if the shape is wanted, and of the region if there is one."""
    assert start.mesh is not None
    found = SolidMesh(start.mesh.verts, start.mesh.faces, device).on_grid(resolution)
    shape, region, rgb = (resolution,) * 3, None, None
    if "region" in start.original and start.original["region"].min() < 1:
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
    """What the vertices hold, at the surface point that is nearest to each point."""
    device = found.distances.device
    corners = torch.from_numpy(start.original["faces"]).to(device)[found.faces].long()
    return torch.einsum("pk,pkc->pc", found.barycentrics, torch.from_numpy(values).to(device)[corners])


def _continued(
    job: JobFolder, request: JobRequest, config: GenerateConfig, device: torch.device
) -> StartingPoint:
    start = StartingPoint("continue", request.strength)
    # What has been begun needs the earlier job no more: its own checkpoint holds all.
    has_begun = CheckpointStore(job.checkpoints).newest("shape") is not None
    if not has_begun:
        start = replace(start, tensors=_earlier_scene(Path(request.start_job), config.field, device))
    if not request.start_mesh:
        return start
    start, kept = replace(start, original=read_start_mesh(job.root / request.start_mesh)), job.root / KEPT
    if kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            placement = Placement(float(arrays["scale"]), tuple(arrays["offset"].tolist()))
            region = torch.from_numpy(arrays["region"]).to(device) if "region" in arrays else None
        return replace(_placed(start, placement), region=region)
    if has_begun:
        return start
    placement = _placement_of_result(start, Path(request.start_job), config, device)
    start = _sampled(_placed(start, placement), config.start.resolution, device, has_shape=False)
    arrays: dict[str, Any] = {"scale": np.array(placement.scale), "offset": np.array(placement.offset)}
    if start.region is not None:
        arrays["region"] = start.region.cpu().numpy()
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_atomically(kept, stream.getvalue())
    return start


def _earlier_scene(folder: Path, config: FieldConfig, device: torch.device) -> dict[str, Tensor]:
    """Tensors of the first particle of a job's newest shape. Raises RequestError where it does not fit."""
    if not folder.is_dir():
        raise RequestError(f"The earlier job is gone ({folder}).", "Choose another result to continue.")
    checkpoint = CheckpointStore(JobFolder(folder).checkpoints).newest("shape")
    if checkpoint is None:
        raise RequestError(
            f"The earlier job {folder.name} has no checkpoint of its shape.",
            "Choose a job whose shape stage has run, and whose checkpoints were not deleted.",
        )
    earlier = _field_settings(folder)
    for name in FIELD_SIZES:
        wanted = asdict(config)[name]
        if earlier.get(name) != wanted:
            raise RequestError(
                f"The earlier job's field has {name} {earlier.get(name)}, this job's {wanted}.",
                "Use the prior and the settings of the earlier job, or start from its mesh as an object.",
            )
    prefix = "particle.0."
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix) and "optimizer" not in name
    }


def _field_settings(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8"))["field"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"The configuration of the earlier job {folder.name} cannot be read.",
            "Choose another result to continue.",
        ) from error


def _placement_of_result(
    start: StartingPoint, folder: Path, config: GenerateConfig, device: torch.device
) -> Placement:
    """Where the scene has the earlier job's mesh, whose base stands on the origin, to about a cell.

    Found by the bounding box of the field, so that the mesh may have been edited since.
    """
    shape, _ = start.make_fields(config.field, 0)
    shape.to(device)
    resolution = config.start.resolution
    cell = 2 / resolution
    level = find_surface(shape.density, config.mesh, device=device)
    sigmas = sample_box(shape.density, CUBE_LO, (resolution, resolution, resolution), cell, device=device)
    where = np.argwhere(solid_parts(sigmas >= level.threshold, config.mesh.min_component_share))
    low, high = where.min(0) * cell - 1, (where.max(0) + 1) * cell - 1
    try:
        with np.load(JobFolder(folder).result / "mesh.npz") as result:
            verts = result["verts"]
    except (OSError, ValueError, KeyError):
        verts = start.original["verts"]
    lowest, highest = verts.min(0).astype(np.float64), verts.max(0).astype(np.float64)
    base = np.array([*(lowest + highest)[:2] / 2, lowest[2]])
    scene_base = np.array([*(low + high)[:2] / 2, low[2]])
    return Placement.of_box(base, float(highest[2] - lowest[2]), scene_base, float(high[2] - low[2]))
