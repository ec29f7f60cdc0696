"""Ray casts against a mesh, texture lookup, and pictures of a mesh beside those of the true figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.evaluation.mesh_distance import about_z, figure_bounds, fitted_to
from recdreamer.evaluation.mesh_views import (
    BACKGROUND,
    mesh_colors,
    mesh_views,
    psnr_db,
    sheet_cameras,
    texture_colors,
    true_views,
    write_views,
)
from recdreamer.mesh import Mesh

from .known_meshes import figure_of, read

SIZE_PX = 64


def test_a_texture_is_looked_up_between_its_texels() -> None:
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 1] = 200  # upper right
    uvs = np.array([[0.75, 0.75], [0.5, 0.75], [0.5, 0.5], [1.0, 1.0], [0.25, 0.25]])
    assert texture_colors(texture, uvs)[:, 0] * 255 == pytest.approx([200, 100, 50, 200, 0])


def test_every_face_takes_its_colour_from_its_own_tile() -> None:
    verts = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [1, 3, 2]], np.int32)
    uvs = np.float32([[[0, 0], [1, 0], [0, 1]], [[2, 1], [2, 2], [1, 2]]])
    tiles = {tile: np.full((4, 4, 3), value, np.uint8) for tile, value in ((1001, 51), (1012, 204))}
    # At the corner that both tiles share, too.
    weights = np.array([[1, 1, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]]) / [[3], [1], [3], [1]]
    colors = mesh_colors(Mesh(verts, faces, uvs), tiles, np.array([0, 0, 1, 1]), weights)
    assert colors == pytest.approx(np.repeat([[0.2], [0.2], [0.8], [0.8]], 3, axis=1))


def test_the_truth_textured_by_itself_looks_like_the_truth(bear_folder, janus_folder) -> None:
    figure, cameras = figure_of("a red bear"), sheet_cameras()
    true, (lo, hi) = true_views(figure, cameras, SIZE_PX), figure_bounds(figure)

    def psnr(folder, yaw_deg: float = 0.0) -> float:
        mesh, texture = read(folder)
        return psnr_db(mesh_views(fitted_to(mesh, yaw_deg, lo, hi), texture, cameras, SIZE_PX).textured, true)

    own = psnr(bear_folder)
    assert own > 26
    # What must look worse: the wrong side, a second face, another figure.
    assert psnr(bear_folder, 180.0) < own - 8
    assert psnr(janus_folder) < own - 5
    assert psnr_db(true_views(figure_of("a red bird"), cameras, SIZE_PX), true) < own - 8


def test_turning_a_mesh_turns_its_views(bear_folder) -> None:
    """Azimuth counts counter-clockwise: what was seen from 30 degrees is seen from 60 after 30 degrees more."""
    mesh, texture = read(bear_folder)
    mesh = Mesh((mesh.verts - [0, 0, 0.9]) * 0.8, mesh.faces, mesh.uvs)
    turned = Mesh(mesh.verts @ about_z(30.0).T, mesh.faces, mesh.uvs)
    views, after = (mesh_views(m, texture, sheet_cameras(), SIZE_PX) for m in (mesh, turned))
    assert psnr_db(after.textured.roll(-1, 0), views.textured) > 40
    assert psnr_db(after.clay.roll(-1, 0), views.clay) > 40
    assert psnr_db(after.textured, views.textured) < 30


def test_psnr_by_hand() -> None:
    grey = torch.full((2, 3, 4, 4), 0.5)
    assert psnr_db(grey + 0.1, grey) == pytest.approx(20, abs=1e-4)
    assert psnr_db(grey, grey) == 100


def test_the_sheet_has_a_column_for_each_view(tmp_path, bear_folder) -> None:
    mesh, texture = read(bear_folder)
    views = mesh_views(mesh, texture, sheet_cameras(3), 32)
    write_views(views, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (64, 96, 3)
    assert abs(int(sheet[0, 0, 0]) - round(255 * BACKGROUND)) <= 1
    saturation = np.ptp(sheet.astype(int), axis=2)
    assert saturation[:32].max() > 80 and saturation[32:].max() == 0
