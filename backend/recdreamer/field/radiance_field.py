"""The scene that is optimized: density and colour at every point of the cube [-1, 1]^3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recdreamer.field.grid_values import adopt_buffers
from recdreamer.field.hash_grid import HashGrid
from recdreamer.field.solid_field import solid_bias, solid_volume
from recdreamer.kernels import uses_warp

FIELD_SIZES = (
    "num_levels", "features_per_level", "log2_table_size", "base_resolution", "max_resolution", "hidden_width",
)  # fmt: skip
"""Settings that determine the layout of a state."""
CHUNK_POINTS = 1 << 18
"""Points per pass without gradient; bounds the memory of mesh extraction."""


@runtime_checkable
class Field(Protocol):
    """Anything that can be rendered: a density and a colour at each point."""

    def __call__(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]: ...

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]: ...


@dataclass(frozen=True)
class FieldConfig:
    """Size and initial state of a radiance field."""

    num_levels: int = 16
    """Resolutions of the hash grid."""
    features_per_level: int = 2
    log2_table_size: int = 19
    """Rows of a hashed level; dense levels use as many as they have vertices."""
    base_resolution: int = 8
    """Cells along the cube at the coarsest level."""
    max_resolution: int = 1024
    """Cells along the cube at the finest level."""
    hidden_width: int = 64
    """Units of the only hidden layer."""
    blob_density: float = 10.0
    """Density at the centre of the initial blob, per scene unit (ProlificDreamer: 10)."""
    blob_radius: float = 0.75
    """Distance at which the blob's bias on the density crosses zero, in scene units. Seen from the middle of the default
    cameras, 40 % of the picture are then more than half opaque; with ProlificDreamer's 0.5 and cameras it is 41 %."""
    start_density: float = 10.0
    """Density inside a given shape, where it is not thin: low enough for light, and thus a gradient, to pass."""
    start_levels: int = 4
    """Levels that are active from the first step on."""
    steps_per_level: int = 0
    """Steps over which each further level fades in; 0 turns all levels on at once."""
    precision: Literal["auto", "single", "half"] = "auto"
    """Of features and hidden units; parameters are always single. `auto` is half on a GPU."""


class RadianceField(nn.Module):
    """Density and view-independent colour from a hash grid and one hidden layer.

    The density starts as a soft blob: softplus(raw + blob_density · (1 − |x| / blob_radius)), as in Magic3D (Lin et
    al. 2023) but with this project's sizes; or as a given shape, with `solid_bias` instead.

    The features start near 0, so that the density is softplus(10) at the centre and softplus(0) at the radius:

    >>> field = RadianceField(FieldConfig(num_levels=2), seed=0)
    >>> sigmas = field.density(torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.0, 0.0]]))
    >>> [round(sigma, 1) for sigma in sigmas.tolist()]
    [10.0, 0.7]
    """

    start: Tensor | None
    blob: Tensor
    sizes: Tensor

    def __init__(self, config: FieldConfig, seed: int, start: Float[Tensor, "x y z"] | None = None) -> None:
        """`start`: signed distances at the vertices of `grid_points`; a checkpoint brings its own."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.grid = HashGrid(
            config.num_levels,
            config.features_per_level,
            config.log2_table_size,
            config.base_resolution,
            config.max_resolution,
            generator,
        )
        self.hidden = nn.Linear(self.grid.num_features, config.hidden_width)
        self.head = nn.Linear(config.hidden_width, 4)
        for layer in (self.hidden, self.head):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        self.register_buffer("start", None if start is None else solid_volume(start, config.start_density))
        adopt_buffers(self, ("start",))
        # In the state, because a job's initial blob may differ from its configuration (see stages/collapse.py).
        self.register_buffer("blob", torch.tensor([config.blob_density, config.blob_radius]))
        # In the state, because a checkpoint may be loaded under a different configuration.
        self.register_buffer("sizes", torch.tensor([getattr(config, name) for name in FIELD_SIZES]))
        self.register_load_state_dict_pre_hook(_fill_in)
        self.set_progress(0)

    def set_progress(self, step: int) -> None:
        """Activate the levels due at `step`, fading in the newest; call it again after resuming."""
        config, weights = self.config, self.grid.level_weights
        shown = (
            config.start_levels + step / config.steps_per_level
            if config.steps_per_level
            else config.num_levels
        )
        # Computed where they are used: a copy from the host would wait for the device.
        levels = torch.arange(config.num_levels, device=weights.device)
        weights.copy_((shown - levels).clamp(0, 1))

    def forward(
        self, xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Densities per scene unit, and sRGB colours in [0, 1].

        Without gradients the points are processed in chunks, so that any number fits into memory.
        """
        if not torch.is_grad_enabled() and len(xyz) > CHUNK_POINTS:
            sigmas, rgbs = zip(*(self(chunk) for chunk in xyz.split(CHUNK_POINTS)), strict=True)
            return torch.cat(sigmas), torch.cat(rgbs)
        if self._in_half(xyz):
            from recdreamer.field.half_field_warp import HalfField

            network = self.hidden.weight, self.hidden.bias, self.head.weight, self.head.bias
            return HalfField.apply(xyz, self.bias(xyz), self.grid, self.grid.table, *network)
        return self.decode(self.grid(xyz), xyz)

    def _in_half(self, xyz: Float[Tensor, "points 3"]) -> bool:
        """Positions need a gradient only for analytic normals, and then everything is in single precision."""
        is_chosen = self.config.precision == "half" or (self.config.precision == "auto" and xyz.is_cuda)
        return is_chosen and uses_warp(xyz) and not (xyz.requires_grad and torch.is_grad_enabled())

    def decode(
        self, encoded: Float[Tensor, "points features"], xyz: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points"], Float[Tensor, "points 3"]]:
        """Densities and colours from the features of the grid."""
        raw = self.head(F.relu(self.hidden(encoded)))
        return F.softplus(raw[:, 0] + self.bias(xyz)), torch.sigmoid(raw[:, 1:])

    def bias(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """What the initial shape adds to the raw density."""
        if self.start is not None:
            return solid_bias(self.start, xyz)
        radii = torch.linalg.vector_norm(xyz, dim=-1)
        return self.blob[0] * (1 - radii / self.blob[1])

    def density(self, xyz: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Densities per scene unit."""
        return self(xyz)[0]


def _fill_in(field: RadianceField, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """States of earlier versions have no blob and no sizes; they take those of the configuration."""
    state.setdefault(f"{prefix}blob", field.blob)
    sizes = state.setdefault(f"{prefix}sizes", field.sizes)
    if sizes.tolist() != field.sizes.tolist():
        raise ValueError(f"expected the state of a field of {field.sizes.tolist()}, got {sizes.tolist()}")
