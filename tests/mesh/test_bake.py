"""The baked texture against fields whose colour is known everywhere."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from recdreamer.mesh import Mesh, Texture, extract_mesh, fill_padding
from recdreamer.mesh.bake import composite_inward
from recdreamer.mesh.raster import TexelPoints, rasterize_uvs
from recdreamer.mesh.uv import unwrap
from recdreamer.report import JobError

from .fields import SMALL, bake_texture, ball, nose_field, position_color, sample_bilinear

CELL = 0.02
SETTINGS = {"texture_size_px": SMALL.texture_size_px, "threshold": 40.0, "cell_size": CELL}


@pytest.fixture(scope="module")
def mesh(sphere_mesh: Mesh) -> Mesh:
    return unwrap(sphere_mesh, SMALL)[0]


@pytest.fixture(scope="module")
def texture(mesh: Mesh) -> np.ndarray:
    return bake_texture(mesh, ball(0.6), position_color, **SETTINGS)[0]


def random_places(mesh: Mesh, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """UVs and positions at random on the mesh."""
    rng = np.random.default_rng(0)
    face = rng.integers(len(mesh.faces), size=count)
    weights = rng.dirichlet((1, 1, 1), size=count)
    uvs = np.einsum("nc,ncd->nd", weights, mesh.uvs_or_error()[face])
    return uvs, np.einsum("nc,ncd->nd", weights, mesh.verts[mesh.faces][face])


def psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
    return -10 * math.log10(np.square(image - reference).mean())


def test_a_sphere_coloured_by_position_comes_back(mesh: Mesh, texture: np.ndarray) -> None:
    uvs, places = random_places(mesh)
    expected = position_color(torch.from_numpy(places)).numpy()
    assert psnr_db(sample_bilinear(texture, uvs), expected) > 40
    # A texture upside down or with swapped axes must not pass.
    assert psnr_db(sample_bilinear(texture[::-1], uvs), expected) < 25
    assert psnr_db(sample_bilinear(texture.transpose(1, 0, 2), uvs), expected) < 25


def seam_points(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """UVs of the same surface points seen from the two islands that meet in a seam."""
    sides: dict[tuple[int, int], np.ndarray] = {}
    pairs = []
    for face, uvs in zip(mesh.faces, mesh.uvs_or_error(), strict=True):
        for corner in range(3):
            tail, head = int(face[corner]), int(face[(corner + 1) % 3])
            edge = uvs[[corner, (corner + 1) % 3]]
            other = sides.pop((head, tail), None)
            if other is None:
                sides[tail, head] = edge
            elif not np.array_equal(other[::-1], edge):
                pairs.append((edge, other[::-1]))
    assert not sides
    along = np.linspace(0, 1, 5)[:, None]
    left, right = zip(
        *((a[0] * (1 - along) + a[1] * along, b[0] * (1 - along) + b[1] * along) for a, b in pairs),
        strict=True,
    )
    return np.concatenate(left), np.concatenate(right)


def test_seams_cannot_be_seen(mesh: Mesh, texture: np.ndarray) -> None:
    left, right = seam_points(mesh)
    assert len(left) > 500
    difference = np.abs(sample_bilinear(texture, left) - sample_bilinear(texture, right)).max(1)
    assert np.quantile(difference, 0.99) < 2.5 / 255
    assert difference.max() < 6 / 255


def test_without_padding_the_seams_would_show(mesh: Mesh, texture: np.ndarray) -> None:
    """Negative control: the islands alone, cut at their outline, on black."""
    faces = rasterize_uvs(mesh.uvs_or_error(), len(texture)).faces
    inside = strictly_inside(mesh, faces)
    bare = np.where(inside[..., None], texture, 0)
    left, right = seam_points(mesh)
    difference = np.abs(sample_bilinear(bare, left) - sample_bilinear(bare, right)).max(1)
    assert np.quantile(difference, 0.99) > 20 / 255


def strictly_inside(mesh: Mesh, faces: np.ndarray) -> np.ndarray:
    """Texels whose centre lies in their face."""
    size = len(faces)
    rows, columns = np.nonzero(faces >= 0)
    a, b, c = mesh.uvs_or_error()[faces[rows, columns]].astype(float).transpose(1, 0, 2)
    point = np.stack([(columns + 0.5) / size, 1 - (rows + 0.5) / size], 1)

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]

    sides = np.stack([cross(b - a, point - a), cross(c - b, point - b), cross(a - c, point - c)])
    inside = np.zeros(faces.shape, bool)
    inside[rows, columns] = (sides >= 0).all(0) | (sides <= 0).all(0)
    return inside


def test_texels_beyond_the_islands_carry_the_nearest_colour(mesh: Mesh, texture: np.ndarray) -> None:
    # Every point of the sphere has a colour at distance 0.3 from grey; the background would be black.
    distance = np.linalg.norm(texture / 255.0 - 0.5, axis=-1)
    assert np.abs(distance - 0.3).max() < 0.02


def test_padding_takes_the_nearest_texel_of_an_island() -> None:
    is_island = np.random.default_rng(0).random((200, 250)) < 0.01
    is_island[:, 100:180] = is_island[:20] = False
    row, column = np.mgrid[:200, :250]
    image = np.stack([row, column, np.full_like(row, 7)], -1).astype(np.uint8)
    filled = fill_padding(Texture({1001: image * is_island[..., None]}, {1001: is_island})).tiles[1001]
    assert (filled[..., 2] == 7).all()
    assert (filled[is_island] == image[is_island]).all()
    distance = np.hypot(filled[..., 0] - row.astype(float), filled[..., 1] - column.astype(float))
    assert np.abs(distance - ndimage.distance_transform_edt(~is_island)).max() < 0.2


def test_the_texture_depends_on_the_seed_alone(mesh: Mesh, texture: np.ndarray) -> None:
    def noisy(xyz: torch.Tensor) -> torch.Tensor:
        return (torch.sin(200 * xyz) / 2 + 0.5).clamp(0, 1)

    settings = SETTINGS | {"texture_size_px": 64}
    first, again, other = (
        bake_texture(mesh, ball(0.6), noisy, seed=seed, **settings)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_field_in_half_precision_bakes_the_same(mesh: Mesh) -> None:
    settings = SETTINGS | {"texture_size_px": 64}
    full, _ = bake_texture(mesh, ball(0.6), position_color, **settings)
    half, _ = bake_texture(
        mesh, lambda xyz: ball(0.6)(xyz).half(), lambda xyz: position_color(xyz).half(), **settings
    )
    # One byte by rounding, one more where a seam that is just visible is levelled in one of them.
    assert np.abs(full.astype(int) - half).max() <= 2


def test_bright_and_dark_values_keep_their_code(mesh: Mesh) -> None:
    """Colour is sRGB already: 0.2 becomes 51, with no gamma in between."""
    texture, _ = bake_texture(
        mesh, ball(0.6), lambda xyz: torch.full_like(xyz, 0.2), **SETTINGS | {"texture_size_px": 32}
    )
    assert np.unique(texture).tolist() == [51]


def test_compositing_matches_the_integral() -> None:
    """Slab of density sigma below z = 0 whose red is the depth: the mean depth is 1 / sigma."""
    sigma = 100.0
    rays = 4000
    surface = torch.zeros(rays, 3)
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(rays, 3)
    offsets = (torch.arange(rays) + 0.5) / rays
    rgb = composite_inward(
        surface,
        normals,
        offsets,
        lambda xyz: sigma * (xyz[:, 2] < 0),
        lambda xyz: torch.stack([-xyz[:, 2], xyz[:, 0] + 0.25, xyz[:, 1] + 0.5], 1),
        threshold=20.0,
        cell_size=0.002,
    )
    # Samples are 0.013 apart, as coarse as the mean depth: the quadrature is good to a third of it.
    assert float(rgb[:, 0].mean()) == pytest.approx(1 / sigma, rel=0.35)
    assert torch.allclose(rgb[:, 1:], torch.tensor([0.25, 0.5]), atol=1e-5)


def test_a_ray_that_meets_nothing_takes_the_colour_of_the_surface_point() -> None:
    surface = torch.tensor([[0.1, 0.2, 0.3]])
    rgb = composite_inward(
        surface,
        torch.tensor([[1.0, 0.0, 0.0]]),
        torch.zeros(1),
        lambda xyz: torch.zeros(len(xyz)),
        lambda xyz: xyz,
        threshold=20.0,
        cell_size=0.01,
    )
    assert torch.equal(rgb, surface)


def test_the_front_layer_hides_what_is_behind_it(mesh: Mesh) -> None:
    """A red skin of 0.05 on a blue core: only red may reach the texture."""

    def skin_and_core(xyz: torch.Tensor) -> torch.Tensor:
        is_skin = xyz.norm(dim=-1, keepdim=True) > 0.55
        return torch.where(is_skin, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))

    texture, _ = bake_texture(
        mesh, ball(0.6, sigma=400.0), skin_and_core, **SETTINGS | {"texture_size_px": 64}
    )
    assert texture[..., 0].min() > 250
    assert texture[..., 2].max() < 5


def test_a_colour_that_is_not_a_number_is_an_error(mesh: Mesh) -> None:
    with pytest.raises(JobError, match="color field holds NaN"):
        bake_texture(mesh, ball(0.6), lambda xyz: xyz * math.nan, **SETTINGS | {"texture_size_px": 32})


def test_rasterised_barycentrics_lead_back_to_the_texel() -> None:
    mesh = unwrap(extract_mesh(nose_field, SMALL), SMALL)[0]
    size = 128
    texel_map = rasterize_uvs(mesh.uvs_or_error(), size)
    inside = strictly_inside(mesh, texel_map.faces)
    rows, columns = np.nonzero(inside)
    corners = torch.from_numpy(mesh.verts[mesh.faces])
    places = TexelPoints(texel_map, corners, corners)
    for right, down in ((0.0, 0.0), (0.25, 0.0), (0.0, -0.25)):
        offsets_px = torch.tensor([[right, down]]).repeat(len(rows), 1)
        texels = places.at(np.flatnonzero(inside), offsets_px)
        assert torch.equal(texels.faces, torch.from_numpy(texel_map.faces[inside]))
        # Texels whose moved point has left the face stay on it.
        kept = (texels.weights > 0).all(1).numpy()
        assert kept.mean() > 0.5
        weights, face = texels.weights.numpy(), texel_map.faces[inside]
        uvs = np.einsum("nc,ncd->nd", weights, mesh.uvs_or_error()[face])
        assert np.abs(uvs[:, 0] * size - (columns + 0.5 + right))[kept].max() < 1e-2
        assert np.abs((1 - uvs[:, 1]) * size - (rows + 0.5 + down))[kept].max() < 1e-2
        points = np.einsum("nc,ncd->nd", weights, mesh.verts[mesh.faces][face])
        assert np.abs(points - texels.points.numpy()).max() < 1e-5
