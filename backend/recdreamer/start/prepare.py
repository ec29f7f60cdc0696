"""Prepare the starting point of a job from its request."""

from __future__ import annotations

import numpy as np
import torch

from recdreamer.config import GenerateConfig
from recdreamer.mesh.raster import tiles_of_faces
from recdreamer.protocol import JobFolder, RequestError
from recdreamer.report import Tick, no_tick
from recdreamer.start.earlier_job import continued
from recdreamer.start.mesh_file import read_start_mesh
from recdreamer.start.starting_point import FROM_PROMPT, StartingPoint, centred, in_scene, sampled


def prepare_start(
    job: JobFolder, config: GenerateConfig, device: torch.device, tick: Tick = no_tick
) -> StartingPoint:
    """The starting point of a job.

    A job that continues one with a region keeps that region, unless it brings a mesh, whose region replaces it. Raises
    RequestError with one sentence where the mesh or the earlier job cannot be used; `tick` is called between chunks
    of work, and may raise.
    """
    request = job.read_request()
    if request.start == "prompt":
        if request.start_mesh:
            raise RequestError(
                "A mesh is given, but the job starts from the prompt alone.",
                "Start from the object or from an earlier result, or leave the mesh out.",
            )
        return FROM_PROMPT
    if request.start == "continue":
        return continued(job, request, config, device, tick)
    original = read_start_mesh(job.root / request.start_mesh)
    start = in_scene(StartingPoint(request.start, request.strength, original), centred(original, config))
    if request.start == "texture":
        _check_uvs(original)
        if "region" not in original:
            return start
    return sampled(start, config.start.resolution, device, tick, has_shape=True)


def _check_uvs(original: dict[str, np.ndarray]) -> None:
    """Raises RequestError early if these UVs cannot be painted."""
    if "uvs" not in original:
        return
    try:
        tiles_of_faces(original["uvs"])
    except ValueError as error:
        raise RequestError(str(error), "Or remove the UV map to have a new one made.") from error
