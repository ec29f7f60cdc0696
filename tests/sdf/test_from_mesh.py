"""Signed distances of good meshes and of bad ones, against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.field.grid_values import grid_points, trilinear
from recdreamer.sdf.from_mesh import SolidMesh
from recdreamer.sdf.winding import facing_outward

CELL_48 = 2 / 47


def arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)


def ball(radius: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    return arrays(trimesh.creation.icosphere(4, radius))


def box(*sides: float) -> tuple[np.ndarray, np.ndarray]:
    return arrays(trimesh.creation.box(sides))


def distances(mesh: tuple[np.ndarray, np.ndarray], resolution: int = 48) -> torch.Tensor:
    return SolidMesh(*mesh, "cpu").on_grid(resolution).distances


def box_distance(xyz: torch.Tensor, sides: tuple[float, ...]) -> torch.Tensor:
    beyond = xyz.abs() - 0.5 * torch.tensor(sides)
    return beyond.clamp(min=0).norm(dim=1) + beyond.amax(dim=1).clamp(max=0)


def random_points(count: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) - 1


def brute_force(mesh: tuple[np.ndarray, np.ndarray], xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and generalized winding number, triangle by triangle: solid angles by Van Oosterom and Strackee."""
    corners = mesh[0].astype(np.float64)[mesh[1]][None] - xyz[:, None, None].astype(np.float64)
    a, b, c = corners[:, :, 0], corners[:, :, 1], corners[:, :, 2]
    la, lb, lc = (np.linalg.norm(corner, axis=-1) for corner in (a, b, c))
    dot = lambda u, v: (u * v).sum(-1)  # noqa: E731
    below = la * lb * lc + dot(a, b) * lc + dot(b, c) * la + dot(c, a) * lb
    winding = 2 * np.arctan2(dot(a, np.cross(b, c)), below) / (4 * math.pi)
    # The nearest point of a triangle lies inside it or on one of its edges.
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    foot = dot(a, normal)[..., None] * normal
    is_inside = np.all(
        [dot(np.cross(q - p, foot - p), normal) >= 0 for p, q in ((a, b), (b, c), (c, a))], axis=0
    )
    nearest = np.where(is_inside, np.linalg.norm(foot, axis=-1), np.inf)
    for p, q in ((a, b), (b, c), (c, a)):
        share = np.clip(-dot(p, q - p) / dot(q - p, q - p), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(p + share[..., None] * (q - p), axis=-1))
    return nearest.min(1), winding.sum(1)


def test_a_sphere_and_a_box_have_their_distances():
    xyz = random_points(2000)
    found = SolidMesh(*ball(), "cpu").nearest(xyz).distances
    torch.testing.assert_close(found, xyz.norm(dim=1) - 0.6, atol=2e-3, rtol=0)
    sides = (1.0, 0.6, 1.4)
    found = SolidMesh(*box(*sides), "cpu").nearest(xyz).distances
    torch.testing.assert_close(found, box_distance(xyz, sides), atol=1e-5, rtol=0)


def test_a_grid_can_be_given_up_anywhere():
    told: list[int] = []
    SolidMesh(*ball(), "cpu").on_grid(64, lambda: told.append(1))
    assert len(told) > 3

    def stop() -> None:
        told.pop()
        if not told:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        SolidMesh(*ball(), "cpu").on_grid(64, stop)


def test_on_a_grid_they_are_exact_near_the_surface_and_close_elsewhere():
    exact = grid_points(48).norm(dim=1) - 0.6
    found = distances(ball())
    is_near = exact.abs() < 4 * CELL_48
    assert (found - exact)[is_near].abs().max() < 2e-3
    assert torch.equal((found < 0)[exact.abs() > 2e-3], (exact < 0)[exact.abs() > 2e-3])
    assert (found - exact).abs().max() < 0.15, "only the kink in the middle is smoothed so much"


def test_a_soup_of_triangles_has_the_distance_and_the_winding_number_of_brute_force():
    generator = np.random.default_rng(1)
    verts = generator.uniform(-0.8, 0.8, (36, 3)).astype(np.float32)
    faces = np.arange(36, dtype=np.int32).reshape(12, 3)
    xyz = random_points(1500)
    found = SolidMesh(verts, faces, "cpu").nearest(xyz)
    welded, outward, _ = facing_outward(verts, faces)
    expected, winding = brute_force((welded, outward), xyz.numpy())
    np.testing.assert_allclose(found.distances.abs().numpy(), expected, atol=1e-5)
    is_clear = np.abs(winding - 0.5) > 0.02
    np.testing.assert_array_equal((found.distances < 0).numpy()[is_clear], (winding > 0.5)[is_clear])
    assert (winding[is_clear] > 0.5).sum() > 10, "else the soup is too thin to prove anything"


def test_faces_turned_at_random_and_unwelded_change_nothing():
    verts, faces = ball()
    turned = faces.copy()
    is_turned = np.random.default_rng(0).random(len(faces)) < 0.5
    turned[is_turned] = turned[is_turned][:, ::-1]
    torn = verts[turned].reshape(-1, 3), np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
    torch.testing.assert_close(distances(torn), distances((verts, faces)), atol=1e-5, rtol=0)


