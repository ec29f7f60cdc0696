"""From a field, or from a mesh and its colours, to the files of a textured mesh."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recdreamer.mesh.bake import Color, Shade, bake_color, field_shade
from recdreamer.mesh.export import write_mesh
from recdreamer.mesh.extract import cell_size, extract_mesh
from recdreamer.mesh.level import Density, find_surface
from recdreamer.mesh.mesh import Mesh, MeshConfig
from recdreamer.mesh.normals import NormalAt, bake_normal_map, level_set_normals, normal_map_size
from recdreamer.mesh.pack_rows import room_px
from recdreamer.mesh.quality import mesh_report
from recdreamer.mesh.uv import unwrap
from recdreamer.report import Tick, Warn, no_tick, no_warn
from recdreamer.shared.uv_map import bare_faces


@dataclass(frozen=True)
class FieldMesh:
    """The mesh of a field in scene units, and the field's colours and normals on it."""

    mesh: Mesh
    shade: Shade
    normal_at: NormalAt | None
    """None if no normal map is wanted."""
    facts: dict[str, Any]
    """Plain numbers about the level set, and the warnings."""


def mesh_of_field(
    density: Density,
    color: Color,
    config: MeshConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
    warn: Warn | None = None,
) -> FieldMesh:
    """Extract the mesh of a field. Raises JobError if the field contains no object.

    `density` (per scene unit) and `color` (sRGB in [0, 1]) are evaluated on `device` at points of the cube
    [-1, 1]^3. `tick` is called between chunks of work and may raise to cancel. Warnings are passed to `warn` and kept
    in the facts.
    """
    warnings: list[str] = []

    def note(message: str) -> None:
        warnings.append(message)
        if warn is not None:
            warn(message)

    level = find_surface(density, config, device=device, tick=tick, warn=note)
    mesh = extract_mesh(density, config, level=level, device=device, tick=tick, warn=note)
    cell = cell_size(level, config)
    return FieldMesh(
        mesh,
        field_shade(density, color, level.threshold, cell, seed),
        level_set_normals(density, level.threshold, cell) if config.normal_map else None,
        {
            "threshold": level.threshold,
            "agreement": level.agreement,
            "max_opacity": level.max_opacity,
            "density_percentiles": level.percentiles,
            "warnings": warnings,
        },
    )


def dress_mesh(
    mesh: Mesh,
    shade: Shade,
    normal_at: NormalAt | None,
    config: MeshConfig,
    folder: Path,
    *,
    place: Callable[[Mesh], Mesh],
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
    warn: Warn = no_warn,
) -> dict[str, Any]:
    """Give a mesh in scene units its textures, and write mesh.npz, the textures and model.glb into `folder`.

    Faces without UVs are unwrapped. `shade` gives colours; with `normal_at`, the normals of a finer surface are also
    baked. `place` moves the mesh to its final position after baking. Nothing is written before everything is computed.
    Returns a report of plain numbers and strings.
    """
    clock = time.perf_counter
    started, num_islands = clock(), None
    if mesh.uvs is None or bare_faces(mesh.uvs).any():
        tick()
        mesh, num_islands = unwrap(mesh, config, tick)
        if room_px(num_islands, config.texture_size_px) < 1:
            warn(
                f"The mesh has {num_islands:,} pieces that are not connected, more than a texture of "
                f"{config.texture_size_px} pixels has room for: their colors run into each other. Merge its vertices by "
                "distance, or give it a UV map."
            )
    unwrapped = clock()
    texture = bake_color(
        mesh,
        shade,
        texture_size_px=config.texture_size_px,
        bake_samples=config.bake_samples,
        seed=seed,
        device=device,
        tick=tick,
    )
    normal_map = None
    if normal_at is not None:
        normal_map = bake_normal_map(
            mesh, normal_at, texture_size_px=normal_map_size(config), device=device, tick=tick
        )
    baked = clock()
    placed = place(mesh)
    report = mesh_report(placed, texture)
    tick()
    files = write_mesh(folder, placed, texture.tiles, normal_map and normal_map.tiles)
    return {
        **report,
        "uv_islands": num_islands,
        "files": files,
        "seconds": {"unwrap": unwrapped - started, "bake": baked - unwrapped, "write": clock() - baked},
    }
