"""Measures the quality of a mesh and its UVs."""

from __future__ import annotations

from typing import Any

import numpy as np

from recdreamer.mesh.baked_texture import Texture
from recdreamer.mesh.mesh import Mesh, connected_components, double_areas, is_watertight, unit_sized
from recdreamer.mesh.parametrize import flat_faces, jacobians
from recdreamer.mesh.seams import seam_error


def uv_stretch(mesh: Mesh) -> dict[str, float]:
    """Distortion of the surface by its UVs; every number is 1 for an isometry.

    From the singular values G >= g of the map from UV to surface (Sander et al. 2001, "Texture Mapping Progressive
    Meshes"), in units in which both have the same area:
    `l2`: sqrt of the area-weighted mean of (G^2 + g^2) / 2, their L2 stretch.
    `area_p99`, `area_max`: max(Gg, 1 / Gg) of a face, over the faces with 99 % of the area and over all but 0.01 %.
    `angle_p99`, `angle_max`: G / g, likewise. Tiny slivers would make a plain maximum meaningless.
    Infinite if that much of the surface has no area in UV.

    A right triangle laid out at twice its width and half its height, so that G = 2 and g = 1/2:

    >>> verts, faces = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
    >>> stretch = uv_stretch(Mesh(verts, faces, np.array([[[0.0, 0.0], [2.0, 0.0], [0.0, 0.5]]])))
    >>> round(stretch["l2"], 4), round(stretch["area_max"], 4), round(stretch["angle_max"], 4)  # l2² = (4 + 1/4) / 2
    (1.4577, 1.0, 4.0)
    """
    uvs = mesh.uvs_or_error().astype(np.float64)
    flat = flat_faces(Mesh(unit_sized(mesh.verts.astype(np.float64)), mesh.faces))
    surface_areas = np.abs(double_areas(flat)) / 2
    uv_areas = np.abs(double_areas(uvs)) / 2
    scale = np.sqrt(uv_areas.sum() / surface_areas.sum())
    maps = jacobians(uvs, flat * scale)
    squares = np.square(maps).sum((1, 2)) / 2
    area = np.abs(np.linalg.det(maps))
    spread = np.sqrt(np.maximum(np.square(squares) - np.square(area), 0))
    is_flat = area < 1e-12
    largest, smallest = np.sqrt(squares + spread), np.sqrt(np.maximum(squares - spread, 1e-30))
    with np.errstate(divide="ignore"):
        area_error = np.where(is_flat, np.inf, np.maximum(area, 1 / area))
        angle_error = np.where(is_flat, np.inf, largest / smallest)
    shares = surface_areas / surface_areas.sum()
    mean = (squares * shares)[~is_flat].sum() / max(shares[~is_flat].sum(), 1e-30)
    return {
        "l2": float(np.sqrt(mean)),
        "area_p99": _quantile(area_error, shares, 0.99),
        "area_max": _quantile(area_error, shares, 0.9999),
        "angle_p99": _quantile(angle_error, shares, 0.99),
        "angle_max": _quantile(angle_error, shares, 0.9999),
    }


def mesh_report(mesh: Mesh, texture: Texture | None = None) -> dict[str, Any]:
    """Plain numbers about a mesh, its UVs if it has any, and its base colour if given."""
    report: dict[str, Any] = {
        "verts": len(mesh.verts),
        "faces": len(mesh.faces),
        "components": int(connected_components(mesh).max()) + 1,
        "is_watertight": is_watertight(mesh),
        "size_m": np.ptp(mesh.verts, axis=0).tolist(),
    }
    if mesh.uvs is not None:
        report["uv_stretch"] = uv_stretch(mesh)
    if texture is not None:
        report["texture_size_px"] = texture.size_px
        report["texture_tiles"] = sorted(texture.tiles)
        report["texture_use"] = texture.coverage
        report["seam_error"] = seam_error(mesh, texture.tiles)
    return report


def _quantile(values: np.ndarray, shares: np.ndarray, rank: float) -> float:
    order = np.argsort(values)
    reached = np.searchsorted(np.cumsum(shares[order]), rank)
    return float(values[order][min(reached, len(order) - 1)])
