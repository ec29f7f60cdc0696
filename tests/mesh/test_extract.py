"""Extraction against spheres whose area and volume are known, and fields made to break it."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from recdreamer.mesh import Mesh, MeshConfig, extract_mesh
from recdreamer.mesh.mesh import (
    face_cross,
    is_watertight,
    signed_volume,
    surface_area,
    vertex_normals,
)
from recdreamer.mesh.solid_cells import _within, bridges, hidden, solid_parts, without_cavities, without_gaps
from recdreamer.report import JobError

from .fields import SMALL, ball, euler_characteristic, nose_field


def test_sphere_has_the_area_volume_and_topology_of_a_sphere() -> None:
    mesh = extract_mesh(ball(0.6), replace(SMALL, threshold=40.0))

    assert is_watertight(mesh)
    assert euler_characteristic(mesh) == 2
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.005)
    assert surface_area(mesh) == pytest.approx(4 * math.pi * 0.6**2, rel=0.005)
    # Triangles with edges of 0.06 stand almost 0.002 off a sphere of this radius.
    assert np.abs(np.linalg.norm(mesh.verts, axis=1) - 0.6).max() < 0.003
    assert len(mesh.faces) <= 1.01 * SMALL.target_faces


def test_normals_look_outward_and_are_those_of_the_sphere(sphere_mesh: Mesh) -> None:
    outward = sphere_mesh.verts / np.linalg.norm(sphere_mesh.verts, axis=1, keepdims=True)
    assert (vertex_normals(sphere_mesh) * outward).sum(1).min() > 0.98
    centres = sphere_mesh.verts[sphere_mesh.faces].mean(1)
    assert (face_cross(sphere_mesh) * centres).sum(1).min() > 0


def test_a_steep_field_gives_no_stairs() -> None:
    # A jump from 0 to 1000 inside one cell: marching cubes alone would be half a cell (0.01) off.
    config = replace(SMALL, smoothing_steps=0, target_faces=10**6)
    mesh = extract_mesh(lambda xyz: 1000.0 * (xyz.norm(dim=-1) < 0.6), config)
    radii = np.linalg.norm(mesh.verts, axis=1)
    assert np.quantile(np.abs(radii - 0.6), 0.99) < 0.001


def test_two_spheres_are_two_parts_and_a_speck_is_dropped() -> None:
    large, small = ball(0.4, (-0.4, 0.0, 0.0)), ball(0.2, (0.5, 0.0, 0.0))
    speck = ball(0.06, (0.0, 0.0, 0.8))  # 0.3 % of the large ball's volume
    mesh = extract_mesh(lambda xyz: large(xyz) + small(xyz) + speck(xyz), replace(SMALL, threshold=40.0))

    assert euler_characteristic(mesh) == 4
    assert mesh.verts[:, 2].max() < 0.5
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * (0.4**3 + 0.2**3), rel=0.01)


@pytest.mark.parametrize(
    ("gap", "sigma", "closed_gap", "is_kept"),
    [(0.03, 80.0, 0.04, True), (0.03, 8.0, 0.04, False), (0.15, 80.0, 0.04, False), (0.03, 80.0, 0.0, False)],
    ids=["near and opaque", "a haze", "far off", "no gaps are closed"],
)
def test_a_loose_rod_is_joined_where_it_is_near_and_opaque(
    gap: float, sigma: float, closed_gap: float, is_kept: bool
) -> None:
    """0.2 % of the ball's volume, above its top. Across the rod a ray meets an optical depth of 0.06 sigma."""

    def field(xyz: torch.Tensor) -> torch.Tensor:
        above = xyz[:, 2] - 0.5
        rod = (xyz[:, :2].norm(dim=1) < 0.03) & (above > gap) & (above < 0.4)
        return 80.0 * (xyz.norm(dim=1) < 0.5) + sigma * rod

    config = replace(SMALL, threshold=5.0, resolution=96, closed_gap=closed_gap)
    mesh = extract_mesh(field, config)
    assert is_watertight(mesh)
    assert euler_characteristic(mesh) == 2
    assert mesh.verts[:, 2].max() == pytest.approx(0.9 if is_kept else 0.5, abs=0.015)


