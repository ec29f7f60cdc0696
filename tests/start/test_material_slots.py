"""Material slots of mesh files: they arrive under their names, on their faces."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from recdreamer.mesh.finish import dress_mesh
from recdreamer.mesh.mesh import MeshConfig
from recdreamer.shared.material_slots import MaterialSlots, slots_in
from recdreamer.shared.protocol import RequestError
from recdreamer.start.mesh_file import Placement, check_start
from recdreamer.start.starting_point import StartingPoint, in_scene

from .mesh_files import materials_of_faces, notes, read


def test_the_materials_of_an_obj_become_slots_in_the_order_in_which_faces_use_them(tmp_path: Path) -> None:
    squares = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    text = (
        squares
        + "f 1 2 3\nusemtl never\nusemtl red  paint \nf 1 2 3 4\nusemtl Stoff ü\nf 1 3 4\nusemtl red  paint\nf 2 3 4\n"
    )
    found = read(tmp_path, "cloth.obj", text)
    assert materials_of_faces(found) == ["", "red  paint", "red  paint", "Stoff ü", "red  paint"]
    assert found["slots"].tolist() == [2, 0, 0, 1, 0], "faces without a material have the last slot"
    assert check_start(found, "object") == [
        "2 of the 5 triangles of the object have no area or lie upon others, and are left out.",
        "The surface is made again, so that its 3 materials become one, with one texture.",
    ]
    assert "slots" not in read(tmp_path, "plain.obj", squares + "f 1 2 3 4\n")


@pytest.mark.parametrize("names", [("Körper", "eyes"), ("", "eyes"), (None, None)])
def test_the_materials_of_a_gltf_become_slots_under_their_names(names: tuple, tmp_path: Path) -> None:
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}, {"mesh": 1, "scale": [-1, 1, 1]}, {"mesh": 0, "translation": [3, 0, 0]}],
        "materials": [{"name": "of no face"}, *({} if name is None else {"name": name} for name in names)],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0}, "material": 2}]},
            {"primitives": [{"attributes": {"POSITION": 0}, "material": 1}, {"attributes": {"POSITION": 0}}]},
        ],
        "accessors": [{"componentType": 5126, "count": 3, "type": "VEC3", "bufferView": 0}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"uri": "data:;base64," + base64.b64encode(np.eye(3, dtype=np.float32).tobytes()).decode()}],
    }  # fmt: skip
    found = read(tmp_path, "parts.gltf", json.dumps(document))
    first, second = (name or f"Material_{index}" for index, name in enumerate(names, 1))
    assert materials_of_faces(found) == [second, first, "", second]


def test_ply_and_stl_have_no_materials(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    for kind in ("ply", "stl"):
        assert "slots" not in read(tmp_path, f"box.{kind}", box.export(file_type=kind))


def test_an_npz_keeps_its_slots_also_those_that_no_face_uses(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    given = {"verts": box.vertices.astype(np.float32), "faces": box.faces.astype(np.int32)}
    given |= MaterialSlots(np.arange(12, dtype=np.int32) % 2 * 2, ("oak", "never", "tin")).as_arrays()
    stream = io.BytesIO()
    np.savez(stream, **given)
    found = read(tmp_path, "box.npz", stream.getvalue())
    slots = slots_in(found, 12)
    assert slots is not None and slots.names == ("oak", "never", "tin")
    assert materials_of_faces(found) == ["oak", "tin"] * 6


@pytest.mark.parametrize(
    ("slots", "complaint"),
    [
        (np.zeros(11, np.int32), "entries"),
        (np.zeros(12, np.float32), "whole numbers"),
        (np.full(12, -1), "below 0"),
        (np.full(12, 1024), "beyond the 1,024"),
        (np.zeros((12, 2), np.int32), "shape"),
    ],
)
def test_slots_that_do_not_fit_the_mesh_are_refused(
    slots: np.ndarray, complaint: str, tmp_path: Path
) -> None:
    box = trimesh.creation.box()
    stream = io.BytesIO()
    np.savez(stream, verts=box.vertices.astype(np.float32), faces=box.faces.astype(np.int32), slots=slots)
    with pytest.raises(RequestError, match=complaint):
        read(tmp_path, "box.npz", stream.getvalue())


def test_names_of_slots_are_short_single_lines_whatever_the_file_says(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    stream = io.BytesIO()
    names = np.frombuffer(b"\xff\x00" + "ä".encode() * 100 + b"\n" * 5000, np.uint8)
    np.savez(
        stream, verts=box.vertices.astype(np.float32), faces=box.faces.astype(np.int32),
        slots=np.zeros(12, np.int32), slot_names=names,
    )  # fmt: skip
    slots = slots_in(read(tmp_path, "box.npz", stream.getvalue()), 12)
    assert slots is not None and len(slots.names) <= 1024
    assert len(slots.names[0].encode()) <= 63 and slots.names[0].isprintable()


def test_more_materials_than_slots_become_one_and_it_is_said(tmp_path: Path) -> None:
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\n" + "".join(f"usemtl m{i}\nf 1 2 3\n" for i in range(1100))
    assert "slots" not in read(tmp_path, "many.obj", text)
    assert "its 1,100 materials become one; up to 1,024 are kept" in notes(tmp_path)


def test_two_materials_with_a_map_each_leave_as_glb_with_a_picture_each_in_the_uvs_of_the_artist(
    tmp_path: Path,
) -> None:
    """As painted: the lower square red, the upper one blue, both over the whole of the same map."""
    squares = "".join(f"v 0 {y} 0\nv 1 {y} 0\nv 1 {y} 1\nv 0 {y} 1\n" for y in (0, 1))
    text = (
        squares
        + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl lower\nf 1/1 2/2 3/3 4/4\nusemtl upper\nf 5/1 6/2 7/3 8/4\n"
    )
    original = read(tmp_path, "two.obj", text)
    start = in_scene(StartingPoint("texture", 0.0, original), Placement.centred(original["verts"], 0.75))
    assert start.mesh is not None

    def shade(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, 2:] < 0, torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0]))

    config = MeshConfig(texture_size_px=32, bake_samples=1, normal_map=False)
    dress_mesh(start.mesh, shade, None, config, tmp_path / "result", place=lambda mesh: mesh)
    scene = trimesh.load_scene(tmp_path / "result" / "model.glb")
    for name, color in (("lower", (255, 0, 0)), ("upper", (0, 0, 255))):
        (part,) = (part for part in scene.geometry.values() if part.visual.material.name.startswith(name))
        assert np.unique(part.visual.uv).tolist() == [0, 1]
        picture = np.asarray(part.visual.material.baseColorTexture.convert("RGB"))
        assert np.unique(picture.reshape(-1, 3), axis=0).tolist() == [list(color)]
