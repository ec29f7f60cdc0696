"""A field that may differ from a frozen one only inside a region."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recdreamer.field.grid_values import adopt_buffers, grid_points, trilinear
from recdreamer.field.radiance_field import FIELD_SIZES, FieldConfig, RadianceField
from recdreamer.field.solid_field import SolidField


class RegionField(nn.Module):
    """A frozen field that is replaced by another inside a region: (1 − w) · frozen + w · field for density and colour.

    w is the region's weight at the point. Where it is 0, the result is the frozen field's to the last bit, without a
    gradient. Colours are weighted by the density of each side, so that empty space contributes none. Each side is
    evaluated only where it has a weight: a point costs one field, however many regions have followed one another there.

    A solid of density 20 and the start blob, 10 at its centre, half each:

    >>> solid = SolidField(20.0, -torch.ones(2, 2, 2))
    >>> mixed = RegionField(solid, RadianceField(FieldConfig(num_levels=2), seed=0), torch.full((2, 2, 2), 0.5))
    >>> round(mixed.density(torch.zeros(1, 3)).item(), 1)
    15.0
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
        """Activate the levels of the changing field due at `step`."""
        self.field.set_progress(step)

    def forward(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Densities per scene unit, and sRGB colours."""
        weights = self.weights(xyz)
        if xyz.is_cuda:
            return self._everywhere(xyz, weights)
        is_free, is_held = weights > 0, weights < 1
        sigmas, rgbs = torch.zeros_like(weights), torch.zeros_like(xyz)
        if bool(is_held.any()):
            with torch.no_grad():
                sigmas[is_held], rgbs[is_held] = self.frozen(xyz[is_held])
        if not bool(is_free.any()):
            return sigmas, rgbs
        free_sigmas, free_rgbs = self.field(xyz[is_free])
        mixed, shown = _mixed(weights[is_free], sigmas[is_free], rgbs[is_free], free_sigmas, free_rgbs)
        index = is_free.nonzero()[:, 0]
        return sigmas.index_put((index,), mixed), rgbs.index_put((index,), shown)

    def _everywhere(
        self, xyz: Float[Tensor, "points 3"], weights: Float[Tensor, "points"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """The same with both sides evaluated at all points: twice the work, but nothing waits for their numbers."""
        with torch.no_grad():
            held = self.frozen(xyz)
        return _mixed(weights, *held, *self.field(xyz))

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Densities per scene unit."""
        return self(xyz)[0]

    def weights(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Weight of the changing field at points, in [0, 1]."""
        if self.region is None:
            raise ValueError("expected a region, or a state with one")
        return trilinear(self.region[None], xyz)[:, 0]


def _mixed(
    w: Float[Tensor, "points"],
    held_sigmas: Float[Tensor, "points"],
    held_rgbs: Float[Tensor, "points 3"],
    free_sigmas: Float[Tensor, "points"],
    free_rgbs: Float[Tensor, "points 3"],
) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
    mixed = (1 - w) * held_sigmas + w * free_sigmas
    # Densities are positive, but their sum may be as small as softplus gets.
    share = (w * free_sigmas / mixed.clamp_min(1e-12))[:, None]
    return mixed, (1 - share) * held_rgbs + share * free_rgbs


def empty_like(
    state: dict[str, Tensor], prefix: str, config: FieldConfig
) -> SolidField | RadianceField | RegionField:
    """A field of the kind whose state is stored under `prefix`, to load that state into."""
    if f"{prefix}volume" in state:
        return SolidField()
    if f"{prefix}region" in state:
        frozen, field = (empty_like(state, f"{prefix}{part}.", config) for part in ("frozen", "field"))
        assert isinstance(field, RadianceField)
        return RegionField(frozen, field)
    sizes = state.get(f"{prefix}sizes")
    if sizes is not None:
        config = replace(config, **dict(zip(FIELD_SIZES, sizes.tolist(), strict=True)))
    return RadianceField(config, 0)


def free_within(
    earlier: RadianceField | RegionField,
    region: Float[Tensor, "x y z"] | None,
    config: FieldConfig,
    seed: int,
) -> RadianceField | RegionField:
    """A field that may change only inside a region (None: everywhere); `earlier` itself if it already does so.

    A new field can only start from one part of the earlier field: the one with the largest share of the region.
    `config` applies if that part is not a learned field but the shape of a mesh.
    """
    own = earlier.region if isinstance(earlier, RegionField) else None
    device = earlier.field.blob.device if isinstance(earlier, RegionField) else earlier.blob.device
    if region is not None:
        within = region.to(device)
    elif own is not None:
        within = torch.ones_like(own)
    else:
        return earlier
    if own is not None and torch.equal(own, within):
        return earlier
    shares = _parts(earlier, within.flatten(), grid_points(len(within), device))
    part = max(shares, key=lambda each: each[1])[0]
    if isinstance(part, SolidField):
        assert part.volume is not None
        changing = RadianceField(config, seed, part.volume[0]).to(device)
    else:
        changing = deepcopy(part).requires_grad_(True)
    return changing if region is None else RegionField(earlier, changing, within)


def _parts(
    field: SolidField | RadianceField | RegionField,
    weights: Float[Tensor, "points"],
    xyz: Float[Tensor, "points 3"],
) -> Iterator[tuple[SolidField | RadianceField, float]]:
    """The fields that make up a field, each with its sum of weights."""
    if isinstance(field, RegionField):
        own = field.weights(xyz)
        yield field.field, float((weights * own).sum())
        yield from _parts(field.frozen, weights * (1 - own), xyz)
    else:
        yield field, float(weights.sum())
