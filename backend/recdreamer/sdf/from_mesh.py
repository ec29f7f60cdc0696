"""Signed distances to any triangle mesh: closed or open, self-intersecting, with doubled or flipped faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from recdreamer.field.grid_values import grid_points, trilinear
from recdreamer.kernels import launch, warp_module
from recdreamer.sdf.winding import facing_outward
from recdreamer.shared.protocol import RequestError

wp.set_module_options({"enable_backward": False})

CHUNK_POINTS = 1 << 16
"""Points per launch when a grid is filled, so that a caller can stop in between."""


@wp.kernel
@no_type_check
def nearest(
    mesh: wp.uint64,
    xyz: wp.array(dtype=wp.vec3),
    thin: float,
    distances: wp.array(dtype=float),
    is_thin: wp.array(dtype=wp.bool),
    faces: wp.array(dtype=int),
    barycentrics: wp.array(dtype=wp.vec3),
):
    point = wp.tid()
    here = xyz[point]
    found = wp.mesh_query_point_sign_winding_number(mesh, here, 1.0e6, 2.0, 0.5)
    surface = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
    away = here - surface
    distance = wp.length(away)
    distances[point] = found.sign * distance
    faces[point] = found.face
    barycentrics[point] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
    is_thin[point] = False
    if distance < 2.0 * thin:
        # Probe at depth `thin` below the surface; a probe outside of the solid has found a thin part.
        inward = wp.mesh_eval_face_normal(mesh, found.face)
        if distance > 1.0e-6:
            inward = away * (-found.sign / distance)
        else:
            inward = -inward
        probe = wp.mesh_query_point_sign_winding_number(mesh, surface + thin * inward, 1.0e6, 2.0, 0.5)
        is_thin[point] = probe.sign > 0.0


@dataclass(frozen=True)
class Nearest:
    """The nearest surface of a mesh for each point."""

    distances: Float[Tensor, "points"]
    """In scene units; negative where the generalized winding number is above one half."""
    is_thin: Bool[Tensor, "points"]
    """True near parts thinner than the given limit."""
    faces: Int[Tensor, "points"]
    """Index of the face in the input mesh."""
    barycentrics: Float[Tensor, "points 3"]
    """Weights of its corners, in the order of the input."""


class SolidMesh:
    """A mesh prepared for distance queries on a device.

    Points are inside where the generalized winding number (Jacobson et al. 2013; evaluated as in Barill et al. 2018)
    exceeds one half, after all faces are wound outward: holes are closed by the smooth level set of one half,
    overlapping parts are joined, and cavities are solid.

    >>> verts = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    >>> faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
    >>> found = SolidMesh(verts, faces, "cpu").nearest(torch.tensor([[0.25, 0.25, 0.1], [0.25, 0.25, -0.2]]))
    >>> [round(distance, 4) for distance in found.distances.tolist()], found.faces.tolist()
    ([-0.1, 0.2], [0, 0])
    """

    def __init__(
        self,
        verts: Float[np.ndarray, "verts 3"],
        faces: Int[np.ndarray, "faces 3"],
        device: torch.device | str,
    ) -> None:
        self.device = torch.device(device)
        welded, outward, kept = facing_outward(verts, faces)
        if len(outward) == 0:
            raise RequestError("The object has no face with an area.", "Choose an object with a surface.")
        self._given = torch.from_numpy(kept).to(self.device)
        original = np.unique(verts, axis=0, return_inverse=True)[1].reshape(-1)[faces[kept]]
        self._is_turned = torch.from_numpy((original != outward).any(1)).to(self.device)
        self._verts = torch.from_numpy(np.ascontiguousarray(welded, np.float32)).to(self.device)
        self._indices = torch.from_numpy(np.ascontiguousarray(outward, np.int32).ravel()).to(self.device)
        module: Any = warp_module()
        self.mesh = module.Mesh(
            points=module.from_torch(self._verts, dtype=module.vec3),
            indices=module.from_torch(self._indices),
            support_winding_number=True,
        )

    def nearest(self, xyz: Float[Tensor, "points 3"], thin: float = 0.0) -> Nearest:
        """Distances and nearest faces; parts thinner than `thin` are flagged within twice that distance."""
        count = len(xyz)
        distances = torch.empty(count, device=self.device)
        is_thin = torch.empty(count, dtype=torch.bool, device=self.device)
        faces = torch.empty(count, dtype=torch.int32, device=self.device)
        barycentrics = torch.empty(count, 3, device=self.device)
        launch(
            nearest, count, [self.mesh.id, xyz.contiguous(), thin, distances, is_thin, faces, barycentrics]
        )
        is_turned = self._is_turned[faces.long()][:, None]
        barycentrics = torch.where(is_turned, barycentrics.flip(1), barycentrics)
        return Nearest(distances, is_thin, self._given[faces.long()], barycentrics)

    def on_grid(self, resolution: int, tick: Callable[[], None] = lambda: None) -> Nearest:
        """The same at the vertices of `grid_points(resolution)`, with distances suitable for initializing a field.

        Sheets and parts thinner than a cell grow by a cell on either side, to at least two cells. At a closed hole no
        face is near, and the distance is that to the other side of the closure. Far from the surface, where queries
        take longest, values come from a grid four times as coarse: distances are interpolated, faces are those of the
        coarse neighbour. `tick` is called between chunks of work and may raise to stop.
        """
        cell, num_coarse = 2 / (resolution - 1), max(resolution // 4, 2)
        coarse = self._in_chunks(grid_points(num_coarse, self.device), cell, tick)
        xyz = grid_points(resolution, self.device)
        volume = coarse.distances.reshape((num_coarse,) * 3)[None]
        estimates = trilinear(volume, xyz)[:, 0]
        signs = trilinear(torch.where(volume < 0, -1.0, 1.0), xyz)[:, 0]
        is_near = (estimates.abs() < 2 * 2 / (num_coarse - 1)) | (signs.abs() < 0.999)
        close = self._in_chunks(xyz[is_near], cell, tick)
        x, y, z = ((xyz + 1) * ((num_coarse - 1) / 2)).round().long().unbind(-1)
        rows = (x * num_coarse + y) * num_coarse + z

        thickened = torch.where(close.is_thin, close.distances.abs() - cell, torch.inf)
        estimates[is_near] = torch.minimum(close.distances, thickened)
        estimates = _closed_smoothly(estimates.reshape((resolution,) * 3), cell, tick)
        is_thin, faces, barycentrics = coarse.is_thin[rows], coarse.faces[rows], coarse.barycentrics[rows]
        is_thin[is_near], faces[is_near], barycentrics[is_near] = (
            close.is_thin,
            close.faces,
            close.barycentrics,
        )
        return Nearest(estimates.flatten(), is_thin, faces, barycentrics)

    def _in_chunks(self, xyz: Float[Tensor, "points 3"], thin: float, tick: Callable[[], None]) -> Nearest:
        parts = []
        for part in xyz.split(CHUNK_POINTS):
            tick()
            parts.append(self.nearest(part, thin))
        return Nearest(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Nearest)))


def _closed_smoothly(
    distances: Float[Tensor, "x y z"], cell: float, tick: Callable[[], None]
) -> Float[Tensor, "x y z"]:
    """Distances limited to within two cells of those to the nearest vertex of the other sign; true ones are unchanged.

    Without this, a closed hole would be a cliff, and walls inside joined parts or around cavities would look thin.
    """
    is_inside = (distances < 0).cpu().numpy()
    if is_inside.all() or not is_inside.any():
        return distances
    to_other = 0.0
    for side in (is_inside, ~is_inside):
        tick()
        to_other = to_other + np.asarray(ndimage.distance_transform_edt(side, sampling=cell))
    limit = torch.as_tensor(to_other, dtype=distances.dtype, device=distances.device)
    magnitudes = torch.minimum(torch.maximum(distances.abs(), limit - 2 * cell), limit)
    return magnitudes * torch.where(distances < 0, -1.0, 1.0)
