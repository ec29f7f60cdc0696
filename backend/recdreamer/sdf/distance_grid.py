"""The surface that the second stage refines: signed distances at the vertices of a dense grid."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from recdreamer.field.grid_values import trilinear
from recdreamer.sdf.reconnect import mended

SOLID = 100.0
OCCUPANCY_REACH = 0.04
"""About half of the diagonal of a cell of the default occupancy grid, in scene units."""
MEAN_FACING = 0.5
"""Average cosine between the normal of a visible point and the direction to the camera."""
HESSIAN_SCALE = 0.05
"""Curvature, in units of 1 / cell, below which the loss is quadratic."""
SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Of a mixed second difference's four places along two axes."""
ALBEDO_SCALE = 0.01
"""Colour difference below which the loss is quadratic."""


class DistanceGrid(nn.Module):
    """Signed distances (negative inside, scene units) and an albedo on a grid over [-1, 1]^3.

    Distances and normals are trilinear between vertices, where the normal is the central difference: both are linear
    in `distances`, so that learning them takes no second derivatives.

    The plane z = 0 on a grid of 5³ vertices:

    >>> from recdreamer.field.grid_values import grid_points
    >>> plane = uncolored(grid_points(5)[:, 2].reshape(5, 5, 5))
    >>> plane.cell, plane.gradients()[:, 2, 2, 2].tolist()
    (0.5, [0.0, 0.0, 1.0])
    >>> round(plane.distance(torch.tensor([[0.3, 0.2, -0.4]])).item(), 4)
    -0.4
    >>> plane.solidity(torch.zeros(1, 3)).item()  # half of SOLID at the surface
    50.0
    """

    start: Tensor

    def __init__(self, distances: Float[Tensor, "x y z"], albedo: Float[Tensor, "3 x y z"]) -> None:
        super().__init__()
        self.distances = nn.Parameter(distances.clone())
        self.register_buffer("start", distances.clone())
        # Learning the albedo must be enabled explicitly.
        self.albedo = nn.Parameter(albedo, requires_grad=False)

    @property
    def cell(self) -> float:
        """Distance between vertices, in scene units."""
        return 2 / (len(self.distances) - 1)

    def gradients(self) -> Float[Tensor, "3 x y z"]:
        """Central differences at the vertices; half of the one-sided difference at the border."""
        p, inner = F.pad(self.distances[None, None], (1,) * 6, mode="replicate")[0, 0], slice(1, -1)
        differences = (
            p[2:, inner, inner] - p[:-2, inner, inner],
            p[inner, 2:, inner] - p[inner, :-2, inner],
            p[inner, inner, 2:] - p[inner, inner, :-2],
        )
        return torch.stack(differences) / (2 * self.cell)

    def distance(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        return trilinear(self.distances[None], xyz)[:, 0]

    def normals(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Outward unit normals: between vertices, trilinear central differences are differences of trilinear ones."""
        offsets = self.cell * torch.eye(3, device=xyz.device, dtype=xyz.dtype)
        places = torch.cat([xyz + offset for offset in (*offsets, *-offsets)])
        upper, lower = self.distance(places).view(2, 3, -1)
        return F.normalize((upper - lower).T, dim=-1, eps=1e-6)

    def color(
        self, xyz: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        """sRGB of surface points under the lighting of the embedded prior's pictures, for an average camera."""
        return (trilinear(self.albedo, xyz) * light(normals)).clamp(0, 1)

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Density for the occupancy grid, which samples one point per cell: 1 where a cell may contain the surface."""
        return (self.distance(xyz).abs() < 2 * self.cell + OCCUPANCY_REACH).to(xyz.dtype)

    def solidity(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Density for the extraction of the mesh, per scene unit: SOLID inside, half of it at the surface."""
        return SOLID * torch.sigmoid(-4 * self.distance(xyz) / self.cell)

    @torch.no_grad()
    def mend(self) -> None:
        """Reconnect parts that were connected at the start."""
        self.distances.copy_(mended(self.distances, self.start, self.cell))

    def near_surface(self, cells: float = 3.0) -> Int[Tensor, "near"]:
        """Indices, into the flat grid, of inner vertices within `cells` cells of the surface."""
        inner = self.distances.detach()[1:-1, 1:-1, 1:-1].abs() < cells * self.cell
        x, y, z = inner.nonzero().unbind(1)
        size = len(self.distances)
        return ((x + 1) * size + y + 1) * size + z + 1

    def neighbours(self, near: Int[Tensor, "near"]) -> Float[Tensor, "2 3 near"]:
        """Distances at the upper and lower neighbours of vertices along each axis."""
        x, y, z = self.steps
        return self.around(near, (x, y, z, -x, -y, -z)).view(2, 3, -1)

    def around(self, near: Int[Tensor, "near"], offsets: tuple[int, ...]) -> Float[Tensor, "offsets near"]:
        """Distances at vertices that lie so many places after others in the flat grid.

        All by one `index_select`: each gather's way back makes a gradient of the whole grid, and that of an index in
        brackets sorts its entries on a GPU.
        """
        places = near + torch.tensor(offsets, device=near.device)[:, None]
        return self.distances.view(-1).index_select(0, places.flatten()).view(len(offsets), -1)

    @property
    def steps(self) -> tuple[int, int, int]:
        """Index steps to the next vertex along each axis, in the flat grid."""
        size = len(self.distances)
        return size * size, size, 1


def light(
    normals: Float[Tensor, "*batch 3"], rays_d: Float[Tensor, "*batch 3"] | None = None
) -> Float[Tensor, "*batch 1"]:
    """Light from above and a little from the camera, as in the embedded prior's pictures.

    `rays_d` are unit directions away from the camera. Without them points face the camera at the average angle.

    A point that faces up: 0.74 + 0.20 + 0.08 · 0.5.

    >>> round(light(torch.tensor([0.0, 0.0, 1.0])).item(), 3)
    0.98
    """
    facing = MEAN_FACING if rays_d is None else -(normals * rays_d).sum(-1, keepdim=True)
    return 0.74 + 0.20 * normals[..., 2:3] + 0.08 * facing


def eikonal_loss(grid: DistanceGrid, near: Int[Tensor, "near"]) -> Float[Tensor, ""]:
    """Mean of (|∇d| - 1)² at vertices, which keeps the values distances (Gropp et al. 2020).

    Distances that grow by 1 and by 3 per scene unit:

    >>> from recdreamer.field.grid_values import grid_points
    >>> z, middle = grid_points(5)[:, 2].reshape(5, 5, 5), torch.tensor([62])
    >>> eikonal_loss(uncolored(z), middle).item(), eikonal_loss(uncolored(3 * z), middle).item()
    (0.0, 4.0)
    """
    upper, lower = grid.neighbours(near)
    slopes = torch.linalg.vector_norm((upper - lower) / (2 * grid.cell), dim=0)
    return (slopes - 1).square().mean()


def hessian_loss(grid: DistanceGrid, near: Int[Tensor, "near"]) -> Float[Tensor, ""]:
    """Mean norm (not squared) of the distance's Hessian at vertices, in units of 1 / cell; favours planes and edges.

    The Hessian contains the principal curvatures: a plane costs nothing, a sphere of radius r costs √2 cell / r. The
    cost of an edge depends on its angle but not on its sharpness, whereas a square would round it, like
    Hessian-Schatten norms in images (Lefkimmiatis et al. 2013). Below HESSIAN_SCALE the loss is quadratic, so that it
    has a gradient everywhere (pseudo-Huber).

    A plane, and the edge |z|, whose second difference 0.5 - 2 · 0 + 0.5 is two cells of 0.5:

    >>> from recdreamer.field.grid_values import grid_points
    >>> z, middle = grid_points(5)[:, 2].reshape(5, 5, 5), torch.tensor([62])
    >>> [round(hessian_loss(uncolored(d), middle).item(), 2) for d in (z, z.abs())]  # √(4 + 0.05²) - 0.05
    [0.0, 1.95]
    """
    x, y, z = grid.steps
    pairs = ((x, y), (y, z), (z, x))
    diagonals = [sign * one + turn * other for one, other in pairs for sign, turn in SIGNS]
    here, *_ = found = grid.around(near, (0, x, y, z, -x, -y, -z, *diagonals))
    upper, lower = found[1:7].view(2, 3, -1)
    along, opposite, across, opposite_across = found[7:].view(3, 4, -1).unbind(1)
    mixed = (along + opposite - across - opposite_across) / 4
    squares = (upper - 2 * here + lower).square().sum(0) + 2 * mixed.square().sum(0)
    return ((squares / grid.cell**2 + HESSIAN_SCALE**2).sqrt() - HESSIAN_SCALE).mean()


def albedo_variation(grid: DistanceGrid, near: Int[Tensor, "near"]) -> Float[Tensor, ""]:
    """Mean length of the albedo's differences between vertices and their upper neighbours, summed over the axes.

    Total variation (Rudin, Osher and Fatemi 1992): favours areas of uniform colour with sharp borders.

    A red that grows by 0.25 from vertex to vertex along x costs √(0.25² + 0.01²) - 0.01:

    >>> from recdreamer.field.grid_values import grid_points
    >>> red = 0.5 * grid_points(5)[:, 0].reshape(5, 5, 5)
    >>> grid = DistanceGrid(torch.zeros(5, 5, 5), torch.stack([red, torch.zeros_like(red), torch.zeros_like(red)]))
    >>> round(albedo_variation(grid, torch.tensor([62])).item(), 3)
    0.24
    """
    places = near + torch.tensor((0, *grid.steps), device=near.device)[:, None]
    found = grid.albedo.flatten(1).index_select(1, places.flatten()).view(len(grid.albedo), 4, -1)
    squares = (found[:, 1:] - found[:, :1]).square().sum(0)
    return ((squares + ALBEDO_SCALE**2).sqrt() - ALBEDO_SCALE).sum(0).mean()


def anchor_loss(grid: DistanceGrid, near: Int[Tensor, "near"]) -> Float[Tensor, ""]:
    """Mean squared deviation of distances at vertices from their initial values, in cells.

    >>> grid = uncolored(torch.zeros(5, 5, 5))
    >>> _ = grid.distances.data.add_(1.0)  # two cells of 0.5
    >>> anchor_loss(grid, torch.tensor([62])).item()
    4.0
    """
    apart = (grid.around(near, (0,))[0] - grid.start.view(-1)[near]) / grid.cell
    return apart.square().mean()


def uncolored(distances: Float[Tensor, "x y z"]) -> DistanceGrid:
    """A surface whose albedo will never be rendered."""
    return DistanceGrid(distances, distances.new_zeros(()).expand(3, *distances.shape))
