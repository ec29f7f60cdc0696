"""Intersections of rays with a triangle mesh, by Warp; without gradients, because the geometry is frozen."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.kernels import launch, warp_module

wp.set_module_options({"enable_backward": False})

FAR = 1.0e6


@wp.kernel
@no_type_check
def cast(
    mesh: wp.uint64,
    rays_o: wp.array(dtype=wp.vec3),
    rays_d: wp.array(dtype=wp.vec3),
    far: float,
    faces: wp.array(dtype=int),
    barycentrics: wp.array(dtype=wp.vec3),
    distances: wp.array(dtype=float),
):
    ray = wp.tid()
    hit = wp.mesh_query_ray(mesh, rays_o[ray], rays_d[ray], far)
    faces[ray] = -1
    distances[ray] = far
    if hit.result:
        faces[ray] = hit.face
        barycentrics[ray] = wp.vec3(hit.u, hit.v, 1.0 - hit.u - hit.v)
        distances[ray] = hit.t


class MeshCaster:
    """A mesh with its bounding volume hierarchy on a device."""

    def __init__(
        self,
        verts: Float[np.ndarray, "verts 3"],
        faces: Int[np.ndarray, "faces 3"],
        device: torch.device | str,
    ) -> None:
        self.device = torch.device(device)
        self.verts = torch.from_numpy(np.ascontiguousarray(verts, np.float32)).to(self.device)
        self.faces = torch.from_numpy(np.ascontiguousarray(faces, np.int32)).to(self.device)
        module: Any = warp_module()
        self._points = module.from_torch(self.verts, dtype=module.vec3)
        self._indices = module.from_torch(self.faces.flatten())
        self.mesh = module.Mesh(points=self._points, indices=self._indices)

    def cast(
        self, rays_o: Float[Tensor, "rays 3"], rays_d: Float[Tensor, "rays 3"]
    ) -> tuple[Int[Tensor, "rays"], Float[Tensor, "rays 3"], Float[Tensor, "rays"]]:
        """Face (-1: none), barycentrics of the face's corners in order, and distance of the first hit.

        >>> verts = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
        >>> caster = MeshCaster(verts, np.array([[0, 1, 2]], np.int32), "cpu")
        >>> rays_o, rays_d = torch.tensor([[0.25, 0.125, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
        >>> faces, barycentrics, distances = caster.cast(rays_o, rays_d)
        >>> faces.item(), [round(share, 4) for share in barycentrics[0].tolist()], round(distances.item(), 4)
        (0, [0.625, 0.25, 0.125], 1.0)
        """
        count = len(rays_o)
        faces = torch.empty(count, dtype=torch.int32, device=self.device)
        barycentrics = torch.zeros(count, 3, device=self.device)
        distances = torch.empty(count, device=self.device)
        arguments = [
            self.mesh.id, rays_o.contiguous(), rays_d.contiguous(), FAR, faces, barycentrics, distances,
        ]  # fmt: skip
        launch(cast, count, arguments)
        return faces, barycentrics, distances