def test_a_rod_and_a_plate_of_a_few_cells_keep_their_size() -> None:
    """Neither the closing of gaps nor smoothing nor decimation may eat what is thin."""

    def field(xyz: torch.Tensor) -> torch.Tensor:
        rod = (xyz[:, :2].norm(dim=1) < 0.03) & (xyz[:, 2].abs() < 0.8)
        plate = (xyz[:, 0].abs() < 0.02) & (xyz[:, 1].abs() < 0.4) & (xyz[:, 2].abs() < 0.4)
        return ball(0.2)(xyz) + 100.0 * (rod | plate)

    mesh = extract_mesh(field, replace(SMALL, threshold=40.0, resolution=128))
    assert is_watertight(mesh)
    assert mesh.verts[:, 2].max() == pytest.approx(0.8, abs=0.01)
    x, y, z = np.abs(mesh.verts).T
    on_rod, on_plate = (z > 0.5) & (z < 0.75), (y > 0.25) & (y < 0.35) & (z < 0.35)
    assert np.hypot(x, y)[on_rod].mean() == pytest.approx(0.03, rel=0.05)
    assert x[on_plate].mean() == pytest.approx(0.02, rel=0.05)


def test_min_component_share_keeps_only_the_largest_part() -> None:
    large, small = ball(0.4, (-0.4, 0.0, 0.0)), ball(0.2, (0.5, 0.0, 0.0))
    config = replace(SMALL, min_component_share=0.5)
    mesh = extract_mesh(lambda xyz: large(xyz) + small(xyz), config)
    assert euler_characteristic(mesh) == 2
    assert mesh.verts[:, 0].max() < 0.1


def test_a_hollow_object_has_no_wall_inside() -> None:
    def shell(xyz: torch.Tensor) -> torch.Tensor:
        return ball(0.6)(xyz) - ball(0.45)(xyz)

    mesh = extract_mesh(shell, replace(SMALL, threshold=40.0))
    assert euler_characteristic(mesh) == 2
    assert np.linalg.norm(mesh.verts, axis=1).min() > 0.59


@pytest.mark.parametrize(
    ("hidden_share", "fill_pores", "is_filled"),
    [(0.03, True, True), (0.03, False, True), (0.0, False, False)],
)
def test_a_hollow_with_a_way_out_has_no_wall_inside(
    hidden_share: float, fill_pores: bool, is_filled: bool
) -> None:
    """A hollow ball with a hole in its shell that is wider than any gap that is closed."""

    def bottle(xyz: torch.Tensor) -> torch.Tensor:
        hole = (xyz[:, :2].norm(dim=1) < 0.08) & (xyz[:, 2] > 0)
        return (ball(0.6)(xyz) - ball(0.4)(xyz)) * ~hole

    config = replace(SMALL, threshold=40.0, hidden_share=hidden_share, fill_pores=fill_pores)
    mesh = extract_mesh(bottle, config)
    assert is_watertight(mesh) and euler_characteristic(mesh) == 2
    whole, hollow = 4 / 3 * math.pi * 0.6**3, 4 / 3 * math.pi * 0.4**3
    hole = math.pi * 0.08**2 * 0.2
    assert signed_volume(mesh) == pytest.approx(
        whole - hole / 2 if is_filled else whole - hollow - hole, rel=0.03
    )


def _box(depth: int, width: int) -> np.ndarray:
    """Solid, with a pit of a square mouth in the middle of its top, in cells."""
    solid, low = np.ones((64, 64, 40), bool), 32 - width // 2
    solid[low : low + width, low : low + width, 40 - depth :] = False
    return solid


@pytest.mark.parametrize(("width", "depth"), [(8, 8), (8, 16), (12, 12), (12, 30), (24, 12)])
def test_a_pit_is_hidden_from_where_its_mouth_is_small(width: int, depth: int) -> None:
    """On its axis, the mouth is 4 atan(w² / (d √(d² + 2 w²))) of 4π, w half of its width and d the depth."""
    below = np.arange(depth) + 0.5
    mouth = np.arctan(width**2 / 4 / (below * np.sqrt(below**2 + width**2 / 2))) / math.pi
    axis = hidden(_box(depth, width), 0.05)[32, 32, ::-1][:depth]
    assert axis[mouth < 0.02].all()
    assert not axis[mouth > 0.08].any()


