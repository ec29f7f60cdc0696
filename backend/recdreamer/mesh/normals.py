"""Normal maps: the normals of a finer surface in the tangent frames of the mesh. OpenGL convention, +Y up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recdreamer.mesh.bake import bake_texels
from recdreamer.mesh.baked_texture import Texture, fill_padding
from recdreamer.mesh.level import Density, crossing_along
from recdreamer.mesh.mesh import Mesh, MeshConfig
from recdreamer.mesh.raster import Texels
from recdreamer.mesh.tangents import tangent_frames, to_tangent_space
from recdreamer.report import Tick, no_tick

NormalAt = Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""Unit normals of the fine surface near points of the mesh, whose own unit normals come second."""

BISECTIONS = 5
REACH_CELLS = 2.0
TEXELS_PER_CELL = 8
"""Texels per cell of the object's longest side. About half of a texture is used, and a surface is longer than its
object, so that a surface cell gets two to four texels."""


def normal_map_size(config: MeshConfig) -> int:
    """Side of the normal map in pixels: the texture's, or a smaller power of two if more texels could not resolve more,
    because normals are differences over half a cell of the level set.

    >>> normal_map_size(MeshConfig(resolution=100, texture_size_px=4096))  # the power of two from 8 · 100 on
    1024
    """
    enough = 1 << (TEXELS_PER_CELL * config.resolution - 1).bit_length()
    return min(config.texture_size_px, enough)


def bake_normal_map(
    mesh: Mesh,
    normal_at: NormalAt,
    *,
    texture_size_px: int,
    bake_samples: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Texture:
    """Tangent-space normal map: non-colour data, 128 is 0 and 255 is 1; (128, 128, 255) leaves the mesh's normal.

    The frames are those of MikkTSpace, so that Blender and glTF viewers recover the fine normals from the map.
    """
    frames = tangent_frames(mesh)
    normals, tangents, signs = (
        torch.from_numpy(values).float().to(device)
        for values in (frames.normals, frames.tangents, frames.signs)
    )

    def value_at(texels: Texels) -> Float[Tensor, "points 3"]:
        fine = normal_at(texels.points, texels.normals).to(texels.points.dtype)
        return to_tangent_space(
            fine,
            torch.einsum("nc,ncd->nd", texels.weights, normals[texels.faces]),
            torch.einsum("nc,ncd->nd", texels.weights, tangents[texels.faces]),
            signs[texels.faces],
        )

    texture = bake_texels(
        mesh,
        value_at,
        encode_normals,
        texture_size_px=texture_size_px,
        bake_samples=bake_samples,
        seed=seed,
        device=device,
        tick=tick,
    )
    return fill_padding(texture)


def encode_normals(normals: Float[Tensor, "points 3"]) -> UInt8[Tensor, "points 3"]:
    """Bytes of tangent-space directions of any length: 128 is 0, 255 is 1, 1 is -1.

    >>> encode_normals(torch.tensor([[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0]])).tolist()
    [[128, 128, 255], [1, 128, 128]]
    """
    normals = torch.nn.functional.normalize(normals, dim=1)
    return (normals * 127 + 128).round().clamp(0, 255).to(torch.uint8)


def level_set_normals(density: Density, threshold: float, cell_size: float) -> NormalAt:
    """Normals of a density field's level set: the direction of falling density, by central differences of half a cell.

    Evaluated where the level set crosses the mesh's normal within two cells. The mesh's normal is kept if there is no
    crossing, or if the field is constant there or its normal points away from the mesh's.
    """

    def normal_at(
        points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        with torch.no_grad():
            offsets, crosses = crossing_along(
                density, threshold, points, normals, REACH_CELLS * cell_size, BISECTIONS
            )
            surface = points + offsets[:, None] * normals
            gradient = torch.empty_like(points)
            for axis in range(3):
                step = torch.zeros(3, device=points.device, dtype=points.dtype)
                step[axis] = cell_size / 2
                gradient[:, axis] = (density(surface - step) - density(surface + step)).to(points.dtype)
            length = gradient.norm(dim=1, keepdim=True)
            fine = gradient / length.clamp(min=1e-20)
            is_defined = crosses & (length[:, 0] > 1e-4 * threshold) & ((fine * normals).sum(1) > 0)
            return torch.where(is_defined[:, None], fine, normals)

    return normal_at
