"""Prepare the starting point of a job from its request."""

from __future__ import annotations

import torch

from recdreamer.config import GenerateConfig
from recdreamer.report import Tick, Warn, no_tick, no_warn
from recdreamer.shared.protocol import JobFolder, RequestError
from recdreamer.shared.safe_files import confined
from recdreamer.shared.start_check import check_size, check_start
from recdreamer.start.earlier_job import continued
from recdreamer.start.mesh_file import read_start_mesh, start_notes
from recdreamer.start.starting_point import (
    FROM_PROMPT,
    StartingPoint,
    centred,
    in_scene,
    sampled,
)  # fmt: skip


def prepare_start(
    job: JobFolder,
    config: GenerateConfig,
    device: torch.device,
    tick: Tick = no_tick,
    warn: Warn = no_warn,
) -> StartingPoint:
    """The starting point of a job.

    A job that continues one with a region keeps that region, unless it brings a mesh, whose region replaces it. Raises
    RequestError with one sentence where the mesh or the earlier job cannot be used; `tick` is called between chunks
    of work, and may raise. `warn` gets what was changed of the mesh, and what will be.
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
    path = confined(job.root, request.start_mesh)
    original = read_start_mesh(path)
    first = config.texture if request.start == "texture" else config.optimize
    sizes = check_size(original, request.start, first.render_px, config.height_m, config.start.half_size)
    for line in (*start_notes(path), *check_start(original, request.start), *sizes):
        warn(line)
    start = in_scene(StartingPoint(request.start, request.strength, original), centred(original, config))
    if request.start == "texture" and "region" not in original:
        return start
    return sampled(start, config.start.resolution, device, tick, has_shape=True)