def test_what_lies_open_is_not_hidden() -> None:
    """Beside and below an object, in a pit as deep as wide, in a slot and in a tunnel that are narrow and long."""
    ground = np.zeros((40, 40, 40), bool)
    ground[10:30, 10:30, 4:30] = True
    assert not hidden(ground, 0.05).any()
    assert not hidden(_box(12, 12), 0.03).any()
    slot, tunnel = ground.copy(), ground.copy()
    slot[19:21, :, 8:] = False
    tunnel[19:21, 19:21] = False
    assert not hidden(slot, 0.05).any() and not hidden(tunnel, 0.05).any()
    tunnel[19:21, 19:21, 4:6] = True
    assert hidden(tunnel, 0.05)[19:21, 19:21, 6:18].all(), "shut at one end it is deep"


def test_what_is_hidden_does_not_depend_on_how_the_object_lies() -> None:
    solid = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 40, 50)), 3) > 0
    found = hidden(solid, 0.05)
    assert found.any()
    for axes in ((1, 2, 0), (2, 1, 0)):
        assert (hidden(solid.transpose(axes), 0.05) == found.transpose(axes)).all()
    assert (hidden(solid[::-1, :, ::-1], 0.05) == found[::-1, :, ::-1]).mean() > 0.995, "but for rounding"


def test_an_object_cut_by_the_scene_is_capped_flat_at_its_border() -> None:
    warnings: list[str] = []
    mesh = extract_mesh(ball(0.6, (0.0, 0.0, 1.0)), replace(SMALL, threshold=40.0), warn=warnings.append)

    assert is_watertight(mesh)
    assert euler_characteristic(mesh) == 2
    assert mesh.verts[:, 2].max() == pytest.approx(1.0, abs=0.01)
    assert signed_volume(mesh) == pytest.approx(2 / 3 * math.pi * 0.6**3, rel=0.02)
    assert len(warnings) == 1
    assert "cut off" in warnings[0]


def test_a_part_too_thin_for_the_coarse_look_is_not_cut_off() -> None:
    def with_antenna(xyz: torch.Tensor) -> torch.Tensor:
        rod = (xyz[:, :2].norm(dim=-1) < 0.015) & (xyz[:, 2].abs() < 0.9)
        return ball(0.2)(xyz) + 100.0 * rod

    # Between the coarse look's sample points there is no sign of the rod.
    assert float(with_antenna(torch.tensor([[1 / 64, 1 / 64, 0.5]]))) < 1e-6
    mesh = extract_mesh(with_antenna, replace(SMALL, resolution=32))
    assert np.ptp(mesh.verts[:, 2]) == pytest.approx(1.8, abs=0.02)
    assert is_watertight(mesh)


def test_noise_still_gives_a_closed_surface() -> None:
    grid = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0)).clamp(min=0) * 50

    def noise(xyz: torch.Tensor) -> torch.Tensor:
        place = xyz.reshape(1, -1, 1, 1, 3)
        return torch.nn.functional.grid_sample(grid, place, align_corners=False).reshape(-1)

    mesh = extract_mesh(noise, replace(SMALL, threshold=15.0), warn=lambda message: None)
    assert is_watertight(mesh)
    assert signed_volume(mesh) > 0
    assert len(mesh.faces) < 2 * SMALL.target_faces


def test_axes_are_not_mixed_up() -> None:
    mesh = extract_mesh(nose_field, SMALL)
    nose = mesh.verts[mesh.verts[:, 1].argmin()]
    assert nose == pytest.approx([0.1, -0.7, 0.2], abs=0.03)


def test_solid_parts_fills_cavities_and_drops_specks() -> None:
    solid = np.zeros((12, 12, 12), bool)
    solid[1:8, 1:8, 1:8] = True
    solid[3:5, 3:5, 3:5] = False
    solid[10, 10, 10] = True
    kept = solid_parts(solid, 0.01)
    assert kept[1:8, 1:8, 1:8].all()
    assert kept.sum() == 7**3


def test_space_open_to_the_border_does_not_count_as_a_cavity() -> None:
    solid = np.random.default_rng(0).random((20, 16, 12)) < 0.7
    filled = without_cavities(solid)
    assert (filled == ndimage.binary_fill_holes(solid)).all()
    assert (filled & ~solid)[1:-1, 1:-1, 1:-1].any()
    assert (filled == solid)[[0, -1]].all()


