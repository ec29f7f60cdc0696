"""Multiresolution hash encoding (Müller et al. 2022), with all levels in one table of rows."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.kernels import uses_warp

HASH_PRIMES = (1, 2654435761, 805459861)
"""Instant NGP, Eq. 4."""


class HashGrid(nn.Module):
    """Trilinear features of points in the cube [-1, 1]^3 at several resolutions.

    A level whose vertices fit into the table is stored densely; finer ones are hashed. `level_weights`
    scales each level; a level of weight zero costs nothing and receives no gradient.

    Three levels from 2 to 8 cells grow by (8 / 2)^(1/2) = 2; a table of 2⁶ rows holds 3³ vertices, but not 5³:

    >>> grid = HashGrid(3, 2, 6, 2, 8, torch.Generator())
    >>> grid.resolutions, grid.sizes, grid.offsets
    ((2, 4, 8), (27, 64, 64), (0, 27, 91))
    """

    level_weights: Tensor
    layout: Tensor

    def __init__(
        self,
        num_levels: int,
        features_per_level: int,
        log2_table_size: int,
        base_resolution: int,
        max_resolution: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        growth = (max_resolution / base_resolution) ** (1 / max(num_levels - 1, 1))
        self.resolutions = tuple(math.floor(base_resolution * growth**k + 1e-6) for k in range(num_levels))
        self.sizes = tuple(min((res + 1) ** 3, 1 << log2_table_size) for res in self.resolutions)
        self.offsets = tuple(sum(self.sizes[:k]) for k in range(num_levels))
        # The range of Instant NGP: small, so that the network's bias dominates at first.
        table = torch.empty(sum(self.sizes), features_per_level).uniform_(-1e-4, 1e-4, generator=generator)
        self.table = nn.Parameter(table)
        self.register_buffer("level_weights", torch.ones(num_levels))
        layout = torch.tensor([self.resolutions, self.offsets, self.sizes], dtype=torch.int32)
        self.register_buffer("layout", layout, persistent=False)

    @property
    def num_features(self) -> int:
        return len(self.resolutions) * self.table.shape[1]

    def forward(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points features"]:
        """Features, level by level. Points outside the cube are clamped to its surface."""
        # Positions need a gradient only for analytic normals; for them the kernels defer to the reference.
        if uses_warp(xyz) and not (xyz.requires_grad and torch.is_grad_enabled()):
            from recdreamer.field.hash_grid_warp import HashEncode

            return HashEncode.apply(xyz, self.table, self.level_weights, self.layout)
        return self.reference(xyz)

    def reference(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points features"]:
        """The same in plain torch, for any float dtype, also differentiable in positions."""
        unit = (0.5 * xyz + 0.5).clamp(0, 1)
        levels = []
        for k, (resolution, offset, size) in enumerate(
            zip(self.resolutions, self.offsets, self.sizes, strict=True)
        ):
            scaled = unit * resolution
            # The last vertex belongs to the last cell, because the next cell would lie outside.
            corner = scaled.detach().floor().clamp(max=resolution - 1)
            fraction = scaled - corner
            features = 0.0
            for bits in range(8):
                upper = torch.tensor([bits & 1, bits >> 1 & 1, bits >> 2], device=xyz.device)
                share = torch.where(upper == 1, fraction, 1 - fraction).prod(dim=-1, keepdim=True)
                row = vertex_rows(corner.long() + upper, resolution, size)
                features = features + share * self.table[offset + row]
            levels.append(self.level_weights[k] * features)
        return torch.cat(levels, dim=-1)


def vertex_rows(vertices: Tensor, resolution: int, size: int) -> Tensor:
    """Rows (within a level) of integer grid vertices `points 3`; dense if the level fits, hashed if not.

    Dense: 1 + 3 · (1 + 3 · 0). Hashed: (1 xor 2654435761) mod 64, the prime being 49 mod 64.

    >>> vertex = torch.tensor([1, 1, 0])
    >>> vertex_rows(vertex, 2, 27).item(), vertex_rows(vertex, 8, 64).item()
    (4, 48)
    """
    x, y, z = vertices.unbind(-1)
    if (resolution + 1) ** 3 <= size:
        return x + (resolution + 1) * (y + (resolution + 1) * z)
    return (x * HASH_PRIMES[0] ^ y * HASH_PRIMES[1] ^ z * HASH_PRIMES[2]) & (size - 1)
