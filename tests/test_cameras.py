"""Cameras: the project's conventions, projection both ways, and the distribution of training views."""

import math

import pytest
import torch

from recdreamer.cameras import (
    CameraConfig,
    Cameras,
    camera_rays,
    close_ups,
    orbit_cameras,
    sample_cameras,
)


def cameras_at(*azimuths_deg: float, elevation_deg: float = 0.0) -> Cameras:
    azimuths = torch.tensor(azimuths_deg, dtype=torch.float64)
    return orbit_cameras(azimuths, torch.full_like(azimuths, elevation_deg), 4.0, 30.0)


def project(cameras: Cameras, point: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Continuous (row, column) of a world point in each view; the top left corner is (0, 0)."""
    homogeneous = torch.cat([point, point.new_ones(1)])
    x, y, z, _ = (torch.linalg.inv(cameras.c2w) @ homogeneous).unbind(-1)
    focal_px = 0.5 * height / torch.tan(0.5 * cameras.fov_y_rad)
    return torch.stack([0.5 * height + focal_px * y / z, 0.5 * width - focal_px * x / z], dim=-1)


def test_azimuth_names_the_side_the_camera_stands_at():
    positions = cameras_at(0, 90, 180, 270).c2w[:, :3, 3]
    expected = torch.tensor([[0, -4, 0], [4, 0, 0], [0, 4, 0], [-4, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(positions, expected, atol=1e-12, rtol=0)


def test_front_camera_looks_along_plus_y():
    c2w = cameras_at(0).c2w[0]
    torch.testing.assert_close(-c2w[:3, 2], torch.tensor([0.0, 1, 0], dtype=torch.float64))


def test_elevation_lifts_the_camera():
    position = cameras_at(0, elevation_deg=30).c2w[0, :3, 3]
    expected = torch.tensor([0, -4 * math.cos(math.pi / 6), 2], dtype=torch.float64)
    torch.testing.assert_close(position, expected)


@pytest.mark.parametrize("elevation_deg", [-90.0, -20.0, 0.0, 45.0, 90.0])
def test_axes_are_a_right_handed_rotation(elevation_deg):
    rotation = cameras_at(0, 17, 200, elevation_deg=elevation_deg).c2w[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3, dtype=torch.float64))


def test_up_in_the_world_is_up_in_the_image():
    rows = project(cameras_at(0, 90, 180, 270), torch.tensor([0.0, 0, 0.5], dtype=torch.float64), 64, 64)[
        :, 0
    ]
    assert (rows < 32).all()


@pytest.mark.parametrize(("azimuth_deg", "is_left"), [(90.0, True), (270.0, False)])
def test_the_face_points_left_from_the_right_side(azimuth_deg, is_left):
    column = project(cameras_at(azimuth_deg), torch.tensor([0.0, -0.5, 0], dtype=torch.float64), 64, 64)[0, 1]
    assert (column < 32) == is_left


def test_plus_x_is_on_the_right_of_the_front_view():
    assert project(cameras_at(0), torch.tensor([0.5, 0, 0], dtype=torch.float64), 64, 64)[0, 1] > 32


def test_points_along_a_ray_project_back_to_its_pixel():
    cameras = cameras_at(10, 100, 275, elevation_deg=20)
    rays_o, rays_d = camera_rays(cameras, 6, 10)
    for row, column in [(0, 0), (5, 9), (2, 7)]:
        for view in range(3):
            point = rays_o[view, row, column] + 3.3 * rays_d[view, row, column]
            pixel = project(cameras, point, 6, 10)[view]
            torch.testing.assert_close(pixel, torch.tensor([row + 0.5, column + 0.5], dtype=torch.float64))


def test_a_projected_point_lies_on_the_ray_of_its_pixel():
    cameras = cameras_at(0)
    rays_o, rays_d = camera_rays(cameras, 64, 64)
    # The centre of pixel (20, 40) in the plane of the origin, worked out by hand.
    half_height = 4 * math.tan(math.radians(15))
    x, z = half_height * (2 * 40.5 / 64 - 1), half_height * (1 - 2 * 20.5 / 64)
    point = torch.tensor([x, 0, z], dtype=torch.float64)
    along = (point - rays_o[0, 20, 40]) @ rays_d[0, 20, 40]
    torch.testing.assert_close(rays_o[0, 20, 40] + along * rays_d[0, 20, 40], point, atol=1e-12, rtol=0)


def test_rays_have_unit_length_and_the_angle_of_view():
    _, rays_d = camera_rays(cameras_at(33), 400, 3)
    torch.testing.assert_close(rays_d.norm(dim=-1), torch.ones(1, 400, 3, dtype=torch.float64))
    angle_deg = torch.rad2deg(torch.acos((rays_d[0, 0, 1] * rays_d[0, -1, 1]).sum()))
    assert angle_deg == pytest.approx(30 * 399 / 400, abs=0.01)


def test_every_slice_of_the_circle_gets_one_view():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        azimuth_deg = sample_cameras(CameraConfig(), 5, generator, "cpu").azimuth_deg
        assert (azimuth_deg / 72).floor().tolist() == [0, 1, 2, 3, 4]


def test_azimuths_are_uniform_and_ranges_are_kept():
    config = CameraConfig(
        elevation_deg=(-10.0, 30.0), distance=(3.0, 5.0), fov_y_deg=(20.0, 40.0), azimuth_deg=(-180.0, 180.0)
    )
    cameras = sample_cameras(config, 4000, torch.Generator().manual_seed(1), "cpu")
    quarters = torch.histc(cameras.azimuth_deg, 4, -180, 180)
    assert quarters.tolist() == [1000] * 4
    distance = cameras.c2w[:, :3, 3].norm(dim=-1)
    for values, low, high in [
        (cameras.elevation_deg, -10, 30),
        (distance, 3, 5),
        (torch.rad2deg(cameras.fov_y_rad), 20, 40),
    ]:
        assert values.min() >= low - 1e-4
        assert values.max() <= high + 1e-4
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_the_seed_decides():
    first, same, other = (
        sample_cameras(CameraConfig(), 4, torch.Generator().manual_seed(seed), "cpu").c2w
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_q_sampling_looks_at_each_bin_as_often_as_asked() -> None:
    config = CameraConfig(azimuth_probs=(0.1, 0.6, 0.15, 0.15))
    azimuth_deg = sample_cameras(config, 20_000, torch.Generator().manual_seed(0), "cpu").azimuth_deg
    bins = ((azimuth_deg + 45) % 360 // 90).long().bincount(minlength=4) / len(azimuth_deg)
    # Slices leave no chance but at their ends.
    assert torch.allclose(bins, torch.tensor(config.azimuth_probs), atol=1e-3)
    right = azimuth_deg[(azimuth_deg > 45) & (azimuth_deg < 135)]
    assert abs(right.mean() - 90) < 0.5 and 44 < (right - 90).abs().max() <= 45


def test_a_close_up_has_its_target_in_the_middle_and_shows_it_larger_and_upright():
    wide = cameras_at(20.0, 200.0, elevation_deg=10.0)
    targets = torch.tensor([[0.3, -0.2, 0.5], [-0.4, 0.1, -0.6]], dtype=torch.float64)
    near = close_ups(wide, targets, 3.0)
    torch.testing.assert_close(near.c2w[:, :3, 3], wide.c2w[:, :3, 3])
    identity = near.c2w[:, :3, :3].mT @ near.c2w[:, :3, :3]
    torch.testing.assert_close(identity, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert (near.c2w[:, 2, 1] > 0.9).all(), "up in the world is up in the picture"
    for view, target in enumerate(targets):
        above = target + torch.tensor([0, 0, 0.01], dtype=torch.float64)
        row, column = project(near, target, 60, 60)[view]
        assert (row.item(), column.item()) == pytest.approx((30, 30))
        lengths = [
            (project(c, above, 60, 60) - project(c, target, 60, 60))[view].norm() for c in (near, wide)
        ]
        assert (lengths[0] / lengths[1]).item() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("kind", ["own", "shared", "antithetic"])
def test_the_jitter_of_views_stays_in_their_slices_and_reaches_all_azimuths(kind: str) -> None:
    config = CameraConfig(azimuth_jitter=kind)
    drawn = torch.stack([
        sample_cameras(config, 4, torch.Generator().manual_seed(seed), "cpu").azimuth_deg for seed in range(400)
    ])  # fmt: skip
    assert torch.equal((drawn // 90).long(), torch.arange(4).expand(400, -1))
    within = drawn % 90 / 90
    assert (within.mean(0) - 0.5).abs().max() < 0.05 and within.std(0).min() > 0.25
    first, second = within[:, 0], within[:, 1]
    assert torch.allclose(first, second, atol=1e-4) == (kind == "shared")
    assert torch.allclose(first, 1 - second, atol=1e-4) == (kind == "antithetic")
    assert torch.allclose(first, within[:, 2], atol=1e-4) == (kind == "shared")
