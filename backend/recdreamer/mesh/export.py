"""The result files: mesh.npz and albedo.png for Blender, model.glb for everyone else."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from recdreamer.mesh.bake import Color, bake_texture
from recdreamer.mesh.extract import cell_size, extract_mesh
from recdreamer.mesh.gltf import glb_bytes
from recdreamer.mesh.mesh import Mesh, MeshConfig, is_watertight
from recdreamer.mesh.surface import Density, Tick, Warn, find_surface, no_tick
from recdreamer.mesh.uv import unwrap
from recdreamer.protocol import write_atomically


def finish_mesh(
    density: Density,
    color: Color,
    config: MeshConfig,
    height_m: float,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick | None = None,
    warn: Warn | None = None,
) -> dict[str, Any]:
    """Make the textured mesh of a field and write mesh.npz, albedo.png and model.glb into `folder`.

    `density` (per scene unit) and `color` (sRGB in [0, 1]) are asked on `device` at points of the cube
    [-1, 1]^3. The written mesh is `height_m` metres high, stands with the centre of its base on the
    origin, is Z-up and looks to -Y. `tick` is called between chunks of work and may raise to cancel;
    nothing is written before everything is made. Raises JobError where the field holds no object.

    Returns a report of plain numbers and strings; the warnings in it were also passed to `warn`.
    """
    tick = tick or no_tick
    warnings: list[str] = []

    def note(message: str) -> None:
        warnings.append(message)
        if warn is not None:
            warn(message)

    clock = time.perf_counter
    started = clock()
    level = find_surface(density, config, device=device, tick=tick, warn=note)
    mesh = extract_mesh(density, config, level=level, device=device, tick=tick, warn=note)
    extracted = clock()
    tick()
    mesh, num_islands = unwrap(mesh, config)
    unwrapped = clock()
    texture, texture_use = bake_texture(
        mesh,
        density,
        color,
        texture_size_px=config.texture_size_px,
        threshold=level.threshold,
        cell_size=cell_size(level, config),
        bake_samples=config.bake_samples,
        seed=seed,
        device=device,
        tick=tick,
    )
    baked = clock()
    placed = stand_on_origin(mesh, height_m)
    png = png_bytes(texture)
    files = {"mesh.npz": npz_bytes(placed), "albedo.png": png, "model.glb": glb_bytes(placed, png)}
    tick()
    for name, data in files.items():
        write_atomically(folder / name, data)
    return {
        "threshold": level.threshold,
        "agreement": level.agreement,
        "max_opacity": level.max_opacity,
        "density_percentiles": level.percentiles,
        "verts": len(placed.verts),
        "faces": len(placed.faces),
        "is_watertight": is_watertight(placed),
        "size_m": np.ptp(placed.verts, axis=0).tolist(),
        "uv_islands": num_islands,
        "texture_size_px": config.texture_size_px,
        "texture_use": texture_use,
        "warnings": warnings,
        "seconds": {
            "extract": extracted - started,
            "unwrap": unwrapped - extracted,
            "bake": baked - unwrapped,
            "write": clock() - baked,
        },
    }


def stand_on_origin(mesh: Mesh, height_m: float) -> Mesh:
    """Mesh in metres, `height_m` high, the centre of its base at the origin."""
    if not height_m > 0:
        raise ValueError(f"height_m is {height_m}; the object needs a height above 0 metres.")
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    base = np.array([(lo[0] + hi[0]) / 2, (lo[1] + hi[1]) / 2, lo[2]], np.float32)
    scale = np.float32(height_m / (hi[2] - lo[2]))
    return Mesh((mesh.verts - base) * scale, mesh.faces, mesh.uvs)


def npz_bytes(mesh: Mesh) -> bytes:
    """`verts`, `faces` and per-corner `uvs` as plain arrays; any numpy reads them without pickle."""
    stream = io.BytesIO()
    np.savez(
        stream,
        verts=mesh.verts.astype(np.float32),
        faces=mesh.faces.astype(np.int32),
        uvs=mesh.uvs_or_error().astype(np.float32),
    )
    return stream.getvalue()


def png_bytes(texture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, "PNG")
    return stream.getvalue()
