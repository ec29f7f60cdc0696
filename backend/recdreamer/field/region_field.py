"""A field that may differ from a frozen one in a region only."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.field.radiance_field import FieldConfig, RadianceField
from recdreamer.field.solid import SolidField
from recdreamer.field.volume import adopt_buffers, trilinear


class RegionField(nn.Module):
    """A frozen field, and another in its place where the region is: (1 − w) · frozen + w · field, by density and colour.

    w is the region's weight at the point. Where it is 0 the answer is the frozen field's to the last bit and no
    gradient arrives. Colours are mixed by the matter that each side brings, so that empty space lends none.
    """

    region: Tensor | None

    def __init__(
        self,
        frozen: SolidField | RadianceField | RegionField,
        field: RadianceField,
        region: Float[Tensor, "x y z"] | None = None,
    ) -> None:
        """`region`: weights in [0, 1] at the vertices of `grid_points`; None if a checkpoint brings them."""
        super().__init__()
        self.frozen, self.field = frozen.requires_grad_(False), field
        self.register_buffer("region", region)
        adopt_buffers(self, ("region",))

    def set_progress(self, step: int) -> None:
        """Show the levels of the changing field that are due at `step`."""
        self.field.set_progress(step)

    def forward(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Densities per scene unit, and sRGB colours."""
        weights = self._weights(xyz)
        is_free = weights > 0
        with torch.no_grad():
            sigmas, rgbs = self.frozen(xyz)
        if not bool(is_free.any()):
            return sigmas, rgbs
        free_sigmas, free_rgbs = self.field(xyz[is_free])
        w, held_sigmas = weights[is_free], sigmas[is_free]
        mixed = (1 - w) * held_sigmas + w * free_sigmas
        # Densities are positive, so the sum is; it may be as small as softplus gets.
        share = (w * free_sigmas / mixed.clamp_min(1e-12))[:, None]
        shown = (1 - share) * rgbs[is_free] + share * free_rgbs
        index = is_free.nonzero()[:, 0]
        return sigmas.index_put((index,), mixed), rgbs.index_put((index,), shown)

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Densities per scene unit."""
        return self(xyz)[0]

    def _weights(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        if self.region is None:
            raise ValueError("expected a region, or a state that brings it")
        return trilinear(self.region[None], xyz)[:, 0]


def empty_like(
    state: dict[str, Tensor], prefix: str, config: FieldConfig
) -> SolidField | RadianceField | RegionField:
    """A field of the kind whose state lies under `prefix`, to load that state into."""
    if f"{prefix}volume" in state:
        return SolidField()
    if f"{prefix}region" in state:
        return RegionField(empty_like(state, f"{prefix}frozen.", config), RadianceField(config, 0))
    return RadianceField(config, 0)
