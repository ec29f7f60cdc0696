"""Tangent frames, as Blender and glTF build them for normal maps (MikkTSpace)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.mesh.mesh import Mesh, double_areas, normalized, unit_sized, vertex_normals


@dataclass(frozen=True)
class TangentFrames:
    """Normal, tangent (along +u) and handedness; the bitangent is sign · normal x tangent (along +v)."""

    normals: Float[np.ndarray, "faces 3 3"]
    """Unit normals of the face corners."""
    tangents: Float[np.ndarray, "faces 3 3"]
    """Unit tangents of the face corners, at right angles to the normals."""
    signs: Float[np.ndarray, "faces"]
    """1, or -1 where the island is mirrored."""


def tangent_frames(mesh: Mesh) -> TangentFrames:
    """Frames of every face corner.

    Mikkelsen 2008, "Simulation of Wrinkled Surfaces Revisited": faces that share a vertex, its UV and their
    handedness share a tangent: the mean of their tangents in the vertex's tangent plane, weighted by corner angle.

    A triangle whose u runs along +Y and whose v runs along -X:

    >>> uvs = np.array([[[0.0, 0.0], [0.0, -1.0], [1.0, 0.0]]])
    >>> verts = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> frames = tangent_frames(Mesh(verts, np.array([[0, 1, 2]]), uvs))
    >>> frames.tangents[0, 0].round().astype(int).tolist(), frames.signs.tolist()
    ([0, 1, 0], [1.0])
    """
    uvs = mesh.uvs_or_error().astype(np.float64)
    corners = unit_sized(mesh.verts)[mesh.faces].astype(np.float64)
    normals = vertex_normals(mesh).astype(np.float64)[mesh.faces]
    along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    uv_along, uv_across = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    uv_areas = double_areas(uvs)
    signs = np.where(uv_areas < 0, -1.0, 1.0)
    face_tangents = signs[:, None] * (along * uv_across[:, 1:] - across * uv_along[:, 1:])
    tangents = _in_plane(np.repeat(face_tangents[:, None], 3, axis=1), normals)
    to_next = _in_plane(np.roll(corners, -1, axis=1) - corners, normals)
    to_last = _in_plane(np.roll(corners, -2, axis=1) - corners, normals)
    angles = np.arccos(np.clip((to_next * to_last).sum(-1), -1, 1))
    weighted = tangents * (angles * (uv_areas != 0)[:, None])[..., None]

    keys = np.concatenate(
        [
            mesh.faces.reshape(-1, 1).astype(np.int64),
            mesh.uvs_or_error().astype(np.float32).reshape(-1, 2).view(np.int32),
            np.repeat(signs, 3).astype(np.int64)[:, None],
        ],
        axis=1,
    )
    _, group = np.unique(keys, axis=0, return_inverse=True)
    sums = np.stack([np.bincount(group, weighted[..., axis].ravel()) for axis in range(3)], 1)
    tangents = _in_plane(sums[group].reshape(-1, 3, 3), normals)
    # Where no face defines +u, any direction in the plane will do.
    missing = ~tangents.any(-1)
    helper = np.eye(3)[np.abs(normals[missing]).argmin(-1)]
    tangents[missing] = _in_plane(helper, normals[missing])
    return TangentFrames(normals, tangents, signs)


def to_tangent_space(
    directions: Float[Tensor, "points 3"],
    normals: Float[Tensor, "points 3"],
    tangents: Float[Tensor, "points 3"],
    signs: Float[Tensor, "points"],
) -> Float[Tensor, "points 3"]:
    """Unit directions in the frame (tangent, bitangent, normal); `normals` and `tangents` as interpolated.

    The exact inverse of a renderer's mapping, which neither normalizes nor reorthogonalizes interpolated vectors.

    >>> x, y, z = (torch.eye(3)[[axis]] for axis in range(3))
    >>> to_tangent_space(y, normals=z, tangents=x, signs=torch.tensor([-1.0])).int().tolist()
    [[0, -1, 0]]
    """
    bitangents = signs[:, None] * torch.linalg.cross(normals, tangents)
    volume = (tangents * torch.linalg.cross(bitangents, normals)).sum(1, keepdim=True)
    local = torch.stack(
        [
            (directions * torch.linalg.cross(bitangents, normals)).sum(1),
            (directions * torch.linalg.cross(normals, tangents)).sum(1),
            (directions * torch.linalg.cross(tangents, bitangents)).sum(1),
        ],
        1,
    ) * torch.sign(volume)
    straight = torch.tensor([0.0, 0.0, 1.0], device=local.device, dtype=local.dtype)
    length = local.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-12, local / length.clamp(min=1e-12), straight)


def _in_plane(
    vectors: Float[np.ndarray, "*corners 3"], normals: Float[np.ndarray, "*corners 3"]
) -> Float[np.ndarray, "*corners 3"]:
    """Unit vectors of the components perpendicular to the normal; zero where nothing is left."""
    return normalized(vectors - (vectors * normals).sum(-1, keepdims=True) * normals)
