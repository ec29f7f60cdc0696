"""Texture baking: evaluates values at the surface points of the texels of UV islands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recdreamer.mesh.baked_texture import Texture, fill_padding
from recdreamer.mesh.level import Density, refuse_non_finite
from recdreamer.mesh.mesh import Mesh, vertex_normals
from recdreamer.mesh.raster import TexelPoints, Texels, rasterize_uvs, tiles_of_faces, uvs_in_tile
from recdreamer.mesh.seams import level_seams
from recdreamer.report import Tick, no_tick

Color = Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""sRGB colour in [0, 1] at points of the scene cube."""
Shade = Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""sRGB colour in [0, 1] at points of the surface, whose outward unit normals come second."""

CHUNK_TEXELS = 1 << 16
RAY_SAMPLES = 8


def bake_color(
    mesh: Mesh,
    shade: Shade,
    *,
    texture_size_px: int,
    bake_samples: int = 2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Texture:
    """sRGB base colour of a mesh with UVs, in the mesh's own units; one image per UV tile in use.

    Both sides of every UV seam agree (see `level_seams`). Texels outside the islands take the nearest colour.
    """
    texture = bake_texels(
        mesh,
        lambda texels: shade(texels.points, texels.normals),
        encode_colors,
        texture_size_px=texture_size_px,
        bake_samples=bake_samples,
        seed=seed,
        device=device,
        tick=tick,
    )
    tick()
    return fill_padding(level_seams(mesh, texture))


def field_shade(density: Density, color: Color, threshold: float, cell_size: float, seed: int = 0) -> Shade:
    """Shade of a radiance field: its colour, composited along short inward rays (`composite_inward`)."""
    # Drawn on the CPU: the same texture on every device.
    generator = torch.Generator().manual_seed(seed)

    def shade(
        points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        offsets = torch.rand(len(points), generator=generator).to(points.device)
        return composite_inward(points, normals, offsets, density, color, threshold, cell_size)

    return shade


def bake_texels(
    mesh: Mesh,
    value_at: Callable[[Texels], Float[Tensor, "points 3"]],
    encode: Callable[[Float[Tensor, "points 3"]], UInt8[Tensor, "points 3"]],
    *,
    texture_size_px: int,
    bake_samples: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Texture:
    """Values of the islands' texels, each the mean of `bake_samples` points in it; zero elsewhere.

    A single point is the texel's centre, several are random in its area.
    Memory grows by five bytes per texel, independent of the precision of the values.
    """
    tile_of_face = tiles_of_faces(mesh.uvs_or_error())
    corner_verts = torch.from_numpy(mesh.verts[mesh.faces]).float().to(device)
    corner_normals = torch.from_numpy(vertex_normals(mesh)[mesh.faces]).to(device)
    # Drawn on the CPU: the same texture on every device.
    generator = torch.Generator().manual_seed(seed)
    images, islands = {}, {}
    for tile in np.unique(tile_of_face).tolist():
        tick()
        texel_map = rasterize_uvs(
            uvs_in_tile(mesh.uvs_or_error(), tile), texture_size_px, tile_of_face == tile
        )
        images[tile] = np.zeros((texture_size_px, texture_size_px, 3), np.uint8)
        islands[tile] = texel_map.faces >= 0
        places = TexelPoints(texel_map, corner_verts, corner_normals)
        hit = np.flatnonzero(islands[tile])
        for start in range(0, len(hit), CHUNK_TEXELS):
            tick()
            part = hit[start : start + CHUNK_TEXELS]
            mean = torch.zeros(len(part), 3)
            for _ in range(bake_samples):
                offsets_px = torch.zeros(len(part), 2)
                if bake_samples > 1:
                    offsets_px = torch.rand(len(part), 2, generator=generator) - 0.5
                with torch.no_grad():
                    mean += value_at(places.at(part, offsets_px)).float().cpu() / bake_samples
            refuse_non_finite(mean, "color")
            images[tile].reshape(-1, 3)[part] = encode(mean).numpy()
    return Texture(images, islands)


def encode_colors(rgb: Float[Tensor, "points 3"]) -> UInt8[Tensor, "points 3"]:
    """Bytes of sRGB values in [0, 1].

    >>> encode_colors(torch.tensor([[0.0, 0.2, 1.5]])).tolist()
    [[0, 51, 255]]
    """
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)


def composite_inward(
    surface: Float[Tensor, "rays 3"],
    normals: Float[Tensor, "rays 3"],
    offsets: Float[Tensor, "rays"],
    density: Density,
    color: Color,
    threshold: float,
    cell_size: float,
) -> Float[Tensor, "rays 3"]:
    """Colour seen by a camera straight above each surface point: sum of w_i c_i over sum of w_i.

    The ray starts two cells outside, because a decimated surface and a soft field both have colour there, and
    ends inside where a field at the threshold density would be mostly opaque. `offsets` in [0, 1) shift the
    samples. If the ray meets no density, the colour of the surface point itself is used.
    """
    outside = 2 * cell_size
    inside = min(max(2 / threshold, 2 * cell_size), 0.1)
    step = (outside + inside) / RAY_SAMPLES
    index = torch.arange(RAY_SAMPLES, device=surface.device)
    depths = (index + offsets[:, None]) * step - outside
    xyz = surface[:, None] - depths[..., None] * normals[:, None]
    # Fields under mixed precision return half precision; sums along a ray need more.
    sigmas = density(xyz.reshape(-1, 3)).reshape(depths.shape).to(xyz.dtype)
    # Outside the scene space is empty, even if the field has a density there.
    sigmas = torch.where(xyz.abs().amax(-1) <= 1, sigmas, 0.0)
    optical_depth = torch.cumsum(sigmas * step, dim=1)
    trans = torch.exp(-torch.nn.functional.pad(optical_depth[:, :-1], (1, 0)))
    weights = trans * -torch.expm1(-sigmas * step)
    total = weights.sum(1, keepdim=True)
    is_empty = total[:, 0] < 1e-3
    weights = torch.where(is_empty[:, None], 0.0, weights / total.clamp(min=1e-3))

    # Most samples of an opaque surface have no weight: evaluate the colour of the others only.
    rays, samples = torch.nonzero(weights > 0.01, as_tuple=True)
    kept = weights[rays, samples]
    points, rays, kept = (
        torch.cat([xyz[rays, samples], surface[is_empty]]),
        torch.cat([rays, torch.nonzero(is_empty)[:, 0]]),
        torch.cat([kept, kept.new_ones(int(is_empty.sum()))]),
    )
    rgb = color(points).to(xyz.dtype)
    summed = torch.zeros_like(surface).index_add_(0, rays, rgb * kept[:, None])
    norm = torch.zeros_like(offsets).index_add_(0, rays, kept)
    return summed / norm[:, None]
