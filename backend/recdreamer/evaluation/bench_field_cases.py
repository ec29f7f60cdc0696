"""The cases of `recdreamer bench field`, each as a function without arguments.

Run as a script, this file times the version of the package on its path, case by case as requested on standard input. This
is how another version takes part, so the top of the file imports only modules that earlier versions also have.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import camera_rays, sample_cameras
from recdreamer.field import OccupancyConfig, OccupancyGrid, RadianceField, set_backend
from recdreamer.field.hash_grid import HashGrid
from recdreamer.mesh.mesh import Mesh
from recdreamer.presets import EMBEDDED_CAMERAS, EMBEDDED_FIELD
from recdreamer.rendering import RenderConfig, render
from recdreamer.rendering.composite import composite
from recdreamer.rendering.march import march

Case = dict[str, Any]
"""The part to time and its settings, as plain JSON."""
Repetition = Callable[[], object]

NUM_VIEWS = 4
MAX_PAIRS = 1 << 25
"""Limit of rays times faces for the reference, which tests all pairs."""
PAIRS_AT_ONCE = 1 << 22
MAX_CPU_PX = 64
MAX_REFERENCE_PX = 16
TURN_MS = 30.0
"""Several time slices of a busy machine, so that cases of one millisecond do not depend on luck."""
MIDDLE_OF_A_RUN = replace(EMBEDDED_FIELD, blob_density=60.0, blob_radius=0.65)
"""A solid body that fills about as much of the cube as a figure does."""


def prepare(case: Case, backend: str, device: torch.device) -> Repetition:
    """One repetition of a case. Everything is set up, and it ran once, so that the kernels are compiled.

    Raises ValueError if the case is too large.
    """
    settings = dict(case)
    part: Callable[..., Repetition] = PARTS[settings.pop("part")]
    run = part(device, backend, **settings)

    def once() -> None:
        set_backend("torch" if backend == "torch" else "warp")
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()

    once()
    return once


def milliseconds(run: Repetition) -> float:
    """Time of one repetition: the mean over as many as fit into TURN_MS, at least one."""
    started, count, passed_ms = time.perf_counter(), 0, 0.0
    while passed_ms < TURN_MS:
        run()
        count += 1
        passed_ms = 1e3 * (time.perf_counter() - started)
    return passed_ms / count


def hash_grid(
    device: torch.device, backend: str, points: int, levels: int, log2_table_size: int, base: int, finest: int
) -> Repetition:
    """Forward, and backward to the table, at random points."""
    generator = torch.Generator().manual_seed(0)
    grid = HashGrid(levels, 2, log2_table_size, base, finest, generator).to(device)
    xyz = (2 * torch.rand(points, 3, generator=generator) - 1).to(device)
    upstream = torch.randn(points, grid.num_features, generator=generator).to(device)
    return lambda: torch.autograd.grad(grid(xyz), grid.table, upstream)


def march_rays(device: torch.device, backend: str, size_px: int, step_size: float) -> Repetition:
    _, occupancy = _scene(device)
    rays = _rays(device, size_px)
    return lambda: _march(rays, occupancy, step_size)


def composite_rays(device: torch.device, backend: str, size_px: int, step_size: float) -> Repetition:
    """Forward and backward."""
    field, occupancy = _scene(device)
    samples, _ = _march(_rays(device, size_px), occupancy, step_size)
    with torch.no_grad():
        sigmas, rgbs = field(samples.xyz)
    sigmas, rgbs = sigmas.requires_grad_(), rgbs.requires_grad_()
    upstream = torch.rand(len(samples.counts), 3, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: torch.autograd.grad(composite(sigmas, rgbs, samples)[1], (sigmas, rgbs), upstream)


def picture(device: torch.device, backend: str, size_px: int, step_size: float) -> Repetition:
    """Whole pictures, forward and backward: march, grid, network, composite."""
    field, occupancy = _scene(device)
    cameras = _cameras(device)
    ground = torch.full((NUM_VIEWS, 3), 0.5, device=device)
    weights = list(field.parameters())

    def run() -> object:
        rgb = render(
            field, occupancy, cameras, size_px, size_px, ground, RenderConfig(step_size=step_size)
        ).rgb
        return torch.autograd.grad(rgb.sum(), weights)

    return run


def ray_cast(device: torch.device, backend: str, faces: int, size_px: int) -> Repetition:
    """The first face that each ray of the pictures hits; the tree is built beforehand."""
    from recdreamer.rendering.ray_cast import MeshCaster

    rays_o, rays_d = _rays(device, size_px)
    if backend == "torch" and len(rays_o) * faces > MAX_PAIRS:
        raise ValueError(f"{len(rays_o)} rays with {faces} faces are too many for the reference.")
    mesh = bumpy_ball(faces)
    caster = MeshCaster(mesh.verts, mesh.faces, device)
    if backend == "torch":
        return lambda: cast_reference(caster.verts, caster.faces, rays_o, rays_d)
    return lambda: caster.cast(rays_o, rays_d)


def cast_reference(
    verts: Float[Tensor, "verts 3"],
    faces: Int[Tensor, "faces 3"],
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
) -> tuple[Int[Tensor, "rays"], Float[Tensor, "rays 3"], Float[Tensor, "rays"]]:
    """`MeshCaster.cast` in plain torch: every ray with every face (Möller and Trumbore 1997); inf for a miss."""
    first, second, third = verts[faces.long()].unbind(1)
    edge_1, edge_2 = second - first, third - first
    found = []
    for origins, directions in zip(
        rays_o.split(PAIRS_AT_ONCE // len(faces) + 1),
        rays_d.split(PAIRS_AT_ONCE // len(faces) + 1),
        strict=True,
    ):
        across = torch.linalg.cross(directions[:, None], edge_2[None])
        determinant = (edge_1 * across).sum(-1)
        inverse = 1 / torch.where(determinant.abs() < 1e-12, torch.inf, determinant)
        offsets = origins[:, None] - first
        u = (offsets * across).sum(-1) * inverse
        around = torch.linalg.cross(offsets, edge_1[None].expand_as(offsets))
        v = (directions[:, None] * around).sum(-1) * inverse
        t = (edge_2 * around).sum(-1) * inverse
        is_hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (determinant.abs() >= 1e-12)
        distances, face = torch.where(is_hit, t, torch.inf).min(dim=1)
        u, v = (values.gather(1, face[:, None])[:, 0] for values in (u, v))
        missed = distances.isinf()
        barycentrics = torch.stack([1 - u - v, u, v], 1).masked_fill(missed[:, None], 0.0)
        found.append((face.int().masked_fill(missed, -1), barycentrics, distances))
    face, barycentrics, distances = (torch.cat(values) for values in zip(*found, strict=True))
    return face, barycentrics, distances


def bake(device: torch.device, backend: str, faces: int, texture_size_px: int) -> Repetition:
    """The texture of a mesh from the colours of a field."""
    from recdreamer.mesh.bake import bake_color, field_shade

    field, _ = _scene(device)
    mesh = bumpy_ball(faces)
    shade = field_shade(field.density, lambda xyz: field(xyz)[1], 10.0, 0.02)
    return lambda: bake_color(mesh, shade, texture_size_px=texture_size_px, device=device)


def scene_step(device: torch.device, backend: str, size_px: int) -> Repetition:
    """One view, moved along a constant gradient on its pixels. All rates are zero, so that the field stays the same."""
    if backend == "torch" and size_px > MAX_REFERENCE_PX:
        raise ValueError("The reference takes minutes for a step.")
    scene, grad = _training(device, size_px)
    return _steps(scene, scene, grad)


def recorded_step(device: torch.device, backend: str, size_px: int) -> Repetition:
    """The same as CUDA graphs, one up to the picture and one from its gradient on."""
    from recdreamer.graphs import CudaGraph
    from recdreamer.models.recorded_scene import RecordedScene

    if device.type != "cuda" or backend != "warp":
        raise ValueError("Only Warp's kernels can be recorded, on a GPU.")
    scene, grad = _training(device, size_px)

    def give_up(error: RuntimeError) -> None:
        raise error

    return _steps(scene, RecordedScene(scene, CudaGraph, give_up), grad)


def _steps(scene: Any, theta: Any, grad: Tensor) -> Repetition:
    """Steps of a scene, or of a recording of it."""
    generator, number = torch.Generator(scene.device), itertools.count()

    def run() -> None:
        step = next(number)
        cameras = sample_cameras(scene.config.cameras, 1, generator.manual_seed(step), scene.device)
        rendering = theta.render(cameras, step, generator)
        theta.descend(rendering, rendering.rgb, grad, step, generator)

    # Until the buffers have the size that these views need.
    for _ in range(2 * scene.config.occupancy.interval + 3 if scene.device.type == "cuda" else 0):
        run()
    return run


def _training(device: torch.device, size_px: int) -> tuple[Any, Tensor]:
    from recdreamer.models.radiance import Scene
    from recdreamer.presets import resolve
    from recdreamer.shared.protocol import JobRequest

    if device.type == "cpu" and size_px > MAX_CPU_PX:
        raise ValueError(f"A step of more than {MAX_CPU_PX} pixels takes minutes on a CPU.")
    rates = {f"optimize.{part}_learning_rate": 0.0 for part in ("grid", "network")}
    overrides = {"optimize.render_px": size_px, **rates}
    scene = Scene(resolve(JobRequest("x", prior="any Stable Diffusion", overrides=overrides)), device)
    grad = torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    return scene, (0.01 * grad).to(device)


PARTS = {
    "hash grid": hash_grid,
    "march": march_rays,
    "composite": composite_rays,
    "picture": picture,
    "ray cast": ray_cast,
    "bake": bake,
    "step": scene_step,
    "recorded step": recorded_step,
}


def bumpy_ball(faces: int) -> Mesh:
    """A ball of about `faces` triangles in rows and columns, without its poles, with one UV island."""
    rows = max(4, round(math.sqrt(faces / 4)))
    columns = 2 * rows
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    polar, around = np.pi * (0.05 + 0.9 * v), 2 * np.pi * u
    radius = 0.6 + 0.05 * np.sin(9 * polar) * np.sin(8 * around)
    verts = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), -np.cos(polar)], -1)
    corner = np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)
    right, above, across = corner + 1, corner + columns + 1, corner + columns + 2
    triangles = np.stack([corner, right, across, corner, across, above], -1).reshape(-1, 3)
    uvs = (0.02 + 0.96 * np.stack([u, v], -1)).reshape(-1, 2).astype(np.float32)
    verts = (radius[..., None] * verts).reshape(-1, 3).astype(np.float32)
    return Mesh(verts, triangles.astype(np.int32), uvs[triangles])


def _scene(device: torch.device) -> tuple[RadianceField, OccupancyGrid]:
    """A solid body as in the middle of a run, and its occupancy."""
    field = RadianceField(MIDDLE_OF_A_RUN, 0).to(device)
    occupancy, generator = OccupancyGrid(OccupancyConfig()).to(device), torch.Generator().manual_seed(0)
    for _ in range(4):
        occupancy.update(field, 0, generator)
    return field, occupancy


def _cameras(device: torch.device) -> Any:
    return sample_cameras(EMBEDDED_CAMERAS, NUM_VIEWS, torch.Generator().manual_seed(0), device)


def _rays(device: torch.device, size_px: int) -> tuple[Tensor, Tensor]:
    rays_o, rays_d = camera_rays(_cameras(device), size_px, size_px)
    return rays_o.reshape(-1, 3).contiguous(), rays_d.reshape(-1, 3).contiguous()


def _march(rays: tuple[Tensor, Tensor], occupancy: OccupancyGrid, step_size: float) -> Any:
    shifts = torch.full_like(rays[0][:, 0], 0.5)
    begins = torch.zeros_like(shifts, dtype=torch.int32)
    return march(*rays, occupancy, step_size, shifts, begins, 200)


def serve() -> None:
    """Answer each line of standard input with a line: {"case", "backend", "device", "threads"} prepares, {} runs."""
    # Keep the prints of libraries out of the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    run: Repetition | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "case" in asked:
                torch.set_num_threads(asked["threads"])
                run = prepare(asked["case"], asked["backend"], torch.device(asked["device"]))
                answer: dict[str, Any] = {}
            else:
                assert run is not None
                answer = {"ms": milliseconds(run)}
        except Exception as error:  # Another version may fail in any way; the comparison goes on.
            answer = {"cannot": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
