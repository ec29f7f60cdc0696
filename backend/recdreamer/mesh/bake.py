"""Texture baking: the field's colour, composited along short inward rays, into the UV islands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

from recdreamer.mesh.mesh import Mesh, vertex_normals
from recdreamer.mesh.surface import Density, Tick, no_tick
from recdreamer.report import JobError

Color = Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""sRGB colour in [0, 1] at points of the scene cube."""

CHUNK_CANDIDATES = 1 << 21
CHUNK_RAYS = 1 << 15
RAY_SAMPLES = 8
REACH_PX = 1.5  # texels this far outside an island still take their own colour: bilinear lookups see them


def bake_texture(
    mesh: Mesh,
    density: Density,
    color: Color,
    *,
    texture_size_px: int,
    threshold: float,
    cell_size: float,
    bake_samples: int = 2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> tuple[UInt8[np.ndarray, "height width 3"], float]:
    """sRGB texture of a mesh in scene units, and the share of it that the islands cover.

    Row 0 is the top (v = 1). Every texel averages `bake_samples` rays jittered over its area. Texels
    beyond the islands take the nearest island's colour, so that mip-mapping finds no background.
    """
    faces, barycentrics, steps = rasterize_uvs(mesh.uvs_or_error(), texture_size_px)
    rows, columns = np.nonzero(faces >= 0)
    faces_hit = torch.from_numpy(faces[rows, columns]).to(device)
    centres = torch.from_numpy(barycentrics[rows, columns]).to(device)
    barycentric_steps = torch.from_numpy(steps).to(device)
    corner_verts = torch.from_numpy(mesh.verts[mesh.faces]).to(device)
    corner_normals = torch.from_numpy(vertex_normals(mesh)[mesh.faces]).to(device)
    # Drawn on the CPU: the same texture on every device.
    generator = torch.Generator().manual_seed(seed)

    rgb = torch.zeros(len(faces_hit), 3)
    for start in range(0, len(faces_hit), CHUNK_RAYS):
        tick()
        part = slice(start, start + CHUNK_RAYS)
        face = faces_hit[part]
        for _ in range(bake_samples):
            jitter_px = (torch.rand(len(face), 2, generator=generator) - 0.5).to(device)
            weights = centres[part] + torch.einsum("np,npc->nc", jitter_px, barycentric_steps[face])
            weights = weights.clamp(min=0)
            weights = weights / weights.sum(1, keepdim=True)
            surface = torch.einsum("nc,ncd->nd", weights, corner_verts[face])
            normals = torch.nn.functional.normalize(
                torch.einsum("nc,ncd->nd", weights, corner_normals[face]), dim=1
            )
            offsets = torch.rand(len(face), generator=generator).to(device)
            with torch.no_grad():
                shade = composite_inward(surface, normals, offsets, density, color, threshold, cell_size)
            rgb[part] += shade.float().cpu() / bake_samples

    if not torch.isfinite(rgb).all():
        raise JobError(
            "non_finite",
            "The colour field holds NaN or infinite values.",
            "Continue from an earlier checkpoint, or start again with a lower learning rate.",
        )
    texture = np.zeros((texture_size_px, texture_size_px, 3), np.uint8)
    texture[rows, columns] = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    is_island = np.zeros(faces.shape, bool)
    is_island[rows, columns] = True
    return _filled_from_nearest(texture, is_island), float(is_island.mean())


def composite_inward(
    surface: Float[Tensor, "rays 3"],
    normals: Float[Tensor, "rays 3"],
    offsets: Float[Tensor, "rays"],
    density: Density,
    color: Color,
    threshold: float,
    cell_size: float,
) -> Float[Tensor, "rays 3"]:
    """Colour that a camera straight above each surface point would see: sum of w_i c_i over sum of w_i.

    The ray starts outside by two cells, because a decimated surface and a soft field both have colour
    there, and goes in until a field at the threshold has shown most of itself. `offsets` in [0, 1) shift
    the samples. Where the ray meets no density the colour of the surface point itself is taken.
    """
    outside = 2 * cell_size
    inside = min(max(2 / threshold, 2 * cell_size), 0.1)
    step = (outside + inside) / RAY_SAMPLES
    index = torch.arange(RAY_SAMPLES, device=surface.device)
    depths = (index + offsets[:, None]) * step - outside
    xyz = surface[:, None] - depths[..., None] * normals[:, None]
    # Fields under mixed precision answer in half; sums along a ray need more.
    sigmas = density(xyz.reshape(-1, 3)).reshape(depths.shape).to(xyz.dtype)
    # The space outside the scene is empty, whatever the field says there.
    sigmas = torch.where(xyz.abs().amax(-1) <= 1, sigmas, 0.0)
    optical_depth = torch.cumsum(sigmas * step, dim=1)
    trans = torch.exp(-torch.nn.functional.pad(optical_depth[:, :-1], (1, 0)))
    weights = trans * -torch.expm1(-sigmas * step)
    total = weights.sum(1, keepdim=True)
    is_empty = total[:, 0] < 1e-3
    weights = torch.where(is_empty[:, None], 0.0, weights / total.clamp(min=1e-3))

    # Most samples of an opaque surface weigh nothing: ask for the colour of the others alone.
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


def rasterize_uvs(
    uvs: Float[np.ndarray, "faces 3 2"], size_px: int
) -> tuple[
    Int[np.ndarray, "height width"],
    Float[np.ndarray, "height width 3"],
    Float[np.ndarray, "faces 2 3"],
]:
    """For every texel its face (-1: none) and barycentrics; for every face their change per texel.

    A texel belongs to the face that its centre lies in, or else to the nearest within REACH_PX, with
    barycentrics of a point on that face. Row 0 is the top (v = 1).
    """
    # Texel units with texel centres at whole numbers.
    corners = np.stack([uvs[..., 0], 1 - uvs[..., 1]], -1).astype(np.float64) * size_px - 0.5
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    double_area = _cross(b - a, c - a)
    safe_area = np.where(np.abs(double_area) < 1e-9, np.inf, double_area)
    # Barycentric i is affine in the texel: the perpendicular of its opposite edge over the area.
    opposite = np.stack([c - b, a - c, b - a], 1)
    per_x = -opposite[..., 1] / safe_area[:, None]
    per_y = opposite[..., 0] / safe_area[:, None]
    heights = np.abs(safe_area)[:, None] / np.maximum(np.linalg.norm(opposite, axis=-1), 1e-12)

    lo = np.clip(np.ceil(corners.min(1) - REACH_PX), 0, size_px - 1).astype(np.int64)
    hi = np.clip(np.floor(corners.max(1) + REACH_PX), 0, size_px - 1).astype(np.int64)
    width, height = (hi - lo + 1).clip(min=0).T
    candidates = np.where(np.isfinite(safe_area), width * height, 0)
    ends = np.cumsum(candidates)

    best = np.full(size_px * size_px, -np.inf)
    face_map = np.full(size_px * size_px, -1, np.int32)
    barycentrics = np.zeros((size_px * size_px, 3), np.float32)
    first = 0
    while first < len(uvs):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + CHUNK_CANDIDATES)), first + 1)
        face = np.repeat(np.arange(first, last), candidates[first:last])
        local = np.arange(len(face)) - np.repeat(
            ends[first:last] - candidates[first:last] - done, candidates[first:last]
        )
        x, y = lo[face, 0] + local % width[face], lo[face, 1] + local // width[face]
        weights = (
            per_x[face] * (x - a[face, 0])[:, None]
            + per_y[face] * (y - a[face, 1])[:, None]
            + np.array([1.0, 0.0, 0.0])
        )
        distance = (weights * heights[face]).min(1)
        texel = y * size_px + x
        keep = np.flatnonzero((distance >= -REACH_PX) & (distance > best[texel]))
        keep = keep[np.argsort(distance[keep], kind="stable")]  # the nearest face writes last
        best[texel[keep]] = distance[keep]
        face_map[texel[keep]] = face[keep]
        inside = weights[keep].clip(min=0)
        barycentrics[texel[keep]] = inside / inside.sum(1, keepdims=True)
        first = last
    shape = (size_px, size_px)
    steps = np.stack([per_x, per_y], 1).astype(np.float32)
    return face_map.reshape(shape), barycentrics.reshape(*shape, 3), steps


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _filled_from_nearest(
    texture: UInt8[np.ndarray, "height width 3"], is_island: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    nearest = np.empty((2, *is_island.shape), np.int32)
    ndimage.distance_transform_edt(~is_island, return_distances=False, return_indices=True, indices=nearest)
    return texture[nearest[0], nearest[1]]
