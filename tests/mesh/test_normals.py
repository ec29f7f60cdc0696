"""Normal maps, decoded as a renderer does it, against surfaces whose normals are known."""

import numpy as np
import pytest
import torch

from recdreamer.mesh import Mesh, bake_normal_map, level_set_normals, unwrap
from recdreamer.mesh.cleanup import decimate
from recdreamer.mesh.normals import encode_normals
from recdreamer.mesh.tangents import TangentFrames, tangent_frames, to_tangent_space

from .fields import SMALL, ball, sample_bilinear

SIZE_PX = 512


@pytest.fixture(scope="module")
def low_poly(sphere_mesh: Mesh) -> Mesh:
    """Ball of radius 0.6 in 600 faces."""
    return unwrap(decimate(sphere_mesh, 600), SMALL)[0]


def bumpy(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Normals of a sphere with bumps of some 20 degrees."""
    outward = torch.nn.functional.normalize(points, dim=1)
    bump = 0.35 * torch.stack([torch.sin(9 * points[:, axis]) for axis in (1, 2, 0)], 1)
    return torch.nn.functional.normalize(
        outward + bump - (bump * outward).sum(1, keepdim=True) * outward, dim=1
    )


def decoded(mesh: Mesh, image: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """World normals that a renderer makes of a normal map: frames interpolated, not normalized (MikkTSpace)."""
    frames = tangent_frames(mesh)
    uvs = np.einsum("nc,ncd->nd", weights, mesh.uvs_or_error()[face])
    local = sample_bilinear(image, uvs) * 2 - 1
    normal = np.einsum("nc,ncd->nd", weights, frames.normals[face])
    tangent = np.einsum("nc,ncd->nd", weights, frames.tangents[face])
    bitangent = frames.signs[face, None] * np.cross(normal, tangent)
    world = local[:, :1] * tangent + local[:, 1:2] * bitangent + local[:, 2:] * normal
    return world / np.linalg.norm(world, axis=1, keepdims=True)


def places(mesh: Mesh, count: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    face, weights = rng.integers(len(mesh.faces), size=count), rng.dirichlet((1, 1, 1), size=count)
    return face, weights, np.einsum("nc,ncd->nd", weights, mesh.verts[mesh.faces][face])


def angles_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos((first * second).sum(1).clip(-1, 1)))


def test_fine_normals_come_back_from_a_coarse_mesh(low_poly: Mesh) -> None:
    image = bake_normal_map(low_poly, bumpy, texture_size_px=SIZE_PX).tiles[1001]
    face, weights, points = places(low_poly)
    fine = bumpy(torch.from_numpy(points), torch.zeros(0)).numpy()
    error_deg = angles_deg(decoded(low_poly, image, face, weights), fine)
    assert np.quantile(error_deg, 0.99) < 2
    assert error_deg.max() < 5
    # The bumps are large against that, and a map with green or red turned round does not pass.
    smooth = np.einsum("nc,ncd->nd", weights, tangent_frames(low_poly).normals[face])
    assert np.quantile(angles_deg(smooth / np.linalg.norm(smooth, axis=1, keepdims=True), fine), 0.5) > 8
    for channel in (0, 1):
        wrong = image.copy()
        wrong[..., channel] = 255 - wrong[..., channel]
        assert np.quantile(angles_deg(decoded(low_poly, wrong, face, weights), fine), 0.5) > 8


def test_an_undisturbed_surface_is_flat_blue(low_poly: Mesh) -> None:
    texture = bake_normal_map(low_poly, lambda points, normals: normals, texture_size_px=64)
    assert np.unique(texture.tiles[1001].reshape(-1, 3), axis=0).tolist() == [[128, 128, 255]]


def test_mirrored_islands_decode_as_well(low_poly: Mesh) -> None:
    mirrored = Mesh(low_poly.verts, low_poly.faces, low_poly.uvs_or_error() * (-1, 1) + np.float32([1, 0]))
    mirrored = Mesh(mirrored.verts, mirrored.faces, mirrored.uvs_or_error().astype(np.float32))
    assert (tangent_frames(mirrored).signs == -tangent_frames(low_poly).signs).mean() > 0.99
    image = bake_normal_map(mirrored, bumpy, texture_size_px=SIZE_PX).tiles[1001]
    face, weights, points = places(mirrored)
    fine = bumpy(torch.from_numpy(points), torch.zeros(0)).numpy()
    assert np.quantile(angles_deg(decoded(mirrored, image, face, weights), fine), 0.99) < 2


def test_frames_of_a_plane_follow_u_and_v() -> None:
    """A square whose u runs along +Y and v along -X, seen from +Z."""
    verts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    uv_of_vertex = np.stack([verts[:, 1], 1 - verts[:, 0]], 1)
    frames: TangentFrames = tangent_frames(Mesh(verts, faces, uv_of_vertex[faces]))
    assert np.allclose(frames.normals, (0, 0, 1))
    assert np.allclose(frames.tangents, (0, 1, 0))
    assert frames.signs.tolist() == [1, 1]
    up = to_tangent_space(
        torch.tensor([[-1.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.0, 1.0, 0.0]]),
        torch.ones(1),
    )
    assert torch.allclose(up, torch.tensor([[0.0, 1.0, 0.0]]))
    # Green is up: +v is 255.
    assert encode_normals(up).tolist() == [[128, 255, 128]]


def test_tangents_are_shared_within_islands_and_unit(low_poly: Mesh) -> None:
    frames = tangent_frames(low_poly)
    assert np.allclose(np.linalg.norm(frames.tangents, axis=-1), 1, atol=1e-6)
    assert np.abs((frames.tangents * frames.normals).sum(-1)).max() < 1e-6
    uvs = low_poly.uvs_or_error().reshape(-1, 2)
    keys = np.concatenate([low_poly.faces.reshape(-1, 1), uvs.view(np.int32)], 1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    flat = frames.tangents.reshape(-1, 3)
    assert np.allclose(flat, flat[first][group])


def test_the_normals_of_a_level_set_are_those_of_its_sphere() -> None:
    """Points a cell off the surface, normals 20 degrees off: the field knows better."""
    rng = np.random.default_rng(1)
    outward = rng.normal(size=(500, 3))
    outward = torch.from_numpy(outward / np.linalg.norm(outward, axis=1, keepdims=True)).float()
    tilted = torch.nn.functional.normalize(outward + 0.36 * torch.roll(outward, 1, 1), dim=1)
    fine = level_set_normals(ball(0.6), threshold=40.0, cell_size=0.02)(0.61 * outward, tilted)
    expected = torch.nn.functional.normalize(fine, dim=1)
    assert torch.allclose(fine, expected, atol=1e-5)
    # The level set is met along the tilted normal, a few thousandths of a unit beside.
    assert np.degrees(np.arccos((fine * outward).sum(1).clamp(-1, 1).numpy())).max() < 2


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_where_the_field_has_no_surface_the_mesh_keeps_its_normal(value: float) -> None:
    normals = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    normal_at = level_set_normals(lambda xyz: torch.full_like(xyz[:, 0], value), 40.0, 0.02)
    assert torch.equal(normal_at(torch.zeros(20, 3), normals), normals)
