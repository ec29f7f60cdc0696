"""What is said of a mesh before a job: what becomes of its materials, its UVs and its size."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from recdreamer.presets import resolve
from recdreamer.shared.material_slots import MaterialSlots
from recdreamer.shared.protocol import JobRequest, Method, RequestError
from recdreamer.shared.start_check import check_size, check_start, painted_uvs, seen_px
from recdreamer.shared.uv_map import slots_apart, tile_numbers
from recdreamer.start.mesh_file import read_start_mesh, start_mesh_bytes

SQUARE = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)
APART = "The UVs of 1 of its 2 materials lie upon those of others: it gets UV tiles and textures of its own."


def stacked(*squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """UVs of these squares, and a slot for each."""
    return np.concatenate(squares), np.repeat(np.arange(len(squares)), [len(square) for square in squares])


def test_materials_whose_uvs_lie_upon_each_other_move_to_tiles_of_their_own() -> None:
    uvs, slots = stacked(SQUARE, SQUARE * 0.5, SQUARE)
    moved = slots_apart(uvs, slots)
    assert tile_numbers(moved).tolist() == [1001, 1001, 1011, 1011, 1021, 1021]
    np.testing.assert_array_equal(moved % 1 % 1, uvs % 1), "each stays where it was within its tile"
    np.testing.assert_array_equal(moved[:2], uvs[:2])


def test_materials_that_share_a_map_without_overlaps_stay_where_they_are() -> None:
    uvs, slots = stacked(SQUARE * (0.5, 1), np.add(SQUARE * (0.5, 1), (0.5, 0)))
    assert slots_apart(uvs, slots) is uvs
    # A material whose own parts overlap is as its artist wants it: mirrored halves share their colors.
    assert slots_apart(np.concatenate([SQUARE, SQUARE]), np.zeros(4, int)).max() == 1


def test_materials_that_do_not_overlap_share_a_tile_and_faces_without_uvs_have_none() -> None:
    left, right = SQUARE * (0.5, 1), np.add(SQUARE * (0.5, 1), (0.5, 0))
    uvs, slots = stacked(left, left, right, right, np.full((1, 3, 2), np.nan))
    moved = slots_apart(uvs, slots)
    assert tile_numbers(moved[:8]).tolist() == [1001] * 2 + [1011] * 2 + [1001] * 2 + [1011] * 2
    assert np.isnan(moved[8]).all()


def test_a_material_of_several_tiles_moves_beyond_all_that_are_in_use() -> None:
    uvs, slots = stacked(np.add(SQUARE, (1, 2)), SQUARE, np.concatenate([SQUARE, np.add(SQUARE, (1, 2))]))
    assert tile_numbers(slots_apart(uvs, slots)).tolist() == [1022] * 2 + [1001] * 2 + [1031] * 2 + [1052] * 2


def test_more_materials_upon_each_other_than_tiles_are_refused_with_a_remedy() -> None:
    with pytest.raises(RequestError, match="UVs of 65 materials lie upon each other") as caught:
        slots_apart(*stacked(*[SQUARE] * 65))
    assert "Unwrap the object again with all materials together" in caught.value.hint
    assert len(np.unique(tile_numbers(slots_apart(*stacked(*[SQUARE] * 64))))) == 64


CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
OBJ = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def obj() -> bytes:
    lines = [f"v {x:g} {y:g} {z + part:g}" for part in range(2) for x, y, z in CORNERS]
    return ("\n".join(lines) + f"\n{OBJ}usemtl a\nf 1/1 2/2 3/3 4/4\nusemtl b\nf 5/1 6/2 7/3 8/4\n").encode()


def gltf() -> bytes:
    import base64

    uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    data = CORNERS.tobytes() + uvs.tobytes() + np.array([0, 1, 2, 0, 2, 3], np.uint16).tobytes()
    view = {"buffer": 0}
    return json.dumps({
        "asset": {"version": "2.0"}, "materials": [{"name": "a"}, {"name": "b"}],
        "nodes": [{"mesh": 0}, {"mesh": 1, "translation": [0, 0, 1]}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": slot}]}
            for slot in range(2)
        ],
        "accessors": [
            {"componentType": 5126, "count": 4, "type": "VEC3", "bufferView": 0},
            {"componentType": 5126, "count": 4, "type": "VEC2", "bufferView": 1},
            {"componentType": 5123, "count": 6, "type": "SCALAR", "bufferView": 2},
        ],
        "bufferViews": [
            view | {"byteLength": 48}, view | {"byteOffset": 48, "byteLength": 32},
            view | {"byteOffset": 80, "byteLength": 12},
        ],
        "buffers": [{"uri": "data:;base64," + base64.b64encode(data).decode(), "byteLength": len(data)}],
    }).encode()  # fmt: skip


def npz() -> bytes:
    uvs, slots = stacked(SQUARE, SQUARE)
    stream = io.BytesIO()
    verts = np.concatenate([CORNERS, CORNERS + np.array([0, 0, 1], np.float32)])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    arrays = MaterialSlots(slots.astype(np.int32), ("a", "b")).as_arrays()
    np.savez(stream, verts=verts, faces=faces, uvs=uvs, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(("name", "content"), [("m.obj", obj()), ("m.gltf", gltf()), ("m.npz", npz())])
def test_two_materials_with_a_map_each_are_painted_apart_from_every_format(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "start.npz").write_bytes(start_mesh_bytes(tmp_path / name, "texture"))
    arrays = read_start_mesh(tmp_path / "start.npz")
    assert arrays["uvs"].max() == 1, "the start keeps what the artist gave"
    assert check_start(arrays, "texture") == [APART]
    assert tile_numbers(painted_uvs(arrays)).tolist() == [1001] * 2 + [1011] * 2


def test_a_ply_has_no_materials_and_its_overlaps_are_said_with_a_remedy(tmp_path: Path) -> None:
    lines = ["ply", "format ascii 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyzst")]
    lines += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    lines += [f"{x:g} {y:g} {z + part:g} {x:g} {y:g}" for part in range(2) for x, y, z in CORNERS]
    (tmp_path / "m.ply").write_text("\n".join([*lines, "4 0 1 2 3", "4 4 5 6 7", ""]))
    (tmp_path / "start.npz").write_bytes(start_mesh_bytes(tmp_path / "m.ply", "texture"))
    (warning,) = check_start(read_start_mesh(tmp_path / "start.npz"), "texture")
    assert warning == (
        "100% of the UV map lies under other parts of it: parts that overlap share their colors. Unwrap the object again "
        "if they should not."
    )


def box(*size: float) -> dict[str, np.ndarray]:
    corners = np.array(list(itertools.product((0, 1), repeat=3))) * size
    return {"verts": np.append(corners, [[9, 9, 9]], 0), "faces": np.arange(9).reshape(3, 3) % 8}


@pytest.mark.parametrize(
    ("size", "start", "height_m", "said"),
    [
        ((1, 1, 2), "object", 2.01, ""),
        ((1, 1, 2), "object", 0.5, "The object is 2 m high, and its result will be 0.5 m high."),
        ((1, 1, 2), "texture", 0.5, ""),
        ((2, 2, 0.01), "object", 1.0, "The object is flat, 2 × 2 × 0.01 m: it keeps its size"),
        ((0.01, 0.01, 1), "object", 1.0, "1 m long but only 0.01 m wide, less than a pixel of the 64"),
        ((0.01, 0.01, 1), "texture", 1.0, "Thicken it, or make a part of it alone."),
        ((0.022, 0.022, 1), "texture", 1.0, ""),
    ],
)
def test_what_becomes_of_the_size(size: tuple, start: str, height_m: float, said: str) -> None:
    found = " ".join(check_size(box(*size), start, 64, height_m))
    assert (said in found) if said else found == ""


def test_a_region_keeps_the_size() -> None:
    arrays = box(1, 1, 2) | {"region": np.arange(9) / 8}
    assert check_size(arrays, "object", 64, 0.5) == []


@pytest.mark.parametrize("prior", ["builtin", "stable-diffusion-2-1-base"])
@pytest.mark.parametrize("start", ["object", "texture"])
@pytest.mark.parametrize("quality", ["standard", "quick"])
def test_the_panel_knows_the_pictures_that_the_presets_have(prior: str, start: str, quality: str) -> None:
    for method in get_args(Method):
        config = resolve(JobRequest("a bear", prior=prior, method=method, quality=quality))
        first = config.texture if start == "texture" else config.optimize
        assert seen_px(prior, method, start) == first.render_px, method
