"""The true animals: read, sampled from outside, and compared with a mesh up to its yaw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recdreamer.evaluation.animal_meshes import SHADE, SIZE, Animal, AnimalTruth, animal_or_none, load_animals
from recdreamer.evaluation.judge_mesh import against_the_truth, truth_of
from recdreamer.evaluation.mesh_distance import about_z
from recdreamer.mesh.mesh import Mesh
from recdreamer.shared.protocol import RequestError

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
QUADS = ((0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5), (0, 2, 6, 4), (1, 5, 7, 3))
BOX = np.array([(q[0], *q[i : i + 2]) for q in QUADS for i in (1, 2)], np.int32)
"""Counter-clockwise from outside; the first quad is the front."""


def animal(*boxes: tuple[tuple[float, ...], tuple[float, ...]], alpha: int = 255) -> Animal:
    """Boxes by middle and half sides. The front of each is red, the rest blue; u of the front lies in another tile."""
    verts = np.concatenate([CORNERS * half + middle for middle, half in boxes]).astype(np.float32)
    faces = np.concatenate([BOX + 8 * k for k in range(len(boxes))])
    u = np.where(np.arange(len(BOX)) < 2, 2.25, 0.75)
    uvs = np.tile(np.stack((u, np.full(12, 0.5)), -1)[:, None], (len(boxes), 3, 1)).astype(np.float32)
    texture = np.zeros((4, 8, 4), np.uint8)
    texture[:, :4], texture[:, 4:] = (255, 0, 0, alpha), (0, 0, 255, 255)
    return Animal("tiger", "box", verts, faces, uvs, 1.0, {"striped": texture})


BODY, HEAD = ((0.0, 0.05, -0.1), (0.15, 0.4, 0.15)), ((0.0, -0.35, 0.15), (0.1, 0.15, 0.12))


def test_only_what_is_seen_from_outside_is_sampled() -> None:
    inner = ((0.0, 0.05, -0.1), (0.05, 0.05, 0.05))
    found = AnimalTruth(animal(BODY, inner), "striped").surface(4000)
    assert len(found.points) == 4000
    outer = np.abs((found.points / SIZE - BODY[0]) / BODY[1]).max(1)
    assert outer.min() == pytest.approx(1, abs=1e-4), "nothing of the box within"
    outward = (found.points / SIZE - BODY[0]) / BODY[1]
    assert ((found.normals * outward).sum(1) > 0.5).all()


def test_colors_and_holes_are_those_of_the_texture() -> None:
    found = AnimalTruth(animal(BODY), "striped").surface(4000)
    is_front = found.normals[:, 1] < -0.9
    assert found.colors[is_front] == pytest.approx(np.tile([SHADE, 0, 0], (is_front.sum(), 1)), abs=1e-3)
    assert found.colors[~is_front, 2].min() == pytest.approx(SHADE, abs=1e-3)
    open_box = AnimalTruth(animal(BODY, alpha=0), "striped").surface(4000)
    assert not (open_box.normals[:, 1] < -0.9).any(), "the front is transparent"


def test_a_turned_copy_is_found_and_fits() -> None:
    truth = AnimalTruth(animal(BODY, HEAD), "striped")
    turned = Mesh(truth.mesh.verts @ about_z(70.0).T.astype(np.float32) * 3, truth.mesh.faces, truth.mesh.uvs)
    found = against_the_truth(turned, truth.tiles, truth)
    assert found["best_yaw"]["yaw_deg"] == pytest.approx(-70, abs=1.5)
    assert found["best_yaw"]["chamfer"] < 0.03 < found["unrotated"]["chamfer"]
    assert found["best_yaw"]["color_difference"] < 0.1


def test_the_animal_of_a_prompt_is_found() -> None:
    animals = [animal(BODY)]
    assert animal_or_none("A striped  tiger", animals) is not None
    assert animal_or_none("striped tiger", animals) is not None
    assert animal_or_none("a striped tiger in the snow", animals) is None
    assert truth_of("a red bear", None) is not None and truth_of("a striped tiger", None) is None


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(RequestError, match="holds no animals") as error:
        load_animals(tmp_path / "a.npz")
    assert "--fetch" in error.value.hint
