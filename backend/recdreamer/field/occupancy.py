"""A coarse grid of the occupied parts of the cube, with which rays skip empty space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recdreamer.field.radiance_field import Field


@dataclass(frozen=True)
class OccupancyConfig:
    """Resolution and upkeep of the occupancy grid."""

    resolution: int = 48
    """Cells along the cube: about one sample long at the default step."""
    threshold: float = 0.05
    """Density per scene unit above which a cell is occupied; thinner matter is not rendered."""
    spread: float = 0.05
    """Share of a cell's density that also counts for its neighbours, so that solid surfaces can grow but haze cannot.
    Occupying all neighbours doubled the samples of a figure without any gain."""
    decay: float = 0.8
    """Factor on a cell's remembered density at each visit, so that vanished matter is forgotten."""
    interval: int = 16
    """Steps between updates."""
    warmup_steps: int = 128
    """Before this step an update visits every cell, later the occupied ones and a random quarter."""


class OccupancyGrid(nn.Module):
    """Decaying maximum of the density in each cell of [-1, 1]^3, and the cells that rays must sample.

    All cells start occupied. `state_dict()` is complete for resuming a run.
    """

    densities: Tensor
    occupied: Tensor
    bounds: Tensor

    def __init__(self, config: OccupancyConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.resolution,) * 3
        self.register_buffer("densities", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("bounds", torch.tensor([[-1.0] * 3, [1.0] * 3]))

    @torch.no_grad()
    def update(
        self,
        field: Field,
        step: int,
        generator: torch.Generator,
    ) -> None:
        """Sample the density at one random point of each due cell; does nothing between intervals."""
        config = self.config
        if step % config.interval:
            return
        cells = torch.ones_like(self.occupied).flatten()
        if step >= config.warmup_steps:
            lottery = torch.rand(cells.shape, generator=generator, device=generator.device) < 0.25
            cells = self.occupied.flatten() | lottery.to(cells.device)
        # A GPU samples all cells in less time than it takes to wait for the number of those that are due.
        is_gpu = cells.is_cuda
        index = torch.arange(len(cells), device=cells.device) if is_gpu else cells.nonzero()[:, 0]
        jitter = torch.rand(len(index), 3, generator=generator, device=generator.device).to(index.device)
        # By arithmetic, because torch.unravel_index copies the shape from the host, which waits for the device.
        side = config.resolution
        corner = torch.stack([index // side**2, index // side % side, index % side], dim=-1)
        xyz = (corner + jitter) * (2 / side) - 1
        seen = field.density(xyz.to(self.densities.dtype))
        before = self.densities.flatten()[index]
        found = torch.maximum(before * config.decay, seen)
        self.densities.view(-1)[index] = torch.where(cells, found, before) if is_gpu else found
        self._mark()

    def _mark(self) -> None:
        # The mean keeps some cells of a faded field alive: without samples it could never recover.
        threshold = self.densities.mean().clamp(max=self.config.threshold)
        around = F.max_pool3d(self.densities[None], 3, stride=1, padding=1)[0]
        self.occupied.copy_(torch.maximum(self.densities, self.config.spread * around) > threshold)
        cell = 2 / self.config.resolution
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            inside = self.occupied.any(dim=others).to(torch.uint8)
            self.bounds[0, axis] = inside.argmax() * cell - 1
            self.bounds[1, axis] = 1 - inside.flip(0).argmax() * cell

    def contains(self, xyz: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """True for points in occupied cells; False outside the cube.

        >>> grid = OccupancyGrid(OccupancyConfig(resolution=2))
        >>> grid.occupied[0, 0, 0] = False
        >>> grid.contains(torch.tensor([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5], [1.5, 0.0, 0.0]])).tolist()
        [False, True, False]
        """
        resolution = self.config.resolution
        cell = ((xyz + 1) * (resolution / 2)).floor()
        inside = ((cell >= 0) & (cell < resolution)).all(dim=-1)
        x, y, z = cell.clamp(0, resolution - 1).long().unbind(-1)
        return inside & self.occupied[x, y, z]

    def thicker_than(self, density: float) -> Bool[Tensor, "x y z"]:
        """Cells that are denser, or have a neighbour that is: its matter may begin between the points that were seen."""
        return F.max_pool3d(self.densities[None], 3, stride=1, padding=1)[0] > density

    @property
    def share(self) -> float:
        """Share of the cells that is occupied."""
        return self.occupied.float().mean().item()
