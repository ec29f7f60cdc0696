"""Assigns texels to faces, for one or several UV tiles (UDIM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recdreamer.kernels import launch
from recdreamer.mesh.mesh import double_areas
from recdreamer.shared.uv_map import FIRST_TILE, TILES_PER_ROW, tile_numbers

wp.set_module_options({"enable_backward": False})

REACH_PX = 1.5  # texels this far outside an island get their own colour: bilinear lookups use them


@dataclass(frozen=True)
class TexelMap:
    """The texels of one tile. Row 0 is the top (v = 1)."""

    faces: Int[np.ndarray, "height width"]
    """Face that gives a texel its value; -1 where no island is near."""
    origins: Float[np.ndarray, "faces 3"]
    """Barycentrics of every face, extrapolated to the centre of the first texel."""
    steps: Float[np.ndarray, "faces 6"]
    """Their change from one texel to the next: three to the right, then three downward."""


@dataclass(frozen=True)
class Texels:
    """Surface points, one for each of some texels."""

    faces: Int[Tensor, "points"]
    weights: Float[Tensor, "points 3"]
    """Barycentrics in their face."""
    points: Float[Tensor, "points 3"]
    normals: Float[Tensor, "points 3"]
    """Smooth unit normals of the mesh."""


def tiles_of_faces(uvs: Float[np.ndarray, "faces 3 2"]) -> Int[np.ndarray, "faces"]:
    """UDIM number of each face's tile: 1001 for [0, 1)^2, one more per column, ten more per row.

    Raises RequestError if a face leaves its tile or lies where UDIM has no tile; see `uv_map`.
    """
    return tile_numbers(uvs)


def uvs_in_tile(uvs: Float[np.ndarray, "*corners 2"], tile: int) -> Float[np.ndarray, "*corners 2"]:
    """UVs relative to the lower left corner of a UDIM tile.

    >>> uvs_in_tile(np.array([[1.25, 2.5]]), 1022).tolist()
    [[0.25, 0.5]]
    """
    row, column = divmod(tile - FIRST_TILE, TILES_PER_ROW)
    return uvs - np.array([column, row], uvs.dtype)


def rasterize_uvs(
    uvs: Float[np.ndarray, "faces 3 2"], size_px: int, chosen: Bool[np.ndarray, "faces"] | None = None
) -> TexelMap:
    """The texels of a square tile with its corner at the UV origin, for the `chosen` faces only.

    A texel belongs to the face that contains its centre, or else to the nearest within REACH_PX.
    """
    # In texels, with texel centres at integers.
    corners = np.stack([uvs[..., 0], 1 - uvs[..., 1]], -1).astype(np.float64) * size_px - 0.5
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    areas = double_areas(corners)
    is_drawn = np.abs(areas) >= 1e-9
    safe_area = np.where(is_drawn, areas, np.inf)
    # Barycentric i is affine in the texel; its gradient is perpendicular to the opposite edge.
    opposite = np.stack([c - b, a - c, b - a], 1)
    steps = np.concatenate([-opposite[..., 1], opposite[..., 0]], 1) / safe_area[:, None]
    origins = np.array([1.0, 0.0, 0.0]) - a[:, :1] * steps[:, :3] - a[:, 1:] * steps[:, 3:]
    heights = np.abs(safe_area)[:, None] / np.maximum(np.linalg.norm(opposite, axis=-1), 1e-12)

    lo = np.clip(np.ceil(corners.min(1) - REACH_PX), 0, size_px - 1).astype(np.int32)
    hi = np.clip(np.floor(corners.max(1) + REACH_PX), -1, size_px - 1).astype(np.int32)
    order = np.flatnonzero(is_drawn if chosen is None else is_drawn & chosen).astype(np.int32)
    best = torch.full((size_px * size_px,), -torch.inf)
    faces = torch.full((size_px * size_px,), -1, dtype=torch.int32)
    arrays = (order, np.concatenate([lo, hi], 1), origins, steps, heights)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    # One thread, because faces compete for texels.
    launch(_fill, 1, [len(order), size_px, *tensors, best, faces])
    return TexelMap(faces.numpy().reshape(size_px, size_px), origins, steps)


class TexelPoints:
    """Surface points of a tile's texels."""

    def __init__(
        self,
        texel_map: TexelMap,
        corner_verts: Float[Tensor, "faces 3 3"],
        corner_normals: Float[Tensor, "faces 3 3"],
    ) -> None:
        self.corner_verts, self.corner_normals = corner_verts, corner_normals
        self.width = texel_map.faces.shape[1]
        self.faces = texel_map.faces.reshape(-1)
        self.origins, self.steps = (
            torch.from_numpy(np.ascontiguousarray(values)).to(corner_verts.device)
            for values in (texel_map.origins, texel_map.steps)
        )

    def at(self, texels: Int[np.ndarray, "texels"], offsets_px: Float[Tensor, "texels 2"]) -> Texels:
        """Points of some texels, as indices of the flattened tile, at offsets from the texels' centres.

        A texel outside its face gets a point on the face.
        """
        device = self.corner_verts.device
        faces = torch.from_numpy(self.faces[texels]).to(device)
        numbers = torch.from_numpy(texels.astype(np.int32)).to(device)
        weights, points, normals = (torch.empty(len(texels), 3, device=device) for _ in range(3))
        arguments = [
            self.width, numbers, offsets_px.to(device), faces, self.origins, self.steps, self.corner_verts,
            self.corner_normals, weights, points, normals,
        ]  # fmt: skip
        launch(_interpolate, len(texels), arguments)
        return Texels(faces, weights, points, normals)


