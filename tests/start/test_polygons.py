"""Polygons of mesh files: convex or not, their triangles cover them once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recdreamer.start.polygons import MAX_CLIPPED, triangulated

from .mesh_files import read

ELL = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], float)
STAR = np.array(
    [[np.sin(a) * r, np.cos(a) * r] for a, r in zip(np.arange(10) * -np.pi / 5, [1, 0.3] * 5, strict=True)]
)
COMB = np.array(
    [[0, 0], [9, 0], [9, 3], [8, 3], [8, 1], [6, 1], [6, 3], [5, 3], [5, 1], [1, 1], [1, 3], [0, 3]], float
)
ARROW = np.array([[0, 2], [-1, 0], [0, 1], [1, 0]], float)
TILTED = np.array([[0.6, 0.8, 0], [-0.48, 0.36, 0.8], [0.64, -0.48, 0.6]])
AXES = [np.eye(3), np.eye(3)[[1, 2, 0]], np.diag([1.0, -1, -1]), TILTED]


def area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


@pytest.mark.parametrize("turn", AXES, ids=["flat", "upright", "upside down", "tilted"])
@pytest.mark.parametrize("shape", [ELL, STAR, COMB, ARROW], ids=["ell", "star", "comb", "arrow"])
def test_a_concave_polygon_is_covered_once_from_whichever_corner_it_begins(
    shape: np.ndarray, turn: np.ndarray
) -> None:
    for start in range(len(shape)):
        points = np.roll(shape, start, axis=0)
        verts = np.concatenate([points, np.zeros((len(points), 1))], 1) @ turn
        triangles = triangulated(verts, np.arange(len(points)), np.array([len(points)]))
        flat = [area(points[triangle]) for triangle in triangles]
        assert min(flat) > -1e-9, "none is turned over"
        assert sum(flat) == pytest.approx(area(points)) and len(triangles) == len(points) - 2
        assert set(triangles.ravel().tolist()) == set(range(len(points)))


def test_convex_polygons_stay_fans_and_keep_their_order() -> None:
    verts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], *[[x, y + 3, 0] for x, y in ARROW]], float)
    found = triangulated(verts, np.array([0, 1, 2, 3, 5, 6, 7, 4, 0, 1, 2]), np.array([4, 4, 3]))
    assert found[:2].tolist() == [[0, 1, 2], [0, 2, 3]] and found[4].tolist() == [8, 9, 10]
    assert sorted(map(sorted, found[2:4].tolist())) == [[4, 5, 7], [5, 6, 7]]


def test_uvs_go_with_the_corners_of_a_concave_polygon(tmp_path: Path) -> None:
    lines = [f"v {x} {y} 0\nvt {x / 2} {y / 2}" for x, y in np.roll(ELL, 2, axis=0).tolist()]
    found = read(tmp_path, "ell.obj", "\n".join([*lines, "f 1/1 2/2 3/3 4/4 5/5 6/6"]))
    places = found["verts"][found["faces"]]
    np.testing.assert_allclose(found["uvs"], places[..., [0, 2]] / 2, atol=1e-6)


def test_a_ply_with_a_concave_polygon(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    rows = "\n".join(f"{x} {y} 0" for x, y in np.roll(ELL, 2, axis=0).tolist())
    found = read(tmp_path, "ell.ply", f"{head}{rows}\n6 0 1 2 3 4 5\n")
    b, c = (found["verts"][found["faces"][:, k]] - found["verts"][found["faces"][:, 0]] for k in (1, 2))
    assert np.linalg.norm(np.cross(b, c), axis=1).sum() / 2 == pytest.approx(3)


def test_huge_polygons_that_cross_themselves_take_seconds_and_nothing_is_lost() -> None:
    count = int(MAX_CLIPPED**0.5) + 10
    points = np.random.default_rng(0).random((count, 3)) * (1, 1, 0)
    found = triangulated(points, np.arange(count), np.array([count]))
    assert len(found) == count - 2
    crossing = triangulated(points[:80], np.arange(80), np.array([80]))
    assert len(crossing) == 78 and crossing.max() < 80
