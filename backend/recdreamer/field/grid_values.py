"""Values on a regular grid over the cube [-1, 1]^3, and modules that take such a grid from a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F


def grid_points(resolution: int, device: torch.device | str = "cpu") -> Float[Tensor, "points 3"]:
    """Vertices of a grid with `resolution` per axis, the first at -1 and the last at 1; z varies fastest.

    >>> grid_points(2)[:3].tolist()
    [[-1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]
    """
    axis = torch.linspace(-1, 1, resolution, device=device)
    return torch.cartesian_prod(axis, axis, axis)


def trilinear(
    volume: Float[Tensor, "channels x y z"], xyz: Float[Tensor, "points 3"]
) -> Float[Tensor, "points channels"]:
    """Values interpolated between the vertices of `grid_points`; points outside the cube get the border's.

    >>> volume = grid_points(2)[:, :1].reshape(1, 2, 2, 2)  # x itself
    >>> trilinear(volume, torch.tensor([[0.5, 0.0, 0.3], [7.0, 0.0, 0.0]])).tolist()
    [[0.5], [1.0]]
    """
    places = xyz.flip(-1)[None, None, None]  # grid_sample takes the last axis first.
    found = F.grid_sample(volume[None], places, mode="bilinear", padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T


def adopt_buffers(module: nn.Module, names: tuple[str, ...]) -> None:
    """Let `load_state_dict` create, resize or drop these buffers as the state has them.

    A checkpoint then brings its own grid, and the resuming code need not know about it.
    """

    def adopt(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
        for name in names:
            value = state.get(prefix + name)
            setattr(module, name, None if value is None else torch.empty_like(value, device=device))

    module.register_load_state_dict_pre_hook(adopt)


def labelled(solid: Bool[np.ndarray, "x y z"]) -> tuple[Int[np.ndarray, "x y z"], int]:
    """Number of each solid cell's part, from 1, and the count of parts; cells of a part are joined by their faces.

    >>> labels, count = labelled(np.array([[[True, True, False, True]]]))
    >>> labels.tolist(), count
    ([[[1, 1, 0, 2]]], 2)
    """
    labels = np.zeros(solid.shape, np.int32)
    count: Any = ndimage.label(solid, output=labels)
    return labels, count
