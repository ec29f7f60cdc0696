"""Finds the surface in a density field: the density at which the mesh looks most like the renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recdreamer.mesh.mesh import MeshConfig
from recdreamer.report import JobError, Tick, Warn, no_tick, no_warn

Density = Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points"]]
"""Density per scene unit at points of the scene cube."""

Point = tuple[float, float, float]
CUBE_LO: Point = (-1.0, -1.0, -1.0)
CUBE_HI: Point = (1.0, 1.0, 1.0)

CHUNK_POINTS = 1 << 18
COARSE_RESOLUTION = 64
DEPTH_TOLERANCE = 0.1  # scene units
MIN_OPACITY = 0.05  # if no ray is more opaque, nothing is visible
SPECK_SIZE = 0.2  # scene units
POOR_AGREEMENT = 0.2  # an untrained density blob scores 0.25 to 0.4, a firm object 0.6 and more


@dataclass(frozen=True)
class SurfaceLevel:
    """The level set that represents the object, and the confidence in it."""

    threshold: float
    """Density at the surface, per scene unit."""
    agreement: float
    """Share of the visible surface that the level set reproduces, in [0, 1]; see `surface_agreement`."""
    max_opacity: float
    """Opacity of the most opaque ray through the scene along an axis."""
    percentiles: dict[str, float]
    """Densities at the percentiles 50, 90, 99, 99.9 and 100 of the cube's volume."""
    lo: Point
    hi: Point
    """Box around the object, with a margin, inside the cube [-1, 1]^3."""