def test_barycentrics_belong_to_the_corners_as_they_were_given():
    verts, faces = ball()
    turned = faces.copy()
    turned[::2] = turned[::2][:, ::-1]
    # A face without an area comes first and moves all indices.
    turned = np.concatenate([[[0, 0, 1]], turned]).astype(np.int32)
    xyz = 0.8 * torch.nn.functional.normalize(random_points(100), dim=1)
    found = SolidMesh(verts, turned, "cpu").nearest(xyz)
    corners = torch.from_numpy(verts)[torch.from_numpy(turned).long()[found.faces]]
    places = torch.einsum("pk,pkc->pc", found.barycentrics, corners)
    torch.testing.assert_close((places - xyz).norm(dim=1), found.distances, atol=1e-4, rtol=0)


def test_overlapping_parts_are_joined_and_a_cavity_is_solid():
    first, second = ball(0.4), ball(0.4)
    joined = (
        np.concatenate([first[0] - (0.2, 0, 0), second[0] + (0.2, 0, 0)]).astype(np.float32),
        np.concatenate([first[1], second[1] + len(first[0])]),
    )
    xyz, offset = grid_points(48), torch.tensor([0.2, 0.0, 0.0])
    expected = torch.minimum((xyz + offset).norm(dim=1), (xyz - offset).norm(dim=1)) < 0.4
    assert ((distances(joined) < 0) != expected).float().mean() < 1e-3
    inner = ball(0.3)
    hollow = (
        np.concatenate([ball(0.6)[0], inner[0]]),
        np.concatenate([ball(0.6)[1], inner[1][:, ::-1] + len(ball(0.6)[0])]),
    )
    found, exact = distances(hollow), xyz.norm(dim=1) - 0.6
    assert torch.equal((found < 0)[exact.abs() > 2e-3], (exact < 0)[exact.abs() > 2e-3])
    assert found[(xyz.norm(dim=1) < 0.35)].max() < -0.25 + 2 * CELL_48, "no thin place around the cavity"


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_sphere_with_a_hole_is_closed_smoothly(is_turned: bool):
    verts, faces = ball()
    faces = faces[verts[faces].mean(1)[:, 2] < 0.45]
    found = distances((verts, faces[:, ::-1] if is_turned else faces))
    xyz = grid_points(48)
    is_ball, is_below = xyz.norm(dim=1) < 0.6 - CELL_48, xyz[:, 2] < 0.35
    assert (found < 0)[is_ball & is_below].all()
    assert not (found < 0)[xyz.norm(dim=1) > 0.6 + 1.5 * CELL_48].any()
    # No cliff where the hole was: neighbours differ by little more than their distance.
    volume = found.view(48, 48, 48)
    assert volume.diff(dim=2).abs().max() < 2.1 * CELL_48


@pytest.mark.parametrize("thickness", [0.0, 0.004])
def test_sheets_are_two_cells_thick_at_least(thickness: float):
    if thickness:
        sheet = box(1.2, 1.2, thickness)
    else:
        verts = np.array([[-0.6, -0.6, 0], [0.6, -0.6, 0], [0.6, 0.6, 0], [-0.6, 0.6, 0]], np.float32)
        sheet = verts, np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    volume = distances(sheet, 64).view(1, 64, 64, 64)
    cell = 2 / 63
    heights = torch.linspace(-0.2, 0.2, 801)
    line = torch.stack([torch.zeros(801), torch.full((801,), 0.1), heights], dim=1)
    inside = heights[trilinear(volume, line)[:, 0] < 0]
    assert 2 * cell - 0.01 < inside.max() - inside.min() < 2 * cell + thickness + 0.01
    # A thick body does not grow.
    assert torch.equal(
        distances(box(1.0, 0.6, 1.4), 64) < 0, box_distance(grid_points(64), (1.0, 0.6, 1.4)) < 0
    )


def test_nothing_but_faces_without_area_is_refused():
    with pytest.raises(ValueError, match="no face with an area"):
        SolidMesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32), "cpu")


def test_trilinear_is_exact_on_linear_functions():
    volume = (grid_points(5) @ torch.tensor([1.0, -2.0, 3.0])).view(1, 5, 5, 5)
    xyz = random_points(50)
    torch.testing.assert_close(trilinear(volume, xyz)[:, 0], xyz @ torch.tensor([1.0, -2.0, 3.0]))


def test_the_kernel_compiles_for_cuda_without_a_device(tmp_path):
    from recdreamer import kernels
    from recdreamer.sdf import from_mesh

    wp = kernels.warp_module()
    architectures = wp.get_cuda_supported_archs()
    if not architectures:
        pytest.skip("this build of Warp has no CUDA compiler")
    (ptx,) = wp.compile_aot_module(from_mesh, arch=architectures[0], module_dir=tmp_path, use_ptx=True)
    assert ".visible .entry" in ptx.read_text(encoding="utf-8")
