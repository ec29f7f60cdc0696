"""Several UV tiles (UDIM), artists' own UVs, and the memory of a large bake."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from recdreamer.mesh import (
    Mesh,
    bake_color,
    bake_normal_map,
    extract_mesh,
    mesh_report,
    unwrap,
    write_mesh,
)
from recdreamer.mesh.raster import tiles_of_faces
from recdreamer.shared.material_slots import MaterialSlots, slots_in
from recdreamer.shared.uv_map import overlap
from recdreamer.start.gltf_file import read_gltf

from .fields import SMALL, ball, finish_mesh, nose_field, position_color, sample_bilinear

ROOT = Path(__file__).parents[2]


def shade(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    return position_color(points)


@pytest.fixture(scope="module")
def two_tiles() -> Mesh:
    """A head whose islands lie in the tiles 1001 and 1012: those of the upper half one right and one up."""
    mesh = extract_mesh(nose_field, SMALL)
    is_upper = mesh.verts[mesh.faces].mean(1)[:, 2] > 0
    uvs = np.zeros((len(mesh.faces), 3, 2), np.float32)
    for chosen, corner in ((~is_upper, (0, 0)), (is_upper, (1, 1))):
        uvs[chosen] = unwrap(Mesh(mesh.verts, mesh.faces[chosen]), SMALL)[0].uvs_or_error() + np.float32(
            corner
        )
    return Mesh(mesh.verts, mesh.faces, uvs)


@pytest.fixture(scope="module")
def folder(two_tiles: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    albedo = bake_color(two_tiles, shade, texture_size_px=128)
    normals = bake_normal_map(two_tiles, lambda points, normals: normals, texture_size_px=128)
    report = mesh_report(two_tiles, albedo)
    assert report["texture_tiles"] == [1001, 1012]
    assert report["seam_error"]["p99"] < 5 / 255
    names = write_mesh(folder, two_tiles, albedo.tiles, normals.tiles)
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    return folder


def test_tiles_are_named_as_udim_wants(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "albedo.1001.png", "albedo.1012.png", "mesh.npz", "model.glb", "normal.1001.png", "normal.1012.png",
    ]  # fmt: skip


def test_every_tile_holds_the_colours_of_its_own_faces(two_tiles: Mesh, folder: Path) -> None:
    tile = tiles_of_faces(two_tiles.uvs_or_error())
    centres = two_tiles.verts[two_tiles.faces].mean(1)
    for number, corner in ((1001, (0, 0)), (1012, (1, 1))):
        image = np.asarray(Image.open(folder / f"albedo.{number}.png"))
        uvs = two_tiles.uvs_or_error()[tile == number].mean(1) - corner
        expected = position_color(torch.from_numpy(centres[tile == number])).numpy()
        assert np.abs(sample_bilinear(image, uvs) - expected).mean() < 0.01


def test_the_mesh_keeps_its_place_and_its_uvs(two_tiles: Mesh, folder: Path) -> None:
    with np.load(folder / "mesh.npz") as arrays:
        assert np.array_equal(arrays["verts"], two_tiles.verts)
        assert np.array_equal(arrays["uvs"], two_tiles.uvs_or_error())


def test_gltf_has_a_material_for_each_tile(two_tiles: Mesh, folder: Path) -> None:
    data = (folder / "model.glb").read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    assert [material["name"] for material in document["materials"]] == ["RecDreamer.1001", "RecDreamer.1012"]
    assert all("normalTexture" in material for material in document["materials"])
    assert all("TANGENT" in part["attributes"] for part in document["meshes"][0]["primitives"])
    scene = trimesh.load_scene(folder / "model.glb", process=False)
    parts = list(scene.geometry.values())
    assert sum(len(part.faces) for part in parts) == len(two_tiles.faces)
    assert all(part.visual.uv.min() >= 0 and part.visual.uv.max() <= 1 for part in parts)


def test_faces_without_uvs_get_a_tile_of_their_own_and_all_others_keep_theirs(two_tiles: Mesh) -> None:
    uvs, given = two_tiles.uvs_or_error(), tiles_of_faces(two_tiles.uvs_or_error())
    bare = given == 1012
    made, num_islands = unwrap(replace(two_tiles, uvs=np.where(bare[:, None, None], np.nan, uvs)), SMALL)
    found = made.uvs_or_error()
    assert np.array_equal(found[~bare], uvs[~bare]) and num_islands > 0
    assert set(tiles_of_faces(found)[bare]) == {1002} and overlap(found, tiles_of_faces(found)) < 0.01
    assert np.array_equal(made.verts, two_tiles.verts) and np.array_equal(made.faces, two_tiles.faces)


def test_gltf_has_a_material_for_each_slot_and_tile_and_each_picture_once(
    two_tiles: Mesh, tmp_path: Path
) -> None:
    slots = MaterialSlots(
        (two_tiles.verts[two_tiles.faces].mean(1)[:, 0] > 0).astype(np.int32) * 2, ("skin", "never", "")
    )
    mesh = replace(two_tiles, slots=slots)
    albedo = bake_color(mesh, shade, texture_size_px=32)
    write_mesh(tmp_path, mesh, albedo.tiles)
    data = (tmp_path / "model.glb").read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    assert [material["name"] for material in document["materials"]] == [
        "skin.1001", "skin.1012", "RecDreamer.1001", "RecDreamer.1012"
    ]  # fmt: skip
    assert len(document["images"]) == 2 and len(document["meshes"][0]["primitives"]) == 4
    again = read_gltf(data, lambda name: b"")
    for name, count in (("skin", (slots.of_face == 0).sum()), ("RecDreamer", (slots.of_face == 2).sum())):
        assert (
            sum(
                len(part.faces) for part in again.parts if again.materials[part.materials[0]].startswith(name)
            )
            == count
        )
    with np.load(tmp_path / "mesh.npz") as arrays:
        assert slots_in(arrays, len(mesh.faces)).names == slots.names


@pytest.mark.parametrize(
    ("corner", "sentence"),
    [
        ((-1, 0), "UDIM has columns"),
        ((10, 0), "UDIM has columns"),
        ((0.5, 0), "cross the border of their UV tile"),
    ],
)
def test_uvs_where_udim_has_no_tile_are_refused(
    two_tiles: Mesh, corner: tuple[float, float], sentence: str
) -> None:
    moved = Mesh(two_tiles.verts, two_tiles.faces, two_tiles.uvs_or_error() + np.float32(corner))
    with pytest.raises(ValueError, match=sentence):
        bake_color(moved, shade, texture_size_px=32)


def test_a_normal_map_of_other_tiles_is_refused(two_tiles: Mesh, tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"tiles \[1001\], but the base color has \[1001, 1012\]"):
        write_mesh(tmp_path, two_tiles, {1001: image, 1012: image}, {1001: image})
    assert list(tmp_path.iterdir()) == []


def test_finish_writes_a_normal_map_when_asked(tmp_path: Path) -> None:
    config = replace(SMALL, texture_size_px=128, normal_map=True)
    report = finish_mesh(ball(0.6), position_color, config, 1.0, tmp_path)
    assert report["files"] == ["mesh.npz", "albedo.png", "normal.png", "model.glb"]
    image = np.asarray(Image.open(tmp_path / "normal.png")).astype(int)
    # The mesh is the ball: nothing but the facets' own error is left.
    assert np.abs(image - (128, 128, 255)).max() < 16


def test_a_normal_map_has_no_more_pixels_than_the_surface_has_detail(tmp_path: Path) -> None:
    config = replace(SMALL, resolution=24, texture_size_px=512)
    finish_mesh(ball(0.6), position_color, config, 1.0, tmp_path)
    sides = [len(np.asarray(Image.open(tmp_path / f"{name}.png"))) for name in ("albedo", "normal")]
    assert sides == [512, 256], "8 texels for each of 24 cells, a power of two"


def test_a_texture_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"texture_size_px is 16384; at most 8192"):
        replace(SMALL, texture_size_px=16384)


MEMORY_PROGRAM = """
import re, tempfile
from pathlib import Path
import numpy as np, trimesh
from recdreamer.mesh import Mesh, MeshConfig, bake_color, unwrap, write_mesh
ball = trimesh.creation.icosphere(subdivisions=3)
mesh, _ = unwrap(Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32)), MeshConfig(texture_size_px=1024))
def shade(points, normals):
    return (points / 2 + 0.5).clamp(0, 1)
for size_px in (256, 3072):
    texture = bake_color(mesh, shade, texture_size_px=size_px)
    with tempfile.TemporaryDirectory() as folder:
        write_mesh(Path(folder), mesh, texture.tiles)
    print(1024 * int(re.search(r"VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="reads the peak from /proc: getrusage counts the parent's too"
)
def test_a_bake_holds_few_bytes_per_texel() -> None:
    """Float positions and colours of all texels, or a second copy of what is held, would go over the bound."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "backend")},
    )
    small, large = map(int, done.stdout.split()[-2:])
    assert 3 < (large - small) / 3072**2 < 32
