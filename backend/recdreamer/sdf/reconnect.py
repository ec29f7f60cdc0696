"""Reconnects parts that the refinement of a surface has torn off, along their original connection."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from recdreamer.field.grid_values import labelled

UNREACHED = 1 << 20


def mended(
    distances: Float[Tensor, "x y z"], start: Float[Tensor, "x y z"], cell: float
) -> Float[Tensor, "x y z"]:
    """Signed distances in which parts connected at the start are connected again. `cell` is the vertex spacing.

    Two cells are the thinnest stem that a grid can represent, and refinement soon wears it through. It is restored to
    its initial shape along the shortest path through the lost cells. Parts nowhere thicker than two cells are crumbs
    and stay loose.
    """
    before = (start < 0).cpu().numpy()
    while True:
        now = (distances < 0).cpu().numpy()
        labels, count = labelled(now)
        depth = -np.asarray(ndimage.minimum(distances.cpu().numpy(), labels, np.arange(count + 1)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        firm = [part for part in range(1, count + 1) if depth[part] > cell]
        for part in sorted(firm, key=lambda part: sizes[part])[:-1]:
            others = np.isin(labels, [other for other in firm if other != part])
            bridge = _bridge(before & ~now, labels == part, others)
            if bridge.any():
                back = torch.from_numpy(bridge).to(distances.device)
                distances = torch.where(back, torch.minimum(distances, start), distances)
                break
        else:
            return distances


def _bridge(
    lost: Bool[np.ndarray, "x y z"], loose: Bool[np.ndarray, "x y z"], others: Bool[np.ndarray, "x y z"]
) -> Bool[np.ndarray, "x y z"]:
    """Lost cells on the shortest paths between both (within a cell) and their neighbours; none without a path."""
    way = _steps_from(loose, lost) + _steps_from(others, lost)
    shortest = way[lost].min(initial=UNREACHED)
    if shortest >= UNREACHED:
        return np.zeros_like(lost)
    return np.asarray(ndimage.binary_dilation(lost & (way <= shortest + 1)))


def _steps_from(
    seeds: Bool[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"]
) -> Int[np.ndarray, "x y z"]:
    """Steps through faces of cells from the seeds to each cell inside; UNREACHED if there is no path."""
    steps, reached, count = np.where(seeds, 0, UNREACHED), seeds, 0
    while True:
        front = np.asarray(ndimage.binary_dilation(reached)) & inside & ~reached
        if not front.any():
            return steps
        count += 1
        steps[front] = count
        reached = reached | front
