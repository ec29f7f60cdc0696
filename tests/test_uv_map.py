"""What UV maps can be painted: the same sentence before a job and in its worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recdreamer.shared.protocol import RequestError
from recdreamer.shared.uv_map import check_uvs, overlap, tile_numbers
from recdreamer.start.mesh_file import check_start, start_mesh_bytes

VERTS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
SQUARE = np.array([[[0, 0], [0.5, 0], [0.5, 1]], [[0, 0], [0.5, 1], [0, 1]]], np.float32)
TILES = np.stack(np.divmod(np.arange(100), 10), 1)[:, None]
"""Lower left corners of a hundred tiles."""


def grid(cells: int, stack: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UVs, vertices and faces of a square of `cells`² quads, `stack` times."""
    ticks = np.linspace(0, 1, cells + 1)
    verts = np.stack(
        [*np.meshgrid(ticks, ticks, indexing="ij"), np.zeros((cells + 1, cells + 1))], -1
    ).reshape(-1, 3)
    index = np.arange(len(verts)).reshape(cells + 1, cells + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    faces = np.tile(faces, (stack, 1))
    return verts[faces][..., :2], verts, faces


def test_a_map_that_fills_its_tiles_has_nothing_to_say() -> None:
    assert check_uvs(SQUARE, VERTS, FACES) == []
    assert check_uvs(*grid(40)) == []
    both = np.concatenate([SQUARE, np.add(SQUARE, (1, 0))])
    assert check_uvs(both, VERTS, np.tile(FACES, (2, 1))) == []


@pytest.mark.parametrize(
    ("uvs", "complaint", "remedy"),
    [
        (np.zeros((2, 3, 2)), "no area", "Unwrap the object again"),
        (np.full((2, 3, 2), 0.25), "no area", "Unwrap"),
        (SQUARE * [1, 0], "no area", "Unwrap"),
        (SQUARE * 6, "2 faces cross the border of their UV tile", "Move or scale"),
        (SQUARE - [0.1, 0], "2 faces cross", "Move or scale"),
        (SQUARE - [1, 0], "columns 0 to 9", "Move the islands"),
        (np.add(SQUARE, (10, 0)), "columns 0 to 9", "Move the islands"),
        (SQUARE * 1e30, "columns 0 to 9", "Move the islands"),
        (np.where(np.arange(2) == 1, np.nan, SQUARE), "no numbers", "Unwrap"),
        (np.where(np.arange(2) == 1, np.inf, SQUARE), "no numbers", "Unwrap"),
        (np.stack([SQUARE[0], np.full((3, 2), 5.5)]), "1 face lies in UV tile 1056, without any area", "Move them"),
        (np.tile(SQUARE[:1], (100, 1, 1)) + TILES, "uses 100 tiles", "fewer tiles"),
    ],
)  # fmt: skip
def test_a_map_that_cannot_be_painted_is_refused_with_a_remedy(
    uvs: np.ndarray, complaint: str, remedy: str
) -> None:
    faces = FACES[np.arange(len(uvs)) % 2]
    with pytest.raises(RequestError, match=complaint) as caught:
        check_uvs(uvs.astype(np.float32), VERTS, faces)
    assert remedy in caught.value.hint


def test_a_sliver_on_the_border_makes_no_tile_of_its_own() -> None:
    uvs = np.stack([SQUARE[0], np.ones((3, 2))])
    assert tile_numbers(uvs).tolist() == [1001, 1001]
    (warning,) = check_uvs(uvs, VERTS, FACES)
    assert "1 face of 2 has no area" in warning
    # Nor does a face that has been squashed onto the border of the tile of all others.
    assert (
        tile_numbers(np.concatenate([np.add(SQUARE, (1, 0)), np.add(SQUARE * [0, 1], (2, 0))])).tolist()
        == [1002] * 4
    )


def test_few_faces_in_a_tile_of_their_own_are_worth_a_word() -> None:
    stray = np.add(SQUARE[:1] * 0.01, (1.5, 0.5))
    (warning,) = check_uvs(np.concatenate([SQUARE[:1], stray]), VERTS, FACES)
    assert "1 face lies in UV tile 1002 and hardly uses it" in warning


def test_overlapping_islands_are_reported_with_their_share() -> None:
    (warning,) = check_uvs(*grid(20, stack=2))
    assert warning.startswith("100% of the UV map lies under other parts")
    # Mirrored halves, as artists stack them; the half that is not stacked does not count.
    uvs = np.concatenate([SQUARE, SQUARE * [1, 0.5]])
    assert overlap(uvs, np.full(4, 1001)) == pytest.approx(0.5, abs=0.01)
    (warning,) = check_uvs(uvs, VERTS, np.tile(FACES, (2, 1)))
    assert "50%" in warning or "49%" in warning


def test_a_face_without_area_in_space_needs_none_in_the_map() -> None:
    faces = np.array([[0, 1, 2], [0, 0, 1]], np.int32)
    assert check_uvs(np.stack([SQUARE[0], np.zeros((3, 2))]), VERTS, faces) == []


def test_what_is_refused_in_the_worker_is_refused_before_there_is_a_job(tmp_path: Path) -> None:
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in VERTS] + ["vt 0 0", "f 1/1 2/1 3/1 4/1"]
    (tmp_path / "flat.obj").write_text("\n".join(lines))
    with pytest.raises(RequestError, match="no area"):
        start_mesh_bytes(tmp_path / "flat.obj", "texture")
    assert start_mesh_bytes(tmp_path / "flat.obj", "object"), "an object gets new UVs in any case"
    arrays = {"verts": VERTS, "faces": FACES, "uvs": np.zeros((2, 3, 2), np.float32)}
    with pytest.raises(RequestError, match="no area"):
        check_start(arrays, "texture")
    assert check_start({"verts": VERTS, "faces": FACES}, "texture") == [
        "The mesh has no UV map; a new one is made."
    ]
