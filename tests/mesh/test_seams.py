"""Jumps across UV seams: measured, and levelled."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from recdreamer.mesh import Mesh, Texture, bake_color, fill_padding, level_seams, seam_error, unwrap
from recdreamer.mesh.bake import bake_texels, encode_colors
from recdreamer.mesh.raster import rasterize_uvs
from recdreamer.mesh.seams import seam_edges

from .fields import SMALL, position_color

BOUND = {"mean": 1 / 255, "p99": 2 / 255, "max": 4 / 255}


@pytest.fixture(scope="module")
def mesh(sphere_mesh: Mesh) -> Mesh:
    return unwrap(sphere_mesh, SMALL)[0]


@pytest.fixture(scope="module")
def texture(mesh: Mesh) -> Texture:
    return bake_color(mesh, lambda points, normals: position_color(points), texture_size_px=256)


def is_within_bound(error: dict[str, float]) -> bool:
    return all(error[name] <= limit for name, limit in BOUND.items())


def island_of_texels(mesh: Mesh, size_px: int) -> np.ndarray:
    return ndimage.label(rasterize_uvs(mesh.uvs_or_error(), size_px).faces >= 0, np.ones((3, 3)))[0]


def two_squares(tiles: int = 1) -> Mesh:
    """Two squares side by side that share the edge x = 0; each is an island, in one tile or in two."""
    verts = np.array([[-1, 0, 0], [0, 0, 0], [0, 1, 0], [-1, 1, 0], [1, 0, 0], [1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]], np.int32)
    place = np.float32([[0.1, 0.5, 0.5, 0.1, 0, 0], [0.1, 0.1, 0.5, 0.5, 0, 0]]).T
    other = np.float32([[0, 0.55, 0.55, 0, 0.95, 0.95], [0, 0.55, 0.95, 0, 0.55, 0.95]]).T
    if tiles == 2:
        other[:, 0] += 1
    uvs = np.concatenate([place[faces[:2]], other[faces[2:]]])
    return Mesh(verts, faces, uvs.astype(np.float32))


def two_colors(mesh: Mesh, left: float, right: float, size_px: int = 128) -> Texture:
    return bake_texels(
        mesh,
        lambda texels: torch.where(texels.faces[:, None] < 2, left, right).expand(-1, 3),
        encode_colors,
        texture_size_px=size_px,
    )


@pytest.mark.parametrize("tiles", [1, 2])
def test_the_jump_between_two_plain_islands_is_their_difference(tiles: int) -> None:
    mesh = two_squares(tiles)
    assert [len(side) for side in seam_edges(mesh)] == [1, 1]
    error = seam_error(mesh, fill_padding(two_colors(mesh, 0.2, 0.6)).tiles)
    assert error == pytest.approx({"mean": 0.4, "p99": 0.4, "max": 0.4}, abs=1e-6)


def cube() -> Mesh:
    """Of side 2; each side is an island of its own. The two faces of side i are 2 i and 2 i + 1."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([[side[i] for i in half] for side in sides for half in ((0, 1, 2), (0, 2, 3))], np.int32)
    square = np.float32([[[0, 0], [0.25, 0], [0.25, 0.25]], [[0, 0], [0.25, 0.25], [0, 0.25]]])
    places = np.float32([[0.05 + 0.3 * (i % 3), 0.05 + 0.4 * (i // 3)] for i in range(6)])
    return Mesh(corners, faces, (square[None] + places[:, None, None]).reshape(-1, 3, 2))


def split_along_seams(mesh: Mesh) -> Mesh:
    """The mesh as glTF has it: one UV for each vertex."""
    uvs = mesh.uvs_or_error()
    keys = np.concatenate([mesh.faces.reshape(-1, 1), uvs.reshape(-1, 2)], 1)
    unique, number = np.unique(keys, axis=0, return_inverse=True)
    verts = mesh.verts[unique[:, 0].astype(int)]
    return Mesh(verts, number.reshape(-1, 3).astype(np.int32), uvs)


def test_seams_of_split_vertices_are_found_and_levelled() -> None:
    welded, split = cube(), split_along_seams(cube())
    assert len(split.verts) == 24
    for mesh in (welded, split):
        assert len(seam_edges(mesh)[0]) == 12
    shade = 0.3 + 0.04 * torch.arange(6)
    before = bake_texels(
        split,
        lambda texels: shade[texels.faces.long() // 2][:, None].expand(-1, 3),
        encode_colors,
        texture_size_px=128,
    )
    after = level_seams(split, before)
    assert seam_error(split, before.tiles) == seam_error(welded, before.tiles)
    assert seam_error(split, after.tiles)["mean"] < 0.1 * seam_error(split, before.tiles)["mean"]


def test_seams_are_found_where_split_vertices_touch_another_part() -> None:
    """Two cubes that touch along an edge: four faces meet there, but each cube has seams of its own."""
    one = cube()
    verts = np.concatenate([one.verts, one.verts + np.float32([2, 2, 0])])
    uvs = one.uvs_or_error()
    both = Mesh(verts, np.concatenate([one.faces, one.faces + 8]), np.concatenate([uvs, uvs]))
    assert len(seam_edges(both)[0]) == 24


@pytest.mark.parametrize("tiles", [1, 2])
def test_levelling_closes_a_jump_and_leaves_the_rest_alone(tiles: int) -> None:
    mesh = two_squares(tiles)
    before = two_colors(mesh, 0.4, 0.6)
    after = level_seams(mesh, before)
    assert seam_error(mesh, after.tiles)["max"] < 0.02
    changed = sum(int((after.tiles[name] != before.tiles[name]).any(-1).sum()) for name in before.tiles)
    # The seam is 51 texels long on either side; the band reaches 6 texels beyond what a lookup reads.
    assert 2 * 51 < changed < 2 * (51 + 18) * 18
    # Both sides meet in the middle.
    row, column = (128 - round(0.3 * 128), 63)
    assert after.tiles[1001][row, column] == pytest.approx(0.5 * 255, abs=8)


def test_a_bake_of_a_smooth_colour_has_no_visible_seam(mesh: Mesh, texture: Texture) -> None:
    assert len(seam_edges(mesh)[0]) > 50
    assert is_within_bound(seam_error(mesh, texture.tiles))


def test_one_island_of_another_colour_fails_the_bound(mesh: Mesh, texture: Texture) -> None:
    """Negative control."""
    island = island_of_texels(mesh, 256)
    assert island.max() > 1
    wrong = texture.tiles[1001].copy()
    wrong[island == 1] = (wrong[island == 1] * 0.9).astype(np.uint8)
    error = seam_error(mesh, {1001: wrong})
    assert not is_within_bound(error)
    assert error["max"] > 0.04


def test_a_noisy_colour_is_levelled_below_the_bound(mesh: Mesh) -> None:
    """Detail of a few texels, which the texels of the two islands sample at different places."""

    def shade(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return (position_color(points) + 0.05 * torch.sin(90 * points)).clamp(0, 1)

    raw = bake_texels(
        mesh, lambda texels: shade(texels.points, texels.normals), encode_colors, texture_size_px=256
    )
    before, after = (seam_error(mesh, fill_padding(baked).tiles) for baked in (raw, level_seams(mesh, raw)))
    assert after["p99"] < 0.5 * before["p99"]
    assert after["p99"] < 2.5 / 255


def test_a_mesh_without_seams_has_no_error() -> None:
    mesh = two_squares()
    uvs = (mesh.verts[mesh.faces][..., :2] + (1, 0)) / 2
    flat = Mesh(mesh.verts, mesh.faces, uvs.astype(np.float32))
    assert seam_error(flat, two_colors(flat, 0.1, 0.9).tiles) == {"mean": 0.0, "p99": 0.0, "max": 0.0}
