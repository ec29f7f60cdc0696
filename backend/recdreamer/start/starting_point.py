"""Where a job begins: with the prompt alone, with a mesh, or with what an earlier job has made."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.config import GenerateConfig, resolve
from recdreamer.field.radiance_field import FIELD_SIZES, FieldConfig, RadianceField
from recdreamer.field.region_field import RegionField, empty_like, free_within
from recdreamer.field.solid_field import SolidField
from recdreamer.job.checkpoint import Checkpoint, CheckpointStore
from recdreamer.mesh.extract import whole_object
from recdreamer.mesh.level import CUBE_LO, Tick, find_surface, no_tick, sample_box
from recdreamer.mesh.mesh import Mesh, turned
from recdreamer.mesh.raster import tiles_of_faces
from recdreamer.models.surface import surface_settings, uncolored
from recdreamer.named_tensors import part
from recdreamer.protocol import JobFolder, JobRequest, RequestError, Start
from recdreamer.sdf.from_mesh import Nearest, SolidMesh
from recdreamer.stages.facing import written_yaw_deg
from recdreamer.start.mesh_file import Placement, read_start_mesh

TAKEN_OVER = "start"
"""Name of the checkpoint that holds what a job needs of the one that it continues, so that that one may be deleted."""
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
    scene: dict[str, Tensor] = field(default_factory=dict)
    """Of kind `continue`: the state of the earlier scene."""
    surface: Float[Tensor, "gx gy gz"] | None = None
    """Signed distances as an earlier job has refined them; None where there are none, or the shape is made anew."""
    painting: dict[str, Tensor] = field(default_factory=dict)
    """The state of the field that an earlier job has painted; empty where there is none, or the shape is made anew."""

    def field_config(self, config: FieldConfig) -> FieldConfig:
        """A field that goes on has shown all its levels already."""
        return replace(config, steps_per_level=0) if self.kind == "continue" else config

    def make_fields(
        self, config: FieldConfig, seed: int
    ) -> tuple[RadianceField | RegionField, SolidField | RadianceField | RegionField]:
        """The field to optimize, and a frozen one that is what it begins with."""
        config = self.field_config(config)
        if self.kind == "continue":
            earlier = field_of(part("field", self.scene), config)
            changing = free_within(earlier, self.region, config, seed)
            if changing is earlier:
                return earlier, deepcopy(earlier).requires_grad_(False)
            return changing, earlier.requires_grad_(False)
        changing = RadianceField(config, seed, self.distances)
        frozen = SolidField(config.start_density, self.distances, self.rgb)
        return changing if self.region is None else RegionField(frozen, changing, self.region), frozen


def field_of(state: dict[str, Tensor], config: FieldConfig) -> RadianceField | RegionField:
    """The field that a checkpoint holds; `config` says what its state does not."""
    found = empty_like(state, "", config)
    found.load_state_dict(state)
    assert not isinstance(found, SolidField)
    return found


def prepare_start(
    job: JobFolder, config: GenerateConfig, device: torch.device, tick: Tick = no_tick
) -> StartingPoint | None:
    """The starting point of a job; None where it begins with the prompt alone.

    A job that continues one with a region keeps that region, unless it brings a mesh, whose own holds then. Raises
    RequestError with one sentence where the mesh or the earlier job cannot serve; `tick` is called between chunks of
    work, and may raise.
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
        return _continued(job, request, config, device, tick)
    original = read_start_mesh(job.root / request.start_mesh)
    start = _placed(StartingPoint(request.start, request.strength, original), _centred(original, config))
    if request.start == "texture":
        _check_uvs(original)
        if "region" not in original:
            return start
    return _sampled(start, config.start.resolution, device, tick, has_shape=True)


def _has_region(original: dict[str, np.ndarray]) -> bool:
    """Something must not change."""
    return "region" in original and bool(original["region"].min() < 1)


def _centred(original: dict[str, np.ndarray], config: GenerateConfig) -> Placement:
    return Placement.centred(original["verts"][np.unique(original["faces"])], config.start.half_size)


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


def _sampled(
    start: StartingPoint, resolution: int, device: torch.device, tick: Tick, has_shape: bool
) -> StartingPoint:
    """With its grids: of distances and colours if the shape is wanted, and of the region if there is one."""
    assert start.mesh is not None
    found = SolidMesh(start.mesh.verts, start.mesh.faces, device).on_grid(resolution, tick)
    shape, region, rgb = (resolution,) * 3, None, None
    if _has_region(start.original):
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
    job: JobFolder, request: JobRequest, config: GenerateConfig, device: torch.device, tick: Tick
) -> StartingPoint:
    """What an earlier job has made, out of this job's own folder, where the first run has put it."""
    store = CheckpointStore(job.checkpoints)
    kept = store.newest(TAKEN_OVER)
    if kept is None:
        tensors, placement = _taken_over(job, request, config, device, tick)
        meta = {"placement": None if placement is None else astuple(placement)}
        store.save(TAKEN_OVER, 0, tensors, meta, final=True)
    else:
        tensors, placement = kept.tensors, _kept_placement(kept)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return StartingPoint(
        "continue", request.strength, placement=placement, region=tensors.get("region"),
        scene=part("scene", tensors), surface=tensors.get("surface"), painting=part("painting", tensors),
    )  # fmt: skip


