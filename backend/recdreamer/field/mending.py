"""Parts that the refinement of a surface has torn off are tied to it again, by what joined them at first."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor


def mended(
    distances: Float[Tensor, "x y z"], start: Float[Tensor, "x y z"], cell: float
) -> Float[Tensor, "x y z"]:
    """Signed distances in which parts that were one at the start are one again. `cell` is the way between vertices.

    A stem of two cells is all that a grid can hold of a thinner one, and soon worn through. It comes back as it was,
    along the shortest way over the gap. What is no thicker than two cells anywhere is a crumb and stays loose.
    """
    now, before = ((values < 0).cpu().numpy() for values in (distances, start))
    labels, count = labelled(now)
    if count < 2:
        return distances
    depth = -np.asarray(ndimage.minimum(distances.cpu().numpy(), labels, np.arange(count + 1)))
    largest = 1 + np.bincount(labels.ravel())[1:].argmax()
    body = labels == largest
    origin, _ = labelled(before | now)
    result = distances.clone()
    for part in range(1, count + 1):
        loose = labels == part
        if part == largest or depth[part] <= cell or origin[loose][0] != origin[body][0]:
            continue
        bridge = torch.from_numpy(_bridge(before & ~now, loose, body)).to(distances.device)
        result = torch.where(bridge, torch.minimum(result, start), result)
    return result


def _bridge(
    lost: Bool[np.ndarray, "x y z"], loose: Bool[np.ndarray, "x y z"], body: Bool[np.ndarray, "x y z"]
) -> Bool[np.ndarray, "x y z"]:
    """Lost cells on the shortest way between both, to a cell, and what is next to them."""
    if not lost.any():
        return lost
    to_loose, to_body = (np.asarray(ndimage.distance_transform_edt(~solid)) for solid in (loose, body))
    way = to_loose + to_body
    return np.asarray(ndimage.binary_dilation(lost & (way <= way[lost].min() + 1)))


def labelled(solid: Bool[np.ndarray, "x y z"]) -> tuple[Int[np.ndarray, "x y z"], int]:
    """Number of the part of each solid cell, from 1, and of how many; parts share no face of a cell."""
    labels = np.zeros(solid.shape, np.int32)
    count: Any = ndimage.label(solid, output=labels)
    return labels, count
