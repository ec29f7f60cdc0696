"""From a density field to a watertight mesh: marching cubes on a cleaned level set."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float

from recdreamer.mesh.cleanup import decimate, smooth, without_small_parts
from recdreamer.mesh.level import (
    CHUNK_POINTS,
    CUBE_HI,
    CUBE_LO,
    Density,
    Point,
    SurfaceLevel,
    choose_threshold,
    crossing_along,
    find_surface,
    sample_box,
)
from recdreamer.mesh.mesh import Mesh, MeshConfig, signed_volume, vertex_normals, without_unused_verts
from recdreamer.mesh.solid_cells import whole_object
from recdreamer.report import JobError, Tick, Warn, no_tick, no_warn

BISECTIONS = 6


def extract_mesh(
    density: Density,
    config: MeshConfig,
    *,
    level: SurfaceLevel | None = None,
    device: torch.device | str = "cpu",
    tick: Tick | None = None,
    warn: Warn | None = None,
) -> Mesh:
    """Closed, outward-facing surface of the field, decimated to `config.target_faces`; scene units.

    `density` is evaluated on `device`, in chunks. `level` is determined if not given. Raises JobError if
    there is no object (see `find_surface`).
    """
    tick, warn = tick or no_tick, warn or no_warn
    level = level or find_surface(density, config, device=device, tick=tick, warn=warn)
    lo, cell = level.lo, cell_size(level, config)
    sigmas = _sample(density, level.lo, level.hi, cell, device, tick)
    if _is_cut(sigmas >= level.threshold, level):
        # A part too thin for the coarse grid leaves the box: use the whole cube at the same resolution.
        lo = CUBE_LO
        sigmas = _sample(density, lo, CUBE_HI, cell, device, tick)

    # Clipped to ±1 so that a steep field, hundreds inside and zero outside, does not pull the
    # interpolated crossing towards its empty side.
    signed = np.clip(sigmas / level.threshold, 0, 2) - 1
    solid = signed > 0
    if not solid.any():
        raise JobError(
            "empty_field",
            f"At full resolution, no part of the field is denser than the mesh threshold {level.threshold:g}.",
            "Lower mesh.threshold, or try another seed or more steps.",
        )
    solid = whole_object(solid, sigmas, cell, level, config)
    signed = np.where(solid, np.where(signed > 0, signed, 1), np.where(signed > 0, -1, signed))
    # A value of exactly zero would put several vertices on one point.
    signed = np.where(np.abs(signed) < 1e-4, 1e-4 * np.where(solid, 1, -1), signed)
    tick()
    # Empty cells all around close the surface where the object touches the border.
    verts, faces = _marching_cubes(np.pad(signed, 1, constant_values=-1.0))
    mesh = Mesh((np.asarray(lo) + (verts - 0.5) * cell).astype(np.float32), faces.astype(np.int32))
    mesh = _facing_outward(mesh)
    mesh = _refined(mesh, density, level.threshold, cell, device, tick)
    mesh = smooth(mesh, config.smoothing_steps)
    tick()
    # Decimation may leave specks where it separates pinches.
    mesh = without_small_parts(decimate(mesh, config.target_faces), config.min_component_share)
    return without_unused_verts(mesh)


def rough_mesh(
    density: Density, cells: int, threshold: float | None = None, *, device: torch.device | str = "cpu"
) -> Mesh | None:
    """The level set of a field on `cells`³ cells of the cube [-1, 1]^3, as it is: a preview. None if there is none.

    `threshold` is the density at the surface; None: that which looks most like the renders. Raises JobError
    "non_finite".
    """
    cell = 2 / cells
    sigmas = sample_box(density, CUBE_LO, (cells, cells, cells), cell, device=device)
    if not sigmas.max() > 0:
        return None
    if threshold is None:
        threshold = choose_threshold(sigmas, cell)[0]
    signed = np.clip(sigmas / threshold, 0, 2) - 1
    if not (signed > 0).any():
        return None
    verts, faces = _marching_cubes(np.pad(signed, 1, constant_values=-1.0))
    return _facing_outward(Mesh((-1 + (verts - 0.5) * cell).astype(np.float32), faces.astype(np.int32)))


def cell_size(level: SurfaceLevel, config: MeshConfig) -> float:
    """Side of a marching cubes cell, in scene units."""
    return max(np.subtract(level.hi, level.lo)) / config.resolution


def _sample(
    density: Density, lo: Point, hi: Point, cell: float, device: torch.device | str, tick: Tick
) -> Float[np.ndarray, "x y z"]:
    x, y, z = (math.ceil((hi[axis] - lo[axis]) / cell - 1e-6) for axis in range(3))
    return sample_box(density, lo, (x, y, z), cell, device=device, tick=tick)


def _is_cut(solid: Bool[np.ndarray, "x y z"], level: SurfaceLevel) -> bool:
    """True if the object extends beyond a side of its box that is not the border of the scene."""
    return any(
        solid.take(end, axis).any() and abs(side[axis]) < 1 - 1e-6
        for axis in range(3)
        for end, side in ((0, level.lo), (-1, level.hi))
    )


def _marching_cubes(signed: Float[np.ndarray, "x y z"]) -> tuple[np.ndarray, np.ndarray]:
    try:
        import mcubes
    except ImportError:
        pass
    else:
        return mcubes.marching_cubes(signed, 0.0)
    try:
        from skimage.measure import marching_cubes  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise JobError(
            "missing_package",
            "No marching cubes package is installed.",
            "Install PyMCubes (Python 3.11) or scikit-image (any Python) into the backend environment.",
        ) from None
    verts, faces, _, _ = marching_cubes(signed, 0.0)
    return verts, faces


def _facing_outward(mesh: Mesh) -> Mesh:
    return mesh if signed_volume(mesh) > 0 else Mesh(mesh.verts, mesh.faces[:, ::-1].copy())


def _refined(
    mesh: Mesh, density: Density, threshold: float, cell: float, device: torch.device | str, tick: Tick
) -> Mesh:
    """Mesh whose vertices lie on the level set itself instead of its linear interpolation between cells.

    Bisection along the vertex normal within three quarters of a cell. Vertices on the border caps are kept.
    """
    positions = torch.from_numpy(mesh.verts).to(device)
    normals = torch.from_numpy(vertex_normals(mesh)).to(device)
    refined = []
    for verts, dirs in zip(positions.split(CHUNK_POINTS), normals.split(CHUNK_POINTS), strict=True):
        tick()
        offsets, crosses = crossing_along(density, threshold, verts, dirs, 0.75 * cell, BISECTIONS)
        movable = crosses & (verts.abs().amax(1) < 1 - cell)
        refined.append(verts + torch.where(movable, offsets, 0.0)[:, None] * dirs)
    return Mesh(torch.cat(refined).cpu().numpy(), mesh.faces)