def _taken_over(
    job: JobFolder, request: JobRequest, config: GenerateConfig, device: torch.device, tick: Tick
) -> tuple[dict[str, Tensor], Placement | None]:
    """What a job needs of the one that it continues: `scene.*`; `surface`, `painting.*` and `region` where there are any.

    With a region comes the placement of what stays. A mesh that has none lifts the earlier job's.
    """
    folder = Path(request.start_job)
    tensors, placement = _outcome(folder, config.field)
    if "shape" in config.stages:  # Which makes them anew.
        tensors = {k: v for k, v in tensors.items() if k.split(".")[0] not in ("surface", "painting")}
    if request.start_mesh:
        original = read_start_mesh(job.root / request.start_mesh)
        tensors.pop("region", None)
        if _has_region(original):
            start = StartingPoint("continue", request.strength, original, scene=part("scene", tensors))
            placement = placement or _placement_of_result(start, folder, config, device, tick)
            start = _sampled(
                _placed(start, placement), config.start.resolution, device, tick, has_shape=False
            )
            assert start.region is not None
            tensors["region"] = start.region
    return tensors, placement if "region" in tensors else None


def _outcome(folder: Path, config: FieldConfig) -> tuple[dict[str, Tensor], Placement | None]:
    """What a job has come to: the same of its first particle. What its own stages have not made, it had taken over.

    Raises RequestError where there is no shape, or one of another size than `config` has.
    """
    if not folder.is_dir():
        raise RequestError(f"The earlier job is gone ({folder}).", "Choose another result to continue.")
    store = CheckpointStore(JobFolder(folder).checkpoints)
    shape, taken_over = store.newest("shape"), store.newest(TAKEN_OVER)
    if shape is None:
        raise RequestError(
            f"The earlier job {folder.name} has no checkpoint of its shape.",
            "Choose a job that has made a shape, and whose checkpoints were not deleted.",
        )
    scene = {k: v for k, v in part("particle.0", shape.tensors).items() if "optimizer" not in k}
    _check_sizes(scene, config)
    tensors = {"region": scene["field.region"]} if "field.region" in scene else {}
    if taken_over is not None:
        tensors |= taken_over.tensors
    tensors = {k: v for k, v in tensors.items() if not k.startswith("scene.")}
    tensors |= {f"scene.{name}": tensor for name, tensor in scene.items()}
    surface, painting = store.newest("geometry"), store.newest("detail") or store.newest("texture")
    if surface is not None:
        tensors["surface"] = surface.tensors["surface.distances"]
    if painting is not None:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("painting.")}
        tensors |= {k: v for k, v in painting.tensors.items() if k.startswith("painting.")}
    return tensors, _earlier_placement(JobFolder(folder), taken_over) if "region" in tensors else None


def _check_sizes(scene: dict[str, Tensor], config: FieldConfig) -> None:
    for key, sizes in scene.items():
        if not (key.startswith("field.") and key.endswith("sizes")):
            continue
        for name, size in zip(FIELD_SIZES, sizes.tolist(), strict=True):
            if size != getattr(config, name):
                raise RequestError(
                    f"The earlier job's field has {name} {size}, this job's {getattr(config, name)}.",
                    "Use the prior and the settings of the earlier job, or start from its mesh as an object.",
                )


def _earlier_placement(job: JobFolder, taken_over: Checkpoint | None) -> Placement | None:
    """Where the world has the scene of a job of which only a region changed."""
    if taken_over is not None:
        return _kept_placement(taken_over)
    request = job.read_request()
    original = read_start_mesh(job.root / request.start_mesh)
    return _centred(original, resolve(request))


def _kept_placement(taken_over: Checkpoint) -> Placement | None:
    found = taken_over.meta["placement"]
    return None if found is None else Placement(found[0], tuple(found[1]), *found[2:])


def _placement_of_result(
    start: StartingPoint, folder: Path, config: GenerateConfig, device: torch.device, tick: Tick
) -> Placement:
    """Where the scene has the earlier job's mesh, whose base stands on the origin, to about a cell.

    Found by the bounding box of the refined surface, else of the field, so that the mesh may have been edited since.
    """
    if start.surface is not None:
        density, settings = uncolored(start.surface.to(device)).to(device).solidity, surface_settings(config)
    else:
        density, settings = start.make_fields(config.field, 0)[0].to(device).density, config.mesh
    resolution = config.start.resolution
    cell = 2 / resolution
    level = find_surface(density, settings, device=device, tick=tick)
    cells = (resolution, resolution, resolution)
    sigmas = sample_box(density, CUBE_LO, cells, cell, device=device, tick=tick)
    where = np.argwhere(whole_object(sigmas >= level.threshold, sigmas, cell, level, settings))
    low, high = where.min(0) * cell - 1, (where.max(0) + 1) * cell - 1
    try:
        with np.load(JobFolder(folder).result / "mesh.npz") as result:
            verts = result["verts"]
    except (OSError, ValueError, KeyError):
        verts = start.original["verts"]
    yaw_deg = written_yaw_deg(JobFolder(folder))
    verts = turned(verts, -yaw_deg)
    lowest, highest = verts.min(0), verts.max(0)
    base = np.array([*(lowest + highest)[:2] / 2, lowest[2]])
    scene_base = np.array([*(low + high)[:2] / 2, low[2]])
    placement = Placement.of_box(base, float(highest[2] - lowest[2]), scene_base, float(high[2] - low[2]))
    return replace(placement, yaw_deg=yaw_deg)
