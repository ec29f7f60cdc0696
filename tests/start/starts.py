"""A figure that jobs start from, small jobs that do, and what is seen and pushed of their scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from recdreamer.cameras import orbit
from recdreamer.config import GenerateConfig, as_json
from recdreamer.device import step_generator
from recdreamer.models.radiance import Scene
from recdreamer.presets import resolve
from recdreamer.rendering import render
from recdreamer.shared.protocol import JobFolder, JobRequest, write_atomically
from recdreamer.start.prepare import prepare_start
from recdreamer.start.starting_point import StartingPoint

CPU = torch.device("cpu")
SMALL = {
    "start.resolution": 48, "optimize.num_steps": 40, "optimize.num_views": 4, "optimize.render_px": 32,
    "field.num_levels": 6, "field.log2_table_size": 13, "field.max_resolution": 48,
}  # fmt: skip


def figure() -> dict[str, np.ndarray]:
    """A body with a head and a long nose, in metres, away from the origin: a soup of three overlapping parts."""
    body = trimesh.creation.icosphere(3, 0.30)
    head = trimesh.creation.icosphere(3, 0.20).apply_translation((0, 0, 0.42))
    nose = trimesh.creation.box((0.10, 0.30, 0.10)).apply_translation((0, -0.25, 0.42))
    mesh = trimesh.util.concatenate([body, head, nose]).apply_translation((2.0, -1.0, 3.0))
    return {"verts": mesh.vertices.astype(np.float32), "faces": mesh.faces.astype(np.int32)}


def above(arrays: dict[str, np.ndarray], height: float) -> np.ndarray:
    """A region: the vertices above a height."""
    return (arrays["verts"][:, 2] > height).astype(np.float32)


def make_job(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes
) -> tuple[JobFolder, GenerateConfig]:
    folder.mkdir(parents=True, exist_ok=True)
    if arrays is not None:
        np.savez(folder / "start.npz", **arrays)
        changes = {"start": "object", "start_mesh": "start.npz"} | changes
    overrides = SMALL | changes.pop("overrides", {})
    request = JobRequest("a red bear", seed=3, device="cpu", overrides=overrides, **changes)
    write_atomically(folder / "job.json", request.to_json())
    config = resolve(request)
    write_atomically(folder / "config.json", json.dumps(as_json(config)))
    return JobFolder(folder), config


def start_of(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes
) -> tuple[StartingPoint, GenerateConfig]:
    job, config = make_job(folder, arrays, **changes)
    return prepare_start(job, config, CPU), config


def opacities(scene: Scene, size_px: int = 64) -> Tensor:
    cameras = orbit(4, scene.config.cameras, CPU)
    with torch.no_grad():
        return render(
            scene.field, scene.occupancy, cameras, size_px, size_px, torch.ones(4, 3), scene.config.render
        ).opacity[:, 0]


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


def push(scene: Scene, num_steps: int, color: tuple[float, float, float] | None) -> None:
    """Optimizer steps along a gradient that paints each pixel; None makes matter vanish instead."""
    for step in range(num_steps):
        generator = step_generator(0, step, CPU)
        rendering = scene.render(orbit(4, scene.config.cameras, CPU, 10.0 * step), step, generator)
        if color is None:
            latents = rendering.opacity
            grad = torch.ones_like(latents)
        else:
            latents = rendering.rgb
            grad = (latents - torch.tensor(color)[:, None, None]).detach()
        scene.descend(rendering, latents, grad, step, generator)
