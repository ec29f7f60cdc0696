"""The reader of the animals and their photographs, on a mesh made here: nothing of the package is needed."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.evaluation.animal_meshes import Animal, load_animals
from recdreamer.evaluation.animals import POSE_SHARES, POSES
from recdreamer.evaluation.figurines import pose_class

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "train_prior"))
import animals
from animal_photos import Menagerie
from animal_table import COATS, KEPT_FOR_TESTS, KEPT_FROM_JUDGES

RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)
BOX = np.array([[x, y, z] for x in (-1, 1) for y in (-2, 2) for z in (-1, 1)], np.float32)
"""Twice as long from front to back as wide and high, in Blender's axes."""
QUADS = [(0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5), (0, 2, 6, 4), (1, 5, 7, 3)]
"""Front (-Y), back, left (-X), right, below, above; counter-clockwise from outside."""


def box_pmd(version: int = 4) -> bytes:
    """The box as a PMD file: in the game's axes, clockwise; u is 0.25 on the front and 0.75 elsewhere."""
    verts, faces = [], []
    for number, quad in enumerate(QUADS):
        for corner in quad:
            x, y, z = BOX[corner]
            verts.append(
                struct.pack(
                    "<3f3f2f4B4f", x, z, y, 0, 0, 1, 0.25 if number == 0 else 0.75, 0.5, *[0] * 4, *[0.0] * 4
                )
            )
        a, b, c, d = range(4 * number, 4 * number + 4)
        faces += [(a, c, b), (a, d, c)]
    head = (
        struct.pack("<II", version, 0)
        + struct.pack("<I", len(verts))
        + (struct.pack("<I", 1) if version >= 4 else b"")
    )
    triangles = b"".join(struct.pack("<3H", *face) for face in faces)
    return b"PSMD" + head + b"".join(verts) + struct.pack("<I", len(faces)) + triangles


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one animal: red in front, blue elsewhere."""
    picture, stream = Image.new("RGBA", (8, 4), BLUE), io.BytesIO()
    picture.paste(RED, (0, 0, 4, 4))
    picture.save(stream, "DDS")
    path = tmp_path / "public.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("art/meshes/skeletal/box.dae.cached.pmd", box_pmd())
        archive.writestr("art/textures/skins/skeletal/two.png.cached.dds", stream.getvalue())
    monkeypatch.setattr(animals, "COATS", {"box": {"skeletal/box": {"red": "skeletal/two.png"}}})
    return path


@pytest.mark.parametrize("version", [3, 4])
def test_a_mesh_is_read_in_blenders_axes_with_its_outside_outside(version: int) -> None:
    xyz, faces, uvs = animals.read_pmd(box_pmd(version))
    verts, faces = animals.to_blender(xyz, faces)
    assert np.ptp(verts, axis=0).tolist() == [2, 4, 2]
    corners = verts[faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((outward * corners.mean(1)).sum(1) > 0).all()
    assert uvs[faces[:2]].reshape(-1, 2).tolist() == [[0.25, 0.5]] * 6


def test_what_is_no_mesh_is_refused() -> None:
    with pytest.raises(ValueError, match="no PMD"):
        animals.read_pmd(b"PK\3\4" + bytes(40))


def test_animals_are_saved_without_loss(package: Path, tmp_path: Path) -> None:
    (read,) = animals.read_animals(package)
    animals.save_animals([read, read], tmp_path / "animals.npz")
    again = load_animals(tmp_path / "animals.npz")
    assert len(again) == 2
    assert (again[1].kind, again[1].mesh, again[1].size) == ("box", "skeletal/box", 4.0)
    assert np.array_equal(again[1].verts, read.verts) and np.ptp(read.verts, axis=0).tolist() == [0.5, 1, 0.5]
    assert np.array_equal(again[1].uvs, read.uvs) and np.array_equal(again[1].coats["red"], read.coats["red"])


def test_the_front_is_seen_from_azimuth_0(package: Path) -> None:
    zoo = Menagerie(list(animals.read_animals(package)), "cpu")
    only = dict.fromkeys(POSES, 0.0)
    for pose in POSES:
        generator = torch.Generator().manual_seed(3)
        photos = zoo.photograph(torch.zeros(8, dtype=torch.long), generator, 32, only | {pose: 1.0})
        red, _, blue = photos.images.float().mean((0, 2, 3)).tolist()
        assert (pose_class(photos.azimuth_deg) == POSES.index(pose)).all()
        assert (red > blue + 20) == (pose == "front")


def test_photographs_are_repeatable_and_as_biased_as_they_say(package: Path) -> None:
    zoo = Menagerie(list(animals.read_animals(package)), "cpu")
    looks = torch.zeros(2000, dtype=torch.long)
    photos, again = (zoo.photograph(looks, torch.Generator().manual_seed(5), 4) for _ in range(2))
    assert torch.equal(photos.images, again.images)
    shares = torch.bincount(pose_class(photos.azimuth_deg), minlength=4) / len(looks)
    assert torch.allclose(shares, torch.tensor([POSE_SHARES[pose] for pose in POSES]), atol=0.04)


def test_transparent_texels_are_not_seen(package: Path) -> None:
    (box,) = animals.read_animals(package)
    clear = box.coats["red"].copy()
    clear[:, :4, 3] = 0
    thin = Animal(box.kind, box.mesh, box.verts, box.faces, box.uvs, box.size, {"red": clear})
    rays_o, rays_d = torch.tensor([[0.0, -4, 0]]), torch.tensor([[0.0, 1, 0]])
    for animal, expected in ((box, [1.0, 0.0, 0.0]), (thin, [0.0, 0.0, 1.0])):
        is_hit, color, normal, _ = Menagerie([animal], "cpu").standing[0].see("red", rays_o, rays_d)
        assert is_hit.item() and color[0].tolist() == pytest.approx(expected, abs=1e-3)
        assert normal[0].tolist() == pytest.approx([0, -1, 0], abs=1e-3), (
            "towards the viewer, also from inside"
        )


def test_the_table_is_sound() -> None:
    looks = {(kind, coat) for kind, meshes in COATS.items() for coats in meshes.values() for coat in coats}
    assert len(COATS) >= 40 and len(looks) >= 80
    assert looks >= KEPT_FOR_TESTS | KEPT_FROM_JUDGES and not KEPT_FOR_TESTS & KEPT_FROM_JUDGES
