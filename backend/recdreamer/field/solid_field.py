"""A shape of signed distances as a density that is visible but still lets gradients through."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recdreamer.field.grid_values import adopt_buffers, trilinear

EMPTY_BIAS = -6.0
"""Density 0.0025 per scene unit: clear through the whole cube, but not so empty that nothing could grow there."""
WIDTH = 0.01
"""Depth below the surface at which the full density is reached, in scene units."""
THIN, MOST = 0.15, 4.0
"""Parts thinner than the first, in scene units, are denser to compensate, by at most the second factor."""
GREY = 0.7
"""Default colour of a shape; sRGB."""


def solid_volume(distances: Float[Tensor, "x y z"], density: float) -> Float[Tensor, "2 x y z"]:
    """Signed distances, and the density of the matter: `density`, and more where the shape is thin.

    A density that makes a sheet opaque would let no light, and thus no gradient, into a body. The thickness of a part
    is twice the greatest depth nearby; a part half as thick as THIN is twice as dense and thus equally opaque.

    A sheet of depth 0.0375 is 0.075 thick, half of THIN:

    >>> round(solid_volume(torch.full((3, 3, 3), -0.0375), 10.0)[1, 0, 0, 0].item(), 3)
    20.0
    """
    cells = math.ceil(0.5 * THIN * (len(distances) - 1) / 2)
    depths = (-distances).clamp_min(0)[None, None]
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * cells + 1
        depths = F.max_pool3d(depths, size, stride=1, padding=[side // 2 for side in size])
    thickness = (2 * depths[0, 0]).clamp_min(1e-6)
    return torch.stack([distances, density * (THIN / thickness).clamp(1, MOST)])


def solid_bias(volume: Float[Tensor, "2 x y z"], xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """Bias on the density: density · min(−d / WIDTH, 1) at signed distance d, at least EMPTY_BIAS.

    >>> for distance in (-0.5, -0.005, 0.0, 0.5):
    ...     volume = torch.stack([torch.full((2, 2, 2), distance), torch.full((2, 2, 2), 10.0)])
    ...     print(round(solid_bias(volume, torch.zeros(1, 3)).item(), 3) + 0.0)
    10.0
    5.0
    0.0
    -6.0
    """
    distances, densities = trilinear(volume, xyz).unbind(-1)
    return (densities * (-distances / WIDTH).clamp_max(1)).clamp_min(EMPTY_BIAS)


class SolidField(nn.Module):
    """A constant `Field`: a shape of signed distances with the initial density of a `RadianceField` started from it."""

    volume: Tensor | None
    rgb: Tensor | None

    def __init__(
        self,
        density: float = 0.0,
        distances: Float[Tensor, "x y z"] | None = None,
        rgb: Float[Tensor, "3 x y z"] | None = None,
    ) -> None:
        """Both at the vertices of `grid_points`; grey without `rgb`. Without arguments, a checkpoint brings them."""
        super().__init__()
        self.register_buffer("volume", None if distances is None else solid_volume(distances, density))
        self.register_buffer("rgb", rgb)
        adopt_buffers(self, ("volume", "rgb"))

    def forward(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Densities per scene unit, and sRGB colours."""
        rgbs = torch.full_like(xyz, GREY) if self.rgb is None else trilinear(self.rgb, xyz)
        return self.density(xyz), rgbs

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Densities per scene unit."""
        if self.volume is None:
            raise ValueError("expected a shape, or a state with one")
        return F.softplus(solid_bias(self.volume, xyz))
