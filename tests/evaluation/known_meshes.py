"""Figures whose truth is known, and their textured meshes made by the same code that finishes a result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial import KDTree

from recdreamer.evaluation.figurines import Figurines
from recdreamer.evaluation.mesh_distance import figure_or_none, part_levels, true_surface
from recdreamer.mesh import Mesh, MeshConfig, dress_mesh, mesh_of_field, stand_on_origin
from recdreamer.mesh.baked_texture import Tiles

FINE = MeshConfig(resolution=60, target_faces=3000, texture_size_px=256, closed_gap=0.0, smoothing_steps=1)


def figure_of(prompt: str) -> Figurines:
    figure = figure_or_none(prompt)
    assert figure is not None
    return figure


def finish(figure: Figurines, folder: Path, fold: Callable = lambda xyz: xyz) -> Path:
    """result/mesh.npz and albedo.png of a figure; `fold` moves each point to where it asks for matter and colour."""
    true = true_surface(figure, 40_000)
    nearest = KDTree(true.points)

    def density(xyz: torch.Tensor) -> torch.Tensor:
        return 60.0 * torch.from_numpy(part_levels(figure, fold(xyz.double().numpy())).min(1) < 0).float()

    def color(xyz: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(true.colors[nearest.query(fold(xyz.double().numpy()))[1]]).float()

    found = mesh_of_field(density, color, FINE)
    place = partial(stand_on_origin, height_m=1.8)
    dress_mesh(found.mesh, found.shade, found.normal_at, FINE, folder, place=place)
    return folder


def two_faced(xyz: np.ndarray) -> np.ndarray:
    """Points behind are treated as their mirror images in front: the face is on the back as well."""
    return xyz * [1, 0, 1] - np.abs(xyz) * [0, 1, 0]


def read(folder: Path) -> tuple[Mesh, Tiles]:
    with np.load(folder / "mesh.npz", allow_pickle=False) as arrays:
        mesh = Mesh(arrays["verts"], arrays["faces"], arrays["uvs"])
    return mesh, {1001: np.asarray(Image.open(folder / "albedo.png"))}
