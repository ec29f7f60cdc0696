"""Mesh files of all formats: faces and UVs arrive as they are, and what cannot be used is one sentence."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from recdreamer.shared.protocol import RequestError
from recdreamer.start.mesh_file import check_start, read_start_mesh, start_mesh_bytes

from .mesh_files import materials_of_faces, notes, read

CUBE = """v 0 0 0
v 1 0 0
v 0 1 0
v 1 1 0
v 0 0 1
v 1 0 1
v 0 1 1
v 1 1 1
vt 0 0
vt 0.5 0
vt 0.5 1
vt 0 1
"""
SIDES = ("1 2 6 5", "2 4 8 6", "4 3 7 8", "3 1 5 7", "5 6 8 7", "3 4 2 1")


def obj_cube(move: int = 0, uvs: str = "1234", before: str = "") -> str:
    """Faces of CUBE, or of the one that comes `move` vertices later."""
    faces = []
    for side in SIDES:
        corners = (
            f"{int(vertex) + move}" + (f"/{int(uv) + move // 2}" if uvs else "")
            for vertex, uv in zip(side.split(), uvs or "    ", strict=True)
        )
        faces.append("f " + " ".join(corners))
    return before + "\n".join(faces) + "\n"


def uv_areas(arrays: dict[str, np.ndarray]) -> list[float]:
    b, c = (arrays["uvs"][:, corner] - arrays["uvs"][:, 0] for corner in (1, 2))
    return np.unique(np.abs(b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]).round(6)).tolist()


# UVs and materials


@pytest.mark.parametrize("has_mtl", [True, False])
def test_the_uvs_of_an_obj_of_two_materials_stay_where_they_are(has_mtl: bool, tmp_path: Path) -> None:
    (tmp_path / "two.mtl").write_text("newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n" if has_mtl else "")
    text = CUBE + obj_cube(before="mtllib two.mtl\nusemtl b\n")
    text += CUBE.replace("vt 0", "vt 0.5").replace("vt 0.5.5", "vt 1") + obj_cube(8, before="usemtl a\n")
    found = read(tmp_path, "two.obj", text)
    assert found["uvs"].shape == (24, 3, 2) and uv_areas(found) == [0.5]
    assert found["uvs"][:12].max(axis=(0, 1)).tolist() == [0.5, 1.0]
    assert found["uvs"][12:].min(axis=(0, 1)).tolist() == [0.5, 0.0]
    assert materials_of_faces(found) == ["b"] * 12 + ["a"] * 12
    # The faces keep their order: the first is the front of the first cube.
    np.testing.assert_array_equal(found["verts"][found["faces"][0]], [[0, 0, 0], [1, 0, 0], [1, 0, 1]] @ Y_UP)


Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])


def glb_of(parts: list[trimesh.Trimesh]) -> bytes:
    return trimesh.Scene(parts).export(file_type="glb")


def textured(place: float, low: float, color: str) -> trimesh.Trimesh:
    """A square at `place` with UVs from `low` to `low` + 0.5 and a picture, or a colour, of its own."""
    picture = Image.new("RGB", (16, 16), color)
    uvs = np.add([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], (low, 0))
    verts = np.add([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], (place, 0, 0))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture if color != "white" else None)
    visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    return trimesh.Trimesh(verts, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


@pytest.mark.parametrize("colors", [("red", "blue"), ("white", "white"), ("white", "red")])
def test_the_uvs_of_a_glb_of_several_meshes_stay_where_they_are(colors: tuple, tmp_path: Path) -> None:
    parts = [textured(2.0 * index, 0.5 * index, color) for index, color in enumerate(colors)]
    found = read(tmp_path, "two.glb", glb_of(parts))
    assert uv_areas(found) == [0.5]
    by_part = found["uvs"][np.argsort(found["verts"][found["faces"]].mean(1)[:, 0], kind="stable")]
    np.testing.assert_allclose(by_part[:2].reshape(-1, 2).max(0), (0.5, 1.0), atol=1e-6)
    np.testing.assert_allclose(by_part[2:].reshape(-1, 2).min(0), (0.5, 0.0), atol=1e-6)


def test_of_a_mesh_of_several_parts_only_those_without_uvs_get_new_ones_and_it_is_said(
    tmp_path: Path,
) -> None:
    found = read(tmp_path, "half.obj", CUBE + obj_cube() + CUBE.replace("v 0", "v 2") + obj_cube(8, ""))
    assert np.isnan(found["uvs"][12:]).all() and uv_areas({"uvs": found["uvs"][:12]}) == [0.5]
    wanted = "12 faces of 24 have no UVs. They get UV tile 1002, with a texture of its own; all others keep theirs."
    assert wanted in check_start(found, "texture")
    assert check_start(found, "object") == [], "which gets a new surface in any case"
    bare = trimesh.creation.box((0.5, 0.5, 0.5))
    found = read(tmp_path, "half.glb", glb_of([textured(0.0, 0.0, "red"), bare]))
    assert np.isnan(found["uvs"]).all((1, 2)).sum() == 12 and uv_areas(
        {"uvs": found["uvs"][~np.isnan(found["uvs"]).all((1, 2))]}
    ) == [0.5]
    assert "12 faces of 14 have no UVs" in " ".join(check_start(found, "texture"))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("where", ["vertex s t", "vertex u v", "face"])
def test_the_uvs_of_a_ply_are_read_wherever_they_stand(where: str, text: bool, tmp_path: Path) -> None:
    uvs = np.array([[0.1, 0.2], [0.9, 0.2], [0.9, 0.8], [0.1, 0.8]], np.float32)
    verts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    names, of_faces = where.split()[1:], where == "face"
    header = [
        "ply",
        f"format {'ascii' if text else 'binary_big_endian'} 1.0",
        "comment TextureFile /dev/zero",
    ]
    header += ["element vertex 4", *(f"property float {axis}" for axis in "xyz")]
    header += [f"property float {name}" for name in names]
    header += ["element face 2", "property list uchar int vertex_indices"]
    header += ["property list uchar float texcoord"] if of_faces else []
    data = "\n".join([*header, "end_header", ""]).encode()
    rows = np.concatenate([verts, uvs], 1) if names else verts
    polygons = [[0, 1, 2], [0, 2, 3]]
    if text:
        data += "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode() + b"\n"
        for polygon in polygons:
            data += f"3 {' '.join(map(str, polygon))}".encode()
            data += (" 6 " + " ".join(map(str, uvs[polygon].ravel().tolist()))).encode() if of_faces else b""
            data += b"\n"
    else:
        data += rows.astype(">f4").tobytes()
        for polygon in polygons:
            data += b"\3" + np.array(polygon, ">i4").tobytes()
            data += b"\6" + uvs[polygon].astype(">f4").tobytes() if of_faces else b""
    found = read(tmp_path, "square.ply", data)
    np.testing.assert_array_equal(found["verts"][found["faces"]], verts[polygons])
    np.testing.assert_allclose(found["uvs"], uvs[polygons], atol=1e-6)


def test_a_ply_of_triangles_and_quads_is_read(tmp_path: Path) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\n"
    header += "property float z\nelement face 2\nproperty list uchar uint vertex_index\nend_header\n"
    verts = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0]], "<f4")
    data = (
        verts.tobytes()
        + b"\4"
        + np.arange(4, dtype="<u4").tobytes()
        + b"\3"
        + np.array([1, 4, 2], "<u4").tobytes()
    )
    found = read(tmp_path, "mixed.ply", header.encode() + data)
    expected = verts[[[0, 1, 2], [0, 2, 3], [1, 4, 2]]]
    np.testing.assert_array_equal(found["verts"][found["faces"]], expected)


# What glTF and OBJ may hold


def gltf(**changes) -> dict:
    """A triangle in three points, with UVs in a second channel that its material uses."""
    data = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    data += np.array([[0, 0], [65535, 0], [0, 65535]], "<u2").tobytes()
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    return {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": uri, "byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 12},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "VEC2", "normalized": True},
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, "texCoord": 1}}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_1": 1}, "material": 0}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
    } | changes


def test_gltf_uvs_are_those_of_the_material_and_begin_at_the_lower_left(tmp_path: Path) -> None:
    found = read(tmp_path, "a.gltf", json.dumps(gltf()))
    np.testing.assert_allclose(found["uvs"][0], [[0, 1], [1, 1], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(
        found["verts"][found["faces"]][0], [[0, 0, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6
    )


def test_nodes_place_turn_and_mirror_their_meshes(tmp_path: Path) -> None:
    nodes = [
        {"children": [1, 2], "translation": [0, 0, 5]},
        {"mesh": 0, "scale": [-1, 1, 1]},
        {"mesh": 0, "rotation": [0, 0.7071067811865476, 0, 0.7071067811865476]},
    ]
    found = read(tmp_path, "a.gltf", json.dumps(gltf(nodes=nodes)))
    # In Blender's axes, z of glTF is -y; the mirrored face still looks to its front, so its corners are reversed.
    np.testing.assert_allclose(
        found["verts"][found["faces"]],
        [[[0, -5, 1], [-1, -5, 0], [0, -5, 0]], [[0, -5, 0], [0, -4, 0], [0, -5, 1]]],
        atol=1e-6,
    )
    np.testing.assert_allclose(found["uvs"], [[[0, 0], [1, 1], [0, 1]], [[0, 1], [1, 1], [0, 0]]], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nodes": [{"mesh": 0, "children": [1]}, {"children": [0]}]}, "no tree"),
        ({"nodes": [{"mesh": 7}]}, "meshes 7"),
        ({"nodes": [{"mesh": "0"}]}, "meshes '0'"),
        ({"buffers": [{"uri": "/dev/zero", "byteLength": 48}]}, "not inside its folder"),
        ({"buffers": [{"uri": "../a.bin", "byteLength": 48}]}, "not inside its folder"),
        ({"buffers": [{"uri": "gone.bin", "byteLength": 48}]}, "no file"),
        ({"buffers": [{"byteLength": 48}]}, "no data"),
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "KHR_draco_mesh_compression"),
        ({"accessors": [{"componentType": 5126, "count": 1 << 40, "type": "VEC3"}] * 2}, "declares"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 9, "type": "VEC3"}] * 2}, "cut off"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": -1, "type": "VEC3"}] * 2}, "declares"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 1}]}]}, "no faces"),
        ({"meshes": [[]]}, "damaged"),
        ({"scenes": []}, "scenes 0"),
        ({"nodes": [{"mesh": 0, "scale": [1e300, 1, 1]}]}, "finite|far"),
    ],
)  # fmt: skip
def test_a_gltf_that_lies_is_one_sentence(changes: dict, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        read(tmp_path, "a.gltf", json.dumps(gltf(**changes)))
    assert "\n" not in caught.value.message and caught.value.hint


def test_a_scene_of_too_many_instances_is_refused_before_they_are_made(tmp_path: Path) -> None:
    many = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
    indices = {"componentType": 5125, "count": 6_000_000, "type": "SCALAR"}
    document = gltf(
        accessors=[many, indices],
        meshes=[{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        nodes=[{"mesh": 0}] * 20_000, scenes=[{"nodes": list(range(20_000))}],
    )  # fmt: skip
    with pytest.raises(RequestError, match="more than 2,000,000 triangles"):
        read(tmp_path, "a.gltf", json.dumps(document))


def test_negative_indices_count_from_the_newest_vertex_and_polygons_become_fans(tmp_path: Path) -> None:
    text = (
        "v 0 0 0\nv 1 0 0\nv 1 0 1\nv 0 0 1\nf -4 -3 -2 -1\nv 5 5 5\nl 1 2\nvn 0 0 1\nf 1//1 2//1 \\\n 5//1\n"
    )
    found = read(tmp_path, "a.obj", text)
    assert found["faces"].tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4]]
    assert "uvs" not in found and "left out: 1 lines or points" in notes(tmp_path)


FAULTS = {
    "a.obj": [
        ("", "no faces"),
        (CUBE, "no faces"),
        (CUBE + "f 1 2 9", "vertex 9 of 8"),
        (CUBE + "f 1 2 0", "line 13"),
        (CUBE + "f 1 2", "line 13"),
        (CUBE + "f 1/1 2/2 3/9", "UV 9 of 4"),
        (CUBE + "f -1 -2 -9", "line 13"),
        (CUBE + "f " + "9" * 5000 + " 1 2", "line 13"),
        (CUBE + "v 1 2", "line 13"),
        (CUBE + "vt nan 0\n" + obj_cube(uvs="5555"), "UVs that are no finite"),
        (CUBE.replace("v 0 0 0", "v nan 0 0") + obj_cube(), "not all finite"),
        (CUBE.replace("v 0 0 0", "v 1e300 0 0") + obj_cube(), "not all finite"),
        (CUBE.replace("v 0 0 0", "v 1e37 0 0") + obj_cube(), "1e\\+37 m far"),
    ],
    "a.ply": [
        ("ply\n", "no header"),
        ("ply\nformat ascii 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n", "declares"),
        ("ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n0\n", "cut off"),
        ("ply\nformat martian 1.0\nend_header\n", "header is damaged"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
         "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n3 0 1 2\n", "vertex 2 of 1"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
         "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n99999999 0\n", "declares"),
        ("ply\nformat binary_little_endian 1.0\nelement face 9\nproperty list uint int vertex_indices\nend_header\n"
         "\x7f\x7f\x7f\x7f", "cut off"),
    ],
    "a.stl": [
        ("solid x", "neither"),
        ("solid x\nfacet\nvertex 0 0 0\nvertex 1 0 x\nvertex 1 1 1\nendfacet\n" + " " * 80, "no number"),
        ("\0" * 80 + "\x7f\x7f\x7f\x7f", "neither"),
    ],
    "a.glb": [("glTF", "cut off"), ("glTF\2\0\0\0\x40\0\0\0\x7f\x7f\x7f\x7fJSON", "cut off"), ("{" * 100_000, "no glTF")],
    "a.gltf": [("[]", "no glTF"), ("[" * 100_000, "no glTF"), ("\xff\xfe", "no glTF")],
    "a.fbx": [("Kaydara", ".fbx is none of the formats")],
    "a": [("solid", "without suffix")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [(name, *fault) for name, faults in FAULTS.items() for fault in faults],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    name: str, content: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        read(tmp_path, name, content.encode("latin-1"))
    assert caught.value.hint and "\n" not in caught.value.message and len(caught.value.message) < 400


def test_a_path_may_be_quoted_and_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b ox.obj").write_text(CUBE + obj_cube())
    assert start_mesh_bytes(Path(f'"{tmp_path}/b ox.obj"')) == start_mesh_bytes(Path("~/b ox.obj"))


# Damage of every kind


def whole_files() -> dict[str, bytes]:
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    archive = io.BytesIO()
    np.savez_compressed(archive, verts=box.vertices.astype(np.float32), faces=box.faces.astype(np.int32))
    files = {f"a.{kind}": box.export(file_type=kind) for kind in ("glb", "ply", "stl")}
    text = box.export(file_type="ply", encoding="ascii")
    return files | {
        "b.ply": text, "a.obj": (CUBE + obj_cube()).encode(), "a.gltf": json.dumps(gltf()).encode(),
        "a.npz": archive.getvalue(), "b.stl": box.export(file_type="stl_ascii").encode(),
    }  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The data with some bytes changed, cut out, doubled, or replaced by extreme numbers."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(changed) + 1))
        length = int(rng.integers(1, 9))
        match int(rng.integers(6)):
            case 0:
                changed[place : place + length] = rng.bytes(length)
            case 1:
                del changed[place : place + int(rng.integers(1, len(changed) + 1))]
            case 2:
                changed[place:place] = changed[place : place + 20]
            case 3:
                extreme = (0, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, -(2**63))[int(rng.integers(6))]
                changed[place : place + 4] = (extreme % 2**32).to_bytes(4, "little")
            case 4:
                changed[place : place + 4] = struct.pack(
                    "<f", (np.nan, np.inf, -1e38, 1e-40)[int(rng.integers(4))]
                )
            case 5:
                word = (b"nan", b"1e999", b"-1", b"99999999999", b"null", b"[]", b"\xff")[
                    int(rng.integers(7))
                ]
                changed[place : place + length] = word
    return bytes(changed)


@pytest.mark.parametrize("name", sorted(whole_files()))
def test_damage_is_refused_in_one_sentence_or_harmless(name: str, tmp_path: Path) -> None:
    """60 mutations in the suite; RECDREAMER_FUZZ=10000 makes as many."""
    whole, rng, told = whole_files()[name], np.random.default_rng(0), 0
    count = int(os.environ.get("RECDREAMER_FUZZ", "60"))
    for _ in range(count):
        path = tmp_path / name
        path.write_bytes(mutated(whole, rng))
        try:
            data = start_mesh_bytes(path, "texture")
        except RequestError as error:
            assert "\n" not in error.message and len(error.message) < 700 and error.hint
            told += 1
            continue
        (tmp_path / "start.npz").write_bytes(data)
        arrays = read_start_mesh(tmp_path / "start.npz")
        assert all(np.isfinite(array).all() for array in arrays.values())
        assert arrays["faces"].max() < len(arrays["verts"])
    assert told > 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_first_line_of_an_obj_counts_whatever_its_encoding(encoding: str, tmp_path: Path) -> None:
    """A mark of the encoding before the first vertex made it another word, and all faces used the next one."""
    found = read(tmp_path, "cube.obj", (CUBE + obj_cube()).encode(encoding))
    assert len(found["verts"]) == 8 and len(found["faces"]) == 12
    assert found["verts"].min(0).tolist() == [0, -1, 0] and found["verts"].max(0).tolist() == [1, 0, 1]


def test_colors_of_the_vertices_of_an_obj_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    read(tmp_path, "scan.obj", "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n")
    assert "left out: vertex colors" in notes(tmp_path)
    (tmp_path / "start.npz").unlink()
    read(tmp_path, "rational.obj", "v 0 0 0 1\nv 1 0 0 1\nv 0 1 0 1\nf 1 2 3\n")
    assert notes(tmp_path) == ""
