"""Hulls of bodies whose outlines are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recdreamer.cameras import orbit
from recdreamer.evaluation.figurines import KINDS
from recdreamer.evaluation.head_features import count_on_head
from recdreamer.evaluation.mesh_distance import best_yaw, figure_bounds, fitted_to, mesh_surface
from recdreamer.evaluation.mesh_views import true_views
from recdreamer.evaluation.visual_hull import CELLS, hull_mesh, outlines, visual_hull
from recdreamer.presets import EMBEDDED_CAMERAS

from .known_meshes import figure_of
from .test_head_features import KNOWN, changed, rows_on_head

CAMERAS = orbit(24, EMBEDDED_CAMERAS, torch.device("cpu"), 7.5)


def pictures_of(figure, px: int = 64) -> torch.Tensor:
    """As a run keeps them: 24 views in 8 bits."""
    return (true_views(figure, CAMERAS, px) * 255).round() / 255


def counted(pictures: torch.Tensor, figure, kind: str) -> int:
    mesh, (lo, hi) = hull_mesh(pictures, CAMERAS), figure_bounds(figure)
    return count_on_head(
        mesh_surface(fitted_to(mesh, best_yaw(mesh, figure), lo, hi), None, 20_000).points, figure, kind
    )


def test_the_hull_of_a_disc_in_all_pictures_is_a_ball() -> None:
    """The outline of a ball of radius r at distance d is a disc of angle asin(r / d); its hull is hardly larger."""
    size, radius = 128, 0.5
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    tangent = torch.tan(torch.asin(torch.tensor(radius / 4.0))) / torch.tan(CAMERAS.fov_y_rad[0] / 2)
    disc = (at[:, None].square() + at[None].square()).sqrt() <= tangent
    solid = visual_hull(disc.numpy()[None].repeat(24, 0), CAMERAS)
    line = np.linspace(-1, 1, CELLS)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    assert solid[distance < radius - 0.03].all()
    beside = np.abs(z) < 0.3
    assert not solid[(distance > radius + 0.04) & beside].any()


def test_what_no_picture_shows_is_cut_away() -> None:
    masks = np.ones((24, 32, 32), bool)
    assert visual_hull(masks, CAMERAS).all()
    masks[5, :, :16] = False
    cut = visual_hull(masks, CAMERAS)
    assert 0.3 < cut.mean() < 0.7


def test_a_hole_of_the_background_s_colour_is_filled() -> None:
    pictures = torch.full((1, 3, 16, 16), 0.8)
    pictures[:, :, 4:12, 4:12] = 0.1
    pictures[:, :, 7:9, 7:9] = 0.8
    mask = outlines(pictures)[0]
    assert mask.sum() == 64 and mask[4:12, 4:12].all()


@pytest.mark.parametrize("kind", KINDS)
def test_ears_are_counted_on_the_hull_of_true_pictures(kind: str) -> None:
    figure = figure_of(f"a red {kind}")
    assert counted(pictures_of(figure), figure, kind) == KNOWN[""][kind]


def test_a_loose_part_of_a_few_pixels_stays() -> None:
    """An antenna whose stem is not seen is a ball of 0.4 % of the body, as the tip of a torn ear is."""
    figure = figure_of("a red robot")
    stem = [row for row in rows_on_head("robot") if figure.is_box[0, row] > 0]
    loose = changed(figure, stem, (0, 0, 0), (-1, -1, -1))
    assert counted(pictures_of(loose), figure, "robot") == 1


@pytest.mark.parametrize("kind", ["bear", "rabbit"])
def test_a_missing_ear_is_missed_on_the_hull(kind: str) -> None:
    figure = figure_of(f"a red {kind}")
    left = [row for row in rows_on_head(kind) if figure.centers[0, row, 0] > 0]
    without = changed(figure, left, (0, 0, 0), (-1, -1, -1))
    assert counted(pictures_of(without), figure, kind) == 1