@wp.kernel
@no_type_check
def _fill(
    count: int,
    size: int,
    order: wp.array(dtype=int),
    boxes: wp.array2d(dtype=int),
    origins: wp.array2d(dtype=wp.float64),
    steps: wp.array2d(dtype=wp.float64),
    heights: wp.array2d(dtype=wp.float64),
    best: wp.array(dtype=float),
    faces: wp.array(dtype=int),
):
    reach = wp.float64(-REACH_PX)
    for i in range(count):
        face = order[i]
        for y in range(boxes[face, 1], boxes[face, 3] + 1):
            for x in range(boxes[face, 0], boxes[face, 2] + 1):
                column, row = wp.float64(x), wp.float64(y)
                u = origins[face, 0] + steps[face, 0] * column + steps[face, 3] * row
                v = origins[face, 1] + steps[face, 1] * column + steps[face, 4] * row
                w = origins[face, 2] + steps[face, 2] * column + steps[face, 5] * row
                # Distance to the nearest side; negative outside.
                distance = wp.min(wp.min(u * heights[face, 0], v * heights[face, 1]), w * heights[face, 2])
                texel = y * size + x
                if distance >= reach and wp.float32(distance) > best[texel]:
                    best[texel] = wp.float32(distance)
                    faces[texel] = face


@wp.kernel
@no_type_check
def _interpolate(
    width: int,
    texels: wp.array(dtype=int),
    offsets_px: wp.array2d(dtype=float),
    faces: wp.array(dtype=int),
    origins: wp.array2d(dtype=wp.float64),
    steps: wp.array2d(dtype=wp.float64),
    corner_verts: wp.array2d(dtype=wp.vec3),
    corner_normals: wp.array2d(dtype=wp.vec3),
    weights: wp.array(dtype=wp.vec3),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    face = faces[i]
    column = wp.float64(texels[i] % width) + wp.float64(offsets_px[i, 0])
    row = wp.float64(texels[i] // width) + wp.float64(offsets_px[i, 1])
    zero = wp.float64(0.0)
    u = wp.max(origins[face, 0] + steps[face, 0] * column + steps[face, 3] * row, zero)
    v = wp.max(origins[face, 1] + steps[face, 1] * column + steps[face, 4] * row, zero)
    w = wp.max(origins[face, 2] + steps[face, 2] * column + steps[face, 5] * row, zero)
    total = u + v + w
    weight = wp.vec3(wp.float32(u / total), wp.float32(v / total), wp.float32(w / total))
    weights[i] = weight
    points[i] = (
        weight[0] * corner_verts[face, 0]
        + weight[1] * corner_verts[face, 1]
        + weight[2] * corner_verts[face, 2]
    )
    normals[i] = wp.normalize(
        weight[0] * corner_normals[face, 0]
        + weight[1] * corner_normals[face, 1]
        + weight[2] * corner_normals[face, 2]
    )