def test_both_marching_cubes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="scikit-image stands in only where PyMCubes has no wheel")
    expected = extract_mesh(nose_field, SMALL)
    monkeypatch.setitem(sys.modules, "mcubes", None)
    mesh = extract_mesh(nose_field, SMALL)
    assert is_watertight(mesh)
    assert signed_volume(mesh) == pytest.approx(signed_volume(expected), rel=0.005)


def test_missing_marching_cubes_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mcubes", "skimage", "skimage.measure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(JobError, match=r"PyMCubes .* or scikit-image"):
        extract_mesh(ball(0.6), SMALL)


def test_every_part_of_the_work_can_be_cancelled() -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    extract_mesh(ball(0.6), SMALL, tick=count)
    for stop_at in range(1, calls + 1, 3):
        left = stop_at

        def stop() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract_mesh(ball(0.6), SMALL, tick=stop)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolution", 2),
        ("target_faces", 10),
        ("threshold", 0.0),
        ("min_component_share", 1.5),
        ("hidden_share", -0.1),
    ],
)
def test_a_senseless_setting_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"mesh.{name} is {value}"):
        MeshConfig(**{name: value})


@pytest.mark.parametrize(
    ("tunnel", "closed_gap", "euler"), [(0.02, 0.06, 2), (0.02, 0.0, 0), (0.12, 0.06, 0)]
)
def test_narrow_tunnels_are_closed_and_wide_ones_stay(tunnel: float, closed_gap: float, euler: int) -> None:
    """A ball with a tunnel through it is a torus."""

    def field(xyz: torch.Tensor) -> torch.Tensor:
        return ball(0.6)(xyz) * (xyz[:, :2].norm(dim=1) > tunnel)

    config = replace(SMALL, threshold=40.0, resolution=96, closed_gap=closed_gap, smoothing_steps=0)
    mesh = extract_mesh(field, config)
    assert is_watertight(mesh)
    assert euler_characteristic(mesh) == euler
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.08)


@pytest.mark.parametrize(("fill_pores", "is_kept"), [(False, True), (True, False)])
def test_a_narrow_slot_stays_where_only_what_is_parted_is_closed(fill_pores: bool, is_kept: bool) -> None:
    """Halfway through a box, 0.04 wide."""

    def field(xyz: torch.Tensor) -> torch.Tensor:
        slot = (xyz[:, 0].abs() < 0.02) & (xyz[:, 2] > 0)
        return 80.0 * ((xyz.abs() < 0.5).all(1) & ~slot)

    config = replace(SMALL, threshold=40.0, resolution=96, closed_gap=0.06, smoothing_steps=0)
    mesh = extract_mesh(field, replace(config, fill_pores=fill_pores))
    assert is_watertight(mesh)
    assert signed_volume(mesh) == pytest.approx(1.0 - 0.5 * 0.04 * is_kept, abs=0.01)


def test_what_is_parted_is_closed_at_the_gap_alone() -> None:
    """Two blocks side by side, and a slot in the larger; only the first gap parts."""
    solid = np.zeros((40, 20, 20), bool)
    solid[2:20, 2:18, 2:18] = solid[22:38, 2:18, 2:18] = True
    solid[28:30, 2:18, 10:18] = False
    filled = without_gaps(solid, 2) & ~solid
    bridge = bridges(filled, solid)
    assert bridge[20:22, 4:16, 4:16].all() and filled[28:30, 4:16, 12:16].all()
    assert not bridge[26:].any()
    assert not bridges(filled, solid | filled).any()


@pytest.mark.parametrize("radius_cells", [1, 3, 16])
def test_cells_within_a_radius_are_those_of_the_distance_transform(radius_cells: int) -> None:
    solid = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(50, 40, 60)), 2) > 0.2
    expected = ndimage.distance_transform_edt(~solid) <= radius_cells
    assert (_within(solid, radius_cells) == expected).all()


def test_closing_changes_nothing_where_the_ball_fits() -> None:
    solid = np.zeros((40, 40, 40), bool)
    solid[:10, 5:35, 5:35] = solid[22:, 5:35, 5:35] = True
    assert (without_gaps(solid, 3) == solid).all()
    solid[14:22, 5:35, 5:35] = True
    closed = without_gaps(solid, 3)
    assert closed[:, 5:35, 5:35][10:14, 5:25, 5:25].all()
    assert (closed | ~solid).all()
