"""The visual hull of a result: the largest body that has the outlines of its pictures (Laurentini 1994)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.mesh import Mesh, MeshConfig, extract_mesh

CELLS = 128
"""Along each side of the cube [-1, 1]³."""
CONTRAST = 0.06
"""A pixel that is farther than this from the background, in any channel of [0, 1], belongs to the object."""
HULL_MESH = MeshConfig(
    resolution=100, target_faces=20_000, closed_gap=0.0, smoothing_steps=2, min_component_share=0.0005
)
"""Loose parts down to a ball of a pixel stay: the tip of an ear whose middle has the background's colour is one."""


def outlines(pictures: Float[Tensor, "views 3 size size"]) -> Bool[np.ndarray, "views size size"]:
    """Where an object is in front of a plain background, which the corners show, with what it encloses."""
    ground = pictures[:, :, 0, 0].mean(0)[None, :, None, None]
    seen = ((pictures - ground).abs().amax(1) > CONTRAST).numpy()
    return np.stack([np.asarray(binary_fill_holes(mask)) for mask in seen])


def visual_hull(masks: Bool[np.ndarray, "views size size"], cameras: Cameras) -> Bool[np.ndarray, "x y z"]:
    """The cells of the cube [-1, 1]³ whose centres lie within all outlines."""
    size = masks.shape[-1]
    line = torch.linspace(-1, 1, CELLS)
    centres = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    inside = np.ones(len(centres), bool)
    for mask, c2w, fov_y in zip(masks, cameras.c2w, cameras.fov_y_rad, strict=True):
        # In the camera's frame: right, up, and the camera looks along -z.
        x, y, z = ((centres - c2w[:3, 3]) @ c2w[:3, :3]).unbind(1)
        focal = 1 / torch.tan(fov_y / 2)
        column, row = (
            ((1 + side * focal * at / -z) / 2 * size).floor().long().clamp(0, size - 1).numpy()
            for at, side in ((x, 1), (y, -1))
        )
        inside &= mask[row, column]
    return inside.reshape(CELLS, CELLS, CELLS)


def hull_mesh(pictures: Float[Tensor, "views 3 size size"], cameras: Cameras) -> Mesh:
    """The surface of the hull, in scene units. Raises JobError if the outlines have nothing in common."""
    solid = torch.from_numpy(visual_hull(outlines(pictures), cameras))

    def density(xyz: Tensor) -> Tensor:
        cells = ((xyz + 1) / 2 * (CELLS - 1)).round().long().clamp(0, CELLS - 1)
        return 60.0 * solid[tuple(cells.unbind(-1))].float()

    return extract_mesh(density, HULL_MESH)