def sample_box(
    density: Density,
    lo: Point,
    cells: tuple[int, int, int],
    cell_size: float,
    *,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Float[np.ndarray, "x y z"]:
    """Density at the centres of the cubic cells of a box with lowest corner `lo`.

    With centres instead of corners, the surface between the last cell and the empty space beyond it lies
    exactly on the border of the box.
    """
    axes = [
        torch.tensor(lo[axis], device=device) + (torch.arange(cells[axis], device=device) + 0.5) * cell_size
        for axis in range(3)
    ]
    sigmas = torch.empty(cells)
    # Whole slabs of constant x, so that memory does not grow with the cube of the resolution.
    slab = max(1, CHUNK_POINTS // (cells[1] * cells[2]))
    for start in range(0, cells[0], slab):
        tick()
        xyz = torch.cartesian_prod(axes[0][start : start + slab], axes[1], axes[2])
        with torch.no_grad():
            sigmas[start : start + slab] = density(xyz).float().cpu().reshape(-1, cells[1], cells[2])
    refuse_non_finite(sigmas, "density")
    return sigmas.numpy()


def refuse_non_finite(values: Tensor, kind: str) -> None:
    """Raises JobError for NaN or infinite values of a density or color field."""
    if not torch.isfinite(values).all():
        raise JobError(
            "non_finite",
            f"The {kind} field holds NaN or infinite values.",
            "Continue from an earlier checkpoint, or start again with a lower learning rate.",
        )


def crossing_along(
    density: Density,
    threshold: float,
    points: Float[Tensor, "points 3"],
    directions: Float[Tensor, "points 3"],
    reach: float,
    bisections: int,
) -> tuple[Float[Tensor, "points"], Bool[Tensor, "points"]]:
    """Offset within ±`reach` at which the density falls below the threshold, and whether it does, for each point.

    >>> inside = lambda xyz: (xyz[:, 0] < 0).float()
    >>> points, right = torch.tensor([[0.125, 0, 0], [3.0, 0, 0]]), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    >>> offsets, crosses = crossing_along(inside, 0.5, points, right, reach=0.5, bisections=12)
    >>> round(offsets[0].item(), 3), crosses.tolist()
    (-0.125, [True, False])
    """
    inner = torch.full_like(points[:, 0], -reach)
    outer = -inner
    with torch.no_grad():
        crosses = density(points + inner[:, None] * directions) >= threshold
        crosses &= density(points + outer[:, None] * directions) < threshold
        for _ in range(bisections):
            middle = (inner + outer) / 2
            is_solid = density(points + middle[:, None] * directions) >= threshold
            inner, outer = torch.where(is_solid, middle, inner), torch.where(is_solid, outer, middle)
    return (inner + outer) / 2, crosses


def find_surface(
    density: Density,
    config: MeshConfig,
    *,
    device: torch.device | str = "cpu",
    tick: Tick | None = None,
    warn: Warn | None = None,
) -> SurfaceLevel:
    """Threshold and bounding box of the object, from a coarse sampling of the whole cube [-1, 1]^3.

    Raises JobError for a field without an object: empty, or solid throughout. An object that will make a
    poor mesh (fog, a speck, cut by the cube) only causes a warning.
    """
    tick, warn = tick or no_tick, warn or no_warn
    cell = 2 / COARSE_RESOLUTION
    cells = (COARSE_RESOLUTION, COARSE_RESOLUTION, COARSE_RESOLUTION)
    sigmas = sample_box(density, CUBE_LO, cells, cell, device=device, tick=tick)
    ranks = (50, 90, 99, 99.9, 100)
    percentiles = {f"{r:g}": float(v) for r, v in zip(ranks, np.percentile(sigmas, ranks), strict=True)}
    spread = ", ".join(f"{rank} %: {value:.3g}" for rank, value in percentiles.items())
    max_opacity = max(float(-np.expm1(-sigmas.sum(axis).max() * cell)) for axis in range(3))
    if max_opacity < MIN_OPACITY:
        raise JobError(
            "empty_field",
            f"The generated field is empty: no ray is more than {max_opacity:.1%} opaque "
            f"(density percentiles {spread}).",
            "Try another seed, more steps, or a prompt that names one solid object.",
        )

    if config.threshold is not None:
        if config.threshold >= sigmas.max():
            raise JobError(
                "empty_field",
                f"The mesh threshold {config.threshold:g} is above the whole field "
                f"(density percentiles {spread}).",
                "Lower mesh.threshold, or leave it automatic.",
            )
        threshold = config.threshold
        agreement = surface_agreement(sigmas, cell, [threshold])[0]
    else:
        threshold, agreement = choose_threshold(sigmas, cell, tick)

    solid = sigmas >= threshold
    if solid.mean() > 0.95:
        raise JobError(
            "full_field",
            f"The generated field fills {solid.mean():.0%} of the scene, so there is no object in it "
            f"(density percentiles {spread}).",
            "Raise the sparsity weight or mesh.threshold, or try another seed.",
        )
    lo, hi = _bounds(solid, cell)
    if max_opacity < 0.5:
        warn(
            f"The object is foggy: its densest ray is only {max_opacity:.0%} opaque. More steps or a higher "
            "opacity weight give a firmer mesh."
        )
    elif agreement < POOR_AGREEMENT:
        warn(
            f"The mesh matches the renders poorly (agreement {agreement:.0%}): the object is soft or hazy. "
            "More steps or a higher opacity weight give a firmer mesh."
        )
    border = max(float(solid.take(end, axis).mean()) for axis in range(3) for end in (0, -1))
    if border > 0.01:
        warn(
            f"The object reaches the border of the scene and is cut off there ({border:.0%} of one side). "
            "A smaller start blob or a larger camera distance keeps it inside."
        )
    if max(np.ptp(np.argwhere(solid), axis=0) + 1) * cell < SPECK_SIZE:
        warn(
            "The object is tiny: it takes up less than a tenth of the scene's width, so it will have "
            "little detail. Try another seed or a larger start blob."
        )
    return SurfaceLevel(threshold, agreement, max_opacity, percentiles, lo, hi)


def choose_threshold(
    sigmas: Float[np.ndarray, "x y z"], cell_size: float, tick: Tick = no_tick
) -> tuple[float, float]:
    """Density whose level set agrees best with the renders, and that agreement.

    A sharp field looks the same over a wide range of thresholds; the middle of the range is used.
    """
    top = float(sigmas.max())
    candidates = np.geomspace(1e-3 * top, 0.9 * top, 32)
    scores = np.array(surface_agreement(sigmas, cell_size, list(candidates), tick))
    best = int(scores.argmax())
    good = scores >= scores[best] - 0.005
    first = best - int(np.argmin(good[best::-1])) + 1 if not good[: best + 1].all() else 0
    last = best + int(np.argmin(good[best:])) - 1 if not good[best:].all() else len(good) - 1
    return float(np.sqrt(candidates[first] * candidates[last])), float(scores[best])


def surface_agreement(
    sigmas: Float[np.ndarray, "x y z"], cell_size: float, thresholds: list[float], tick: Tick = no_tick
) -> list[float]:
    """Agreement of level sets with volume rendering, in six orthographic views along the axes.

    In each view the render has a silhouette (opacity above one half) and a depth (where transmittance falls
    to one half), and so does the level set. The score is the silhouettes' intersection over union, where each
    pixel of the intersection counts exp(-|depth error| / 0.1).

    Silhouettes alone would include haze in the object; depths alone would ignore thin parts.

    A sharp cube looks the same as its level set at 50; at 200 nothing is left of it:

    >>> sigmas = np.zeros((8, 8, 8))
    >>> sigmas[2:6, 2:6, 2:6] = 100.0
    >>> [float(score) for score in surface_agreement(sigmas, 0.25, [50.0, 200.0])]
    [1.0, 0.0]
    """
    matched = np.zeros(len(thresholds))
    union = np.zeros(len(thresholds))
    # In fog no ray is half opaque: compare at half the opacity of the densest ray.
    densest = max(float(sigmas.sum(axis).max()) * cell_size for axis in range(3))
    half = min(np.log(2.0), float(-np.log1p(np.expm1(-densest) / 2)))
    for axis in range(3):
        for view in (sigmas, np.flip(sigmas, axis)):
            tick()
            view = np.ascontiguousarray(np.moveaxis(view, axis, -1))
            opaque = np.cumsum(view, axis=-1) * cell_size >= half
            visible, depth = opaque[..., -1], opaque.argmax(-1)
            for index, threshold in enumerate(thresholds):
                solid = view >= threshold
                hit = np.any(solid, axis=-1)
                error = np.abs(solid.argmax(-1) - depth) * cell_size
                matched[index] += np.exp(-error / DEPTH_TOLERANCE)[hit & visible].sum()
                union[index] += (hit | visible).sum()
    return list(matched / np.maximum(union, 1))


def _bounds(solid: Bool[np.ndarray, "x y z"], cell: float) -> tuple[Point, Point]:
    """Box around the solid cells with a margin of two cells, clipped to the cube."""
    where = np.argwhere(solid)
    lo = np.maximum(-1 + (where.min(0) - 2) * cell, -1.0).tolist()
    hi = np.minimum(-1 + (where.max(0) + 3) * cell, 1.0).tolist()
    return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])
