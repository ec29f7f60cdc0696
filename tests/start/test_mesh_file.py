"""The mesh file that a job starts from: what is read, what is refused, and where it is put."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

from recdreamer.shared.protocol import RequestError
from recdreamer.start.mesh_file import Placement, read_start_mesh, start_mesh_bytes

from .starts import figure


def test_a_good_file_is_read_with_the_types_that_the_protocol_names(tmp_path: Path):
    arrays = figure()
    arrays |= {
        "region": (arrays["verts"][:, 2] > 3.3).astype(np.float32),
        "rgb": np.full_like(arrays["verts"], 0.25),
    }
    arrays["uvs"] = np.random.default_rng(0).random((len(arrays["faces"]), 3, 2)) + 1
    np.savez(tmp_path / "start.npz", **arrays, other=np.zeros(3))
    found = read_start_mesh(tmp_path / "start.npz")
    assert set(found) == {"verts", "faces", "uvs", "region", "rgb"}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32), np.dtype(np.int32)}


def spoilt(**changes) -> dict[str, np.ndarray]:
    return {name: array for name, array in (figure() | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (spoilt(faces=None), "has no faces"),
        (spoilt(verts=np.zeros((4, 2), np.float32)), r"verts .* have the shape \(4, 2\), not n×3"),
        (spoilt(faces=np.zeros((4, 4), np.int32)), r"not n×3"),
        (spoilt(faces=np.zeros((4, 3), np.float32)), "not whole numbers"),
        (spoilt(verts=np.zeros((4, 3), np.int32)), "not floating point"),
        (spoilt(verts=np.full((2000, 3), np.nan, np.float32)), "not all finite"),
        (spoilt(faces=np.zeros((0, 3), np.int32)), "is empty"),
        (spoilt(faces=np.full((4, 3), 99_999, np.int32)), "a vertex that does not exist"),
        (spoilt(faces=np.full((4, 3), -1, np.int32)), "a vertex that does not exist"),
        (spoilt(verts=np.ones((2000, 3), np.float32)), "no extent"),
        (spoilt(faces=np.array([[0, 1, 1]], np.int32)), "no extent"),
        (spoilt(uvs=np.zeros((4, 3, 2), np.float32)), "uvs .* have 4 entries"),
        (spoilt(region=np.ones(4, np.float32)), "region .* have 4 entries"),
        (spoilt(rgb=np.full_like(figure()["verts"], 255)), "not all between 0 and 1"),
        (spoilt(region=np.zeros(len(figure()["verts"]), np.float32)), "region that may change is empty"),
        (spoilt(faces=np.zeros((2_000_001, 3), np.int32)), "2,000,001 triangles"),
    ],
)  # fmt: skip
def test_each_fault_is_one_sentence_and_a_remedy(arrays: dict, complaint: str, tmp_path: Path):
    np.savez(tmp_path / "start.npz", **arrays)
    with pytest.raises(RequestError, match=complaint) as caught:
        read_start_mesh(tmp_path / "start.npz")
    assert caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize("content", [None, b"", b"no archive at all", b"PK\x03\x04 torn"])
def test_a_missing_or_damaged_file_is_one_sentence(content: bytes | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "start.npz").write_bytes(content)
    with pytest.raises(RequestError, match="is missing" if content is None else "cannot be read"):
        read_start_mesh(tmp_path / "start.npz")


def test_pickled_objects_are_not_loaded(tmp_path: Path):
    np.savez(tmp_path / "start.npz", verts=np.array([{}], dtype=object), faces=figure()["faces"])
    with pytest.raises(RequestError, match="cannot be read"):
        read_start_mesh(tmp_path / "start.npz")


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path):
    """Two megabytes that claim to be gigabytes took half a minute and three gigabytes of memory."""
    resource = pytest.importorskip("resource")  # not on Windows
    archive = zipfile.ZipFile(tmp_path / "start.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("verts.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(
            entry, {"descr": "<f4", "fortran_order": False, "shape": (60_000_000, 3)}
        )
        for _ in range(60):
            entry.write(bytes(12_000_000))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_start_mesh, start_mesh_bytes):
        with pytest.raises(RequestError, match="bytes"):
            read(tmp_path / "start.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 200_000


# Placement


def test_a_placement_and_its_inverse():
    placement = Placement.centred(np.array([[0, 0, 0], [2, 4, 1]], np.float32), 0.75)
    found = placement.to_scene(np.array([[0, 0, 0], [2, 4, 1], [1, 2, 0.5]], np.float32))
    np.testing.assert_allclose(found, [[-0.375, -0.75, -0.1875], [0.375, 0.75, 0.1875], [0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply", ".stl"])
def test_common_formats_are_read_with_their_own_axes(suffix: str, tmp_path: Path):
    """A box that is longest upward, and nearer to the front, in each format as Blender writes it."""
    box = trimesh.creation.box((0.2, 0.4, 1.0)).apply_translation((0, -0.3, 0.5))
    if suffix in (".obj", ".glb"):  # Y up, front at +Z.
        box.vertices = box.vertices[:, [0, 2, 1]] * (1, 1, -1)
    path = tmp_path / f"b\u00f6x{suffix}"
    box.export(path)
    (tmp_path / "start.npz").write_bytes(start_mesh_bytes(path))
    verts = read_start_mesh(tmp_path / "start.npz")["verts"]
    assert len(verts) == 8, "corners that the format splits are one"
    assert np.allclose(np.ptp(verts, axis=0), (0.2, 0.4, 1.0), atol=1e-5)
    assert np.allclose((verts.min(0) + verts.max(0)) / 2, (0, -0.3, 0.5), atol=1e-5)


def test_vertices_split_at_seams_are_one_again_and_corners_keep_their_uvs(tmp_path: Path):
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    uvs = np.random.default_rng(0).random((36, 2))
    corners = np.arange(36).reshape(12, 3)
    visual = trimesh.visual.TextureVisuals(uv=uvs)
    trimesh.Trimesh(box.triangles.reshape(-1, 3), corners, visual=visual, process=False).export(
        tmp_path / "b.glb"
    )
    (tmp_path / "start.npz").write_bytes(start_mesh_bytes(tmp_path / "b.glb"))
    found = read_start_mesh(tmp_path / "start.npz")
    assert len(found["verts"]) == 8 and found["uvs"].shape == (12, 3, 2)
    places = found["verts"][found["faces"]][:, :, [0, 2, 1]] * (1, 1, -1)
    np.testing.assert_allclose(places, box.triangles, atol=1e-6)
    np.testing.assert_allclose(found["uvs"], uvs[corners], atol=1e-6)


@pytest.mark.parametrize("name", ["nowhere.obj", "text.obj", "torn.glb", "picture.png"])
def test_a_file_that_is_not_a_mesh_is_refused_in_one_sentence(name: str, tmp_path: Path):
    if name != "nowhere.obj":
        (tmp_path / name).write_bytes(b"no mesh at all")
    with pytest.raises(RequestError, match="mesh") as caught:
        data = start_mesh_bytes(tmp_path / name)
        (tmp_path / "start.npz").write_bytes(data)
        read_start_mesh(tmp_path / "start.npz")
    assert caught.value.hint
