"""The outcome of an earlier job, for a job that continues it."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recdreamer.config import GenerateConfig, surface_settings
from recdreamer.field.radiance_field import FIELD_SIZES, FieldConfig
from recdreamer.job.checkpoint import Checkpoint, CheckpointStore
from recdreamer.mesh.level import CUBE_LO, find_surface, sample_box
from recdreamer.mesh.mesh import turned
from recdreamer.mesh.solid_cells import whole_object
from recdreamer.named_tensors import part
from recdreamer.presets import resolve
from recdreamer.report import Tick
from recdreamer.sdf.distance_grid import uncolored
from recdreamer.shared.protocol import JobFolder, JobRequest, RequestError
from recdreamer.shared.safe_files import MAX_JSON_BYTES, confined, read_bounded, read_npz
from recdreamer.start.mesh_file import Placement, checked, read_start_mesh
from recdreamer.start.starting_point import StartingPoint, centred, has_region, in_scene, sampled

TAKEN_OVER = "start"
"""Name of the checkpoint with the tensors taken from the earlier job, so that the earlier job may be deleted."""


def continued(
    job: JobFolder, request: JobRequest, config: GenerateConfig, device: torch.device, tick: Tick
) -> StartingPoint:
    """The start from an earlier job, read from this job's own folder, where the first run has saved it."""
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
    """The tensors taken from an earlier job: `scene.*`; `surface`, `painting.*` and `region` if there are any.

    If there is a region, the placement of the fixed part is returned as well. A new mesh without a region clears the
    earlier one.
    """
    folder = Path(request.start_job)
    if folder.resolve() == job.root.resolve():
        raise RequestError("The job continues itself.", "Choose an earlier result to continue.")
    tensors, placement = _outcome(folder, config.field)
    if "shape" in config.stages:  # Which makes new ones.
        tensors = {k: v for k, v in tensors.items() if k.split(".")[0] not in ("surface", "painting")}
    if request.start_mesh:
        original = read_start_mesh(confined(job.root, request.start_mesh))
        tensors.pop("region", None)
        if has_region(original):
            start = StartingPoint("continue", request.strength, original, scene=part("scene", tensors))
            placement = placement or _placement_of_result(start, folder, config, device, tick)
            start = sampled(
                in_scene(start, placement), config.start.resolution, device, tick, has_shape=False
            )
            assert start.region is not None
            tensors["region"] = start.region
    return tensors, placement if "region" in tensors else None


def _outcome(folder: Path, config: FieldConfig) -> tuple[dict[str, Tensor], Placement | None]:
    """The final tensors of a job's first particle; what its stages did not make comes from the job that it continued.

    Raises RequestError if there is no shape, or if its size is not that of `config`.
    """
    if not folder.is_dir():
        raise RequestError(f"The earlier job is gone ({folder}).", "Choose another result to continue.")
    JobFolder(folder).check()
    store = CheckpointStore(JobFolder(folder).checkpoints)
    shape, taken_over = store.newest("shape"), store.newest(TAKEN_OVER)
    if shape is None:
        raise RequestError(
            f"The earlier job {folder.name} has no checkpoint of its shape.",
            "Choose a job that has made a shape and still has its checkpoints.",
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
    """The placement of a job of which only a region changed."""
    if taken_over is not None:
        return _kept_placement(taken_over)
    request = job.read_request()
    original = read_start_mesh(confined(job.root, request.start_mesh))
    return centred(original, resolve(request))


def _kept_placement(taken_over: Checkpoint) -> Placement | None:
    found = taken_over.meta["placement"]
    return None if found is None else Placement(found[0], tuple(found[1]), *found[2:])


def _placement_of_result(
    start: StartingPoint, folder: Path, config: GenerateConfig, device: torch.device, tick: Tick
) -> Placement:
    """The placement of an earlier job's mesh, whose base stands on the origin; accurate to about a cell.

    It is found by the bounding box of the refined surface or of the field, as the mesh may have been edited since.
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
        verts = checked(read_npz(JobFolder(folder).result / "mesh.npz", ("verts", "faces")))["verts"]
    except RequestError:
        verts = start.original["verts"]
    yaw_deg = written_yaw_deg(JobFolder(folder))
    verts = turned(verts, -yaw_deg)
    lowest, highest = verts.min(0), verts.max(0)
    base = np.array([*(lowest + highest)[:2] / 2, lowest[2]])
    scene_base = np.array([*(low + high)[:2] / 2, low[2]])
    placement = Placement.of_box(base, float(highest[2] - lowest[2]), scene_base, float(high[2] - low[2]))
    return replace(placement, yaw_deg=yaw_deg)


def written_yaw_deg(job: JobFolder) -> float:
    """The angle by which a job's first mesh was turned when it was written; 0 if it was not turned or not written."""
    try:
        text = read_bounded(confined(job.root, f"{job.result.name}/report.json"), MAX_JSON_BYTES)
        yaw_deg = float(json.loads(text)["meshes"][0]["yaw_deg"])
        return yaw_deg if math.isfinite(yaw_deg) else 0.0
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError):
        return 0.0
