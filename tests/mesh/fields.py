"""Fields with a known surface, a texture lookup and a count of handles, for the tests of the mesh part."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recdreamer.mesh import Mesh, MeshConfig, bake_color, dress_mesh, mesh_of_field, stand_on_origin
from recdreamer.mesh.bake import field_shade
from recdreamer.report import Tick, Warn, no_tick

SMALL = MeshConfig(resolution=64, target_faces=3000, texture_size_px=256)


def ball(radius: float, center=(0.0, 0.0, 0.0), sigma: float = 80.0, softness: float = 0.01) -> Callable:
    """Density of a ball whose level set at half of `sigma` has the given radius."""

    def density(xyz: torch.Tensor) -> torch.Tensor:
        distance = (xyz - torch.tensor(center, dtype=xyz.dtype)).norm(dim=-1)
        return sigma * torch.sigmoid((radius - distance) / softness)

    return density


def position_color(xyz: torch.Tensor) -> torch.Tensor:
    """A colour that names the place: the cube [-1, 1]^3 mapped to RGB."""
    return (xyz / 2 + 0.5).clamp(0, 1)


def sample_bilinear(texture: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Bilinear lookup as a GPU does it, in [0, 1]; written apart from the baker on purpose."""
    size = len(texture)
    x, y = uvs[:, 0] * size - 0.5, (1 - uvs[:, 1]) * size - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return texture[row.clip(0, size - 1), column.clip(0, size - 1)] / 255.0

    top = at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx
    bottom = at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy


def nose_field(xyz: torch.Tensor) -> torch.Tensor:
    """A head with a nose that points to -Y, above the middle and to the right (+X)."""
    return torch.maximum(ball(0.5)(xyz), ball(0.15, (0.1, -0.55, 0.2))(xyz))


def euler_characteristic(mesh: Mesh) -> int:
    """Vertices - edges + faces: 2 for each sphere-like part, minus 2 for each handle."""
    ends = np.stack([mesh.faces, np.roll(mesh.faces, -1, axis=1)], -1).reshape(-1, 2)
    num_edges = len(np.unique(np.sort(ends, axis=1), axis=0))
    return len(np.unique(mesh.faces)) - num_edges + len(mesh.faces)


def finish_mesh(
    density: Callable,
    color: Callable,
    config: MeshConfig,
    height_m: float,
    folder: Path,
    *,
    tick: Tick = no_tick,
    warn: Warn | None = None,
) -> dict[str, Any]:
    """From a field to files in one go, as a job does it in two steps."""
    found = mesh_of_field(density, color, config, tick=tick, warn=warn)
    place = partial(stand_on_origin, height_m=height_m)
    report = dress_mesh(found.mesh, found.shade, found.normal_at, config, folder, place=place, tick=tick)
    return found.facts | report


def bake_texture(
    mesh: Mesh,
    density: Callable,
    color: Callable,
    *,
    texture_size_px: int,
    threshold: float,
    cell_size: float,
    seed: int = 0,
    **options: object,
) -> tuple[np.ndarray, float]:
    """The base colour of a field on a mesh with one UV tile, and the islands' share of it."""
    shade = field_shade(density, color, threshold, cell_size, seed)
    texture = bake_color(mesh, shade, texture_size_px=texture_size_px, seed=seed, **options)
    (image,) = texture.tiles.values()
    return image, texture.coverage
