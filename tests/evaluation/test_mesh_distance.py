"""The measures of a mesh against closed forms, and against figures whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import KDTree

from recdreamer.cameras import camera_rays
from recdreamer.evaluation.figurines import KINDS, Figurines, nearest_hit
from recdreamer.evaluation.mesh_distance import (
    SurfacePoints,
    about_z,
    best_yaw,
    compare_surfaces,
    figure_bounds,
    figure_or_none,
    fitted_to,
    mesh_surface,
    part_levels,
    triangle_measures,
    true_surface,
)
from recdreamer.evaluation.mesh_views import sheet_cameras
from recdreamer.mesh import Mesh
from recdreamer.mesh.baked_texture import Tiles

from .known_meshes import figure_of, read


def ball(radius: float, factors=(1.0, 1.0, 1.0)) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return Mesh((sphere.vertices * factors).astype(np.float32), sphere.faces.astype(np.int32))


def figure(*parts: tuple[tuple, tuple, bool]) -> Figurines:
    """Of (centre, radii, is a box), all grey."""
    centers, radii, boxes = (torch.tensor([list(values)]).float() for values in zip(*parts, strict=True))
    return Figurines(centers, radii, torch.zeros_like(boxes), boxes, torch.full_like(centers, 0.5))


def sampled(radius: float, count: int = 40_000) -> SurfacePoints:
    return mesh_surface(ball(radius), None, count, seed=round(100 * radius))


def test_two_balls_about_one_point_are_apart_by_the_difference_of_their_radii() -> None:
    found = compare_surfaces(sampled(0.5), sampled(0.6), height=1.2)
    assert found.chamfer == pytest.approx(0.1 / 1.2, rel=2e-3)
    assert found.f_score == 0
    assert found.normal_consistency == pytest.approx(1, abs=2e-3)


def test_a_ball_and_itself() -> None:
    found = compare_surfaces(sampled(0.5), true_surface(figure(((0, 0, 0), (0.5,) * 3, False)), 40_000), 1.0)
    assert found.chamfer < 0.005 and found.f_score == 1 and found.normal_consistency > 0.999


def test_a_surface_inside_out_is_seen() -> None:
    inside_out = replace(ball(0.5), faces=ball(0.5).faces[:, ::-1].copy())
    found = compare_surfaces(mesh_surface(inside_out, None, 20_000), sampled(0.5), 1.0)
    assert found.normal_consistency < -0.99


def test_half_a_ball_is_found_in_full_and_finds_half() -> None:
    """Precision 1 and recall one half make an F-score of two thirds."""
    whole = sampled(0.5)
    upper = whole.points[:, 2] > 0
    half = SurfacePoints(whole.points[upper], whole.normals[upper], whole.colors[upper])
    # The band within 2 % below the cut is found as well: by Archimedes, 0.02 of the ball's height.
    assert compare_surfaces(half, whole, 1.0).f_score == pytest.approx(2 * 0.52 / 1.52, abs=0.01)


def test_colours_that_differ_by_a_tenth() -> None:
    one = sampled(0.5)
    other = replace(one, colors=one.colors + 0.1)
    assert compare_surfaces(one, other, 1.0).color_difference == pytest.approx(0.1)


@pytest.mark.parametrize("radii", [(0.5, 0.5, 0.5), (0.1, 0.4, 0.7)])
def test_an_ellipsoid_is_sampled_evenly(radii) -> None:
    drawn = true_surface(figure(((0, 0, 0), radii, False)), 60_000).points
    expected = mesh_surface(ball(1.0, radii), None, 60_000).points
    assert np.allclose((drawn**2).mean(0), (expected**2).mean(0), rtol=0.02)
    assert np.allclose(((drawn / radii) ** 2).sum(1), 1)


def test_a_box_is_sampled_by_the_area_of_its_sides() -> None:
    box = true_surface(figure(((0.1, 0, 0), (0.1, 0.2, 0.4), True)), 40_000)
    shares = np.abs(box.normals).mean(0)
    assert np.allclose(shares, np.array([8, 4, 2]) / 14, atol=0.01)
    assert np.allclose(np.abs((box.points - [0.1, 0, 0]) / [0.1, 0.2, 0.4]).max(1), 1)


def test_what_lies_in_another_part_is_not_sampled() -> None:
    """Two balls of radius 1/2, their middles 1/2 apart: each loses a cap of height 1/4, a quarter of its area."""
    two = figure(((0, 0, 0), (0.5,) * 3, False), ((0.5, 0, 0), (0.5,) * 3, False))
    points = true_surface(two, 40_000).points
    assert part_levels(two, points).min() > -1e-6
    # Archimedes again: the area is even along x, over [-1/2, 1/4] and its mirror image.
    assert np.histogram(points[:, 0], 3, (-0.5, 0.25))[0] / 40_000 == pytest.approx([1 / 6] * 3, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_lie_where_rays_meet_the_figure(kind) -> None:
    truth = figure_of(f"a blue {kind}")
    surface, (lo, hi) = true_surface(truth, 40_000), figure_bounds(truth)
    assert np.allclose(surface.points.min(0), lo, atol=0.02) and np.allclose(
        surface.points.max(0), hi, atol=0.02
    )
    assert (surface.points >= lo - 1e-6).all() and (surface.points <= hi + 1e-6).all()

    rays_o, rays_d = (rays.reshape(1, -1, 3) for rays in camera_rays(sheet_cameras(4), 48, 48))
    depth, normals, _ = nearest_hit(truth, rays_o, rays_d)
    is_hit = depth[0].isfinite()
    hits = (rays_o + rays_d * depth[..., None])[0, is_hit].double().numpy()
    # One way only: what faces the floor is never met.
    distances, nearest = KDTree(surface.points).query(hits)
    assert distances.mean() < 0.01
    assert (normals[0, is_hit].numpy() * surface.normals[nearest]).sum(1).mean() > 0.93
    assert np.abs(part_levels(truth, hits).min(1)).max() < 5e-3  # of a part's own radius, in single precision
    assert len(hits) > 500


def test_a_mesh_is_brought_to_the_figures_height_and_base(bear_folder) -> None:
    lo, hi = figure_bounds(figure_of("a red bear"))
    mesh, _ = read(bear_folder)
    moved = replace(mesh, verts=(0.3 * mesh.verts + [5, -2, 1]).astype(np.float32))
    verts = fitted_to(moved, 0.0, lo, hi).verts
    assert verts[:, 2].min() == pytest.approx(lo[2]) and verts[:, 2].max() == pytest.approx(hi[2])
    assert np.allclose(verts.min(0), lo, atol=0.02) and np.allclose(verts.max(0), hi, atol=0.02)


@pytest.mark.parametrize("turned_deg", [137.0, -61.5])
def test_the_yaw_of_a_turned_figure_is_found(bear_folder, turned_deg) -> None:
    truth = figure_of("a red bear")
    mesh, texture = read(bear_folder)
    turned = replace(mesh, verts=(2.5 * mesh.verts @ about_z(turned_deg).T + [1, 2, 3]).astype(np.float32))
    yaw_deg = best_yaw(turned, truth)
    assert yaw_deg == pytest.approx(-turned_deg, abs=1.0)
    lo, hi = figure_bounds(truth)
    true = true_surface(truth, 40_000)
    found = compare_surfaces(
        mesh_surface(fitted_to(turned, yaw_deg, lo, hi), texture, 40_000), true, hi[2] - lo[2]
    )
    assert found.chamfer < 0.008 and found.f_score > 0.97 and found.normal_consistency > 0.9
    assert found.color_difference < 0.03


def test_another_kind_and_a_second_face_are_farther_from_the_truth(bear_folder, janus_folder) -> None:
    truth = figure_of("a red bear")
    lo, hi = figure_bounds(truth)
    true = true_surface(truth, 20_000)

    def measured(mesh: Mesh, texture: Tiles):
        there = fitted_to(mesh, best_yaw(mesh, truth), lo, hi)
        return compare_surfaces(mesh_surface(there, texture, 20_000), true, hi[2] - lo[2])

    bear, janus = measured(*read(bear_folder)), measured(*read(janus_folder))
    bird = compare_surfaces(true_surface(figure_of("a red bird"), 20_000), true, hi[2] - lo[2])
    for wrong in (janus, bird):
        assert wrong.chamfer > 2 * bear.chamfer
        assert wrong.f_score < bear.f_score - 0.1
        assert wrong.normal_consistency < bear.normal_consistency - 0.05
        assert wrong.color_difference > 2 * bear.color_difference


def test_triangles_worked_out_by_hand() -> None:
    root = 3**0.5
    verts = np.array(
        [[0, 0, 0], [2, 0, 0], [1, root, 0], [9, 0, 0], [9 + root, 0, 0], [9, 0.1, 0]], np.float32
    )
    found = triangle_measures(Mesh(verts, np.array([[0, 1, 2], [3, 4, 5]], np.int32)))
    sliver = 4 * root * (0.1 * root / 2) / (3 + 0.01 + 3.01)
    assert found["quality_mean"] == pytest.approx((1 + sliver) / 2)
    assert found["quality_5th_percentile"] == pytest.approx(sliver + 0.05 * (1 - sliver))
    # Its angle is atan(0.1 / root 3), 3.3 degrees.
    assert found["sliver_share"] == 0.5
    assert (found["faces"], found["components"], found["is_watertight"]) == (2, 2, False)


def test_a_closed_ball_is_one_watertight_part() -> None:
    found = triangle_measures(ball(0.5))
    assert found["is_watertight"] and found["components"] == 1 and found["sliver_share"] == 0
    assert found["quality_mean"] > 0.9


@pytest.mark.parametrize(
    ("prompt", "parts"), [("a red bear", 17), ("Blue  bird", 13), ("a teal robot wearing a hat", 19)]
)
def test_prompts_of_the_embedded_world(prompt, parts) -> None:
    assert int((figure_of(prompt).radii.amin(-1) > 0).sum()) == parts


def test_a_party_means_a_hat_and_without_means_none() -> None:
    count = {text: int((figure_of(f"a red bear{text}").radii.amin(-1) > 0).sum()) for text in
             ("", " at a party", " without a hat")}  # fmt: skip
    assert count[""] == count[" without a hat"] == count[" at a party"] - 3


@pytest.mark.parametrize(
    "prompt", ["", "a bear", "a red car", "a red bear on a horse", "a red bear and a blue bird"]
)
def test_other_prompts_have_no_true_figure(prompt) -> None:
    assert figure_or_none(prompt) is None
