"""Meshes whose faces are there twice, as double-sided materials are exported, have the same inside as before."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recdreamer.sdf.from_mesh import SolidMesh
from recdreamer.sdf.winding import facing_outward
from recdreamer.shared.doubled_faces import _components, solid_faces

CORNERS = np.array([[x, y, z] for x in (-0.5, 0, 0.5) for y in (-0.3, 0.3) for z in (-0.3, 0.3)], np.float32)
SIDES = np.array(
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]], np.int32
)
"""Quads of a box of eight corners."""


def cut(quads: np.ndarray, other_way: bool = False) -> np.ndarray:
    """Two triangles for each quad."""
    turned = np.roll(quads, -1, axis=1) if other_way else quads
    return np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])


def inside(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    found = SolidMesh(verts.astype(np.float32), faces.astype(np.int32), "cpu").on_grid(32)
    return (found.distances < 0).numpy()


BOX, BALL = CORNERS[:8] * 2, trimesh.creation.icosphere(3, 0.6)
SINGLE = cut(SIDES)


@pytest.mark.parametrize(
    "more",
    [
        SINGLE[:, ::-1],  # the same triangles, the other way round
        SINGLE,  # the same way round
        np.concatenate([SINGLE[:, ::-1], SINGLE]),  # three times
        cut(SIDES, other_way=True)[:, ::-1],  # the quads cut along their other diagonal
        SINGLE[::6, ::-1],  # some of them
    ],
)
def test_a_box_of_doubled_faces_is_as_full_as_one_of_single_faces(more: np.ndarray) -> None:
    expected = inside(BOX, SINGLE)
    assert expected.any()
    assert np.array_equal(inside(BOX, np.concatenate([SINGLE, more])), expected)
    assert np.array_equal(inside(BOX, np.concatenate([SINGLE, more])[:, ::-1]), expected), "inside out"


def test_a_ball_and_a_soup_of_doubled_faces_are_full() -> None:
    verts, faces = BALL.vertices, BALL.faces
    doubled, expected = np.concatenate([faces, faces[:, ::-1]]), inside(verts, faces)
    assert np.array_equal(inside(verts, doubled), expected)
    soup = verts[doubled].reshape(-1, 3)
    assert np.array_equal(inside(soup, np.arange(len(soup)).reshape(-1, 3)), expected)


@pytest.mark.parametrize("is_doubled", [False, True])
def test_a_wall_between_two_boxes_that_touch_stays_double(is_doubled: bool) -> None:
    """Both of its faces belong to a box, and cancel out: one alone would be felt inside."""
    faces = np.concatenate([SINGLE, SINGLE + 4])
    expected = inside(CORNERS[[0, 1, 2, 3, 8, 9, 10, 11]], SINGLE)
    given = np.concatenate([faces, faces[:, ::-1]]) if is_doubled else faces
    assert np.array_equal(inside(CORNERS, given), expected)


def test_components_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    for size, edges in ((1, 0), (50, 20), (2000, 1500), (2000, 20_000)):
        one, other = random.integers(0, size, (2, edges))
        graph = coo_array((np.ones(edges), (one, other)), shape=(size, size))
        expected = connected_components(graph, directed=False)[1]
        found = _components(size, one, other)
        assert len(np.unique(np.stack([found, expected]), axis=1).T) == found.max() + 1 == expected.max() + 1
    path = np.random.default_rng(1).permutation(10_000)
    assert not _components(10_000, path[1:], path[:-1]).any(), "a long path is one"


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_faces_without_area_are_so_at_every_size(size: float) -> None:
    line = np.array([[0, 0, 4], [1, 3, 5]])  # A line, and a triangle across the inside of the box.
    faces = np.concatenate([SINGLE, line])
    assert solid_faces(BOX * size, faces).tolist() == [*range(12), 13]


def test_what_is_left_out_is_the_later_copy() -> None:
    _, outward, kept = facing_outward(BOX, np.concatenate([SINGLE, SINGLE[:, ::-1]]))
    assert kept.tolist() == list(range(12)) and len(outward) == 12
