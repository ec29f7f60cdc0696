"""Prepare the starting point of a job from its request."""

from __future__ import annotations

import numpy as np
import torch

from recdreamer.config import GenerateConfig
from recdreamer.report import Tick, Warn, no_tick, no_warn
from recdreamer.shared.protocol import JobFolder, RequestError
from recdreamer.shared.safe_files import confined
from recdreamer.start.earlier_job import continued
from recdreamer.start.mesh_file import check_start, read_start_mesh, start_notes
from recdreamer.start.starting_point import (
    FROM_PROMPT,
    StartingPoint,
    centred,
    has_region,
    in_scene,
    sampled,
)  # fmt: skip

SAME_SIZE = 0.01
"""Relative difference of heights that nobody sees."""


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
    for line in (*start_notes(path), *check_start(original, request.start)):
        warn(line)
    start = in_scene(StartingPoint(request.start, request.strength, original), centred(original, config))
    if doubt := thinness(start, config):
        warn(doubt)
    if request.start == "texture":
        if "region" not in original:
            return start
    elif doubt := scaling(start, config.height_m):
        warn(doubt)
    return sampled(start, config.start.resolution, device, tick, has_shape=True, warn=warn)


def thinness(start: StartingPoint, config: GenerateConfig) -> str:
    """Whether an object is so thin from every side that most views miss it; empty if it is not."""
    assert start.mesh is not None and start.placement is not None
    _, width, length = sorted(np.ptp(start.mesh.verts, axis=0).tolist())
    views = config.texture if start.is_only_painted else config.optimize
    if width >= 2 / views.render_px:
        return ""
    metre = start.placement.scale
    return (
        f"The object is {length / metre:.3g} m long but only {width / metre:.3g} m wide, less than a pixel of the "
        f"{views.render_px} that the model sees: hardly any of it is seen. Thicken it, or make a part of it alone."
    )


def scaling(start: StartingPoint, height_m: float) -> str:
    """How the result's size differs from that of the object that it starts from; empty if it does not."""
    assert start.mesh is not None and start.placement is not None
    if start.fixed_placement is not None or has_region(start.original):
        return ""
    width, depth, height = (np.ptp(start.mesh.verts, axis=0) / start.placement.scale).tolist()
    if start.is_flat:
        return (
            f"The object is flat, {width:.3g} × {depth:.3g} × {height:.3g} m: it keeps its size, and the height of "
            f"{height_m:.3g} m is not used."
        )
    if abs(height_m / height - 1) < SAME_SIZE:
        return ""
    return f"The object is {height:.3g} m high, and its result will be {height_m:.3g} m high."
