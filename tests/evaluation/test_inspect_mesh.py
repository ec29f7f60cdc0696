"""A figure, and one with a second face, as files of any tool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from recdreamer.cli.main import main
from recdreamer.evaluation.consistency import measure_consistency, ring_agreement
from recdreamer.evaluation.figurines import POSES, pose_class
from recdreamer.evaluation.inspect_mesh import choose_oracle, inspect_mesh, read_colored, verdict_of
from recdreamer.images import write_picture
from recdreamer.shared.protocol import RequestError

AZIMUTHS = 7.5 + torch.arange(24) * 15.0
CENTRES = [[0.0], [90.0], [180.0], [270.0]]
ICO = "v 0 0 1\nv 1 0 0\nv 0 1 0\nv -1 0 0\nv 0 -1 0\nv 0 0 -1\n" + "".join(
    f"f {' '.join(corners)}\n" for corners in ("123", "134", "145", "152", "632", "643", "654", "625")
)


def one_hot(classes: torch.Tensor, count: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, count).float()


@pytest.mark.parametrize("turn", [0, 120, 240])
def test_four_sides_are_judged_as_by_the_oracle(turn: int) -> None:
    probs = one_hot(pose_class(AZIMUTHS + turn))
    probs[[3, 11]] = one_hot(torch.tensor([0, 0]))
    known, found = measure_consistency(probs, AZIMUTHS), ring_agreement(probs, CENTRES, AZIMUTHS)
    assert found.agreement == pytest.approx(known.azimuth_agreement) and found.fronts == known.fronts
    assert found.yaw_deg == pytest.approx((turn + 180) % 360 - 180, abs=5)


def test_a_side_without_left_and_right_has_two_places() -> None:
    three = torch.tensor([0, 1, 2, 1])[pose_class(AZIMUTHS)]
    assert ring_agreement(one_hot(three, 3), [[0.0], [90.0, 270.0], [180.0]], AZIMUTHS).agreement == 1
    assert ring_agreement(one_hot(three, 3), [[0.0], [90.0], [180.0]], AZIMUTHS).agreement < 0.8


def test_the_same_all_around_is_no_front() -> None:
    assert ring_agreement(one_hot(torch.zeros(24, dtype=torch.long)), CENTRES, AZIMUTHS).fronts == -1


def test_a_true_figure_has_one_front(bear_folder: Path, tmp_path: Path) -> None:
    found = inspect_mesh(bear_folder / "model.glb", tmp_path, "a red bear")
    assert found["oracle"] == "embedded oracle" and found["fronts"] == 1 and found["has_colors"]
    assert found["azimuth_agreement"] >= 0.9 and found["pose_entropy"] > 0.97 and abs(found["yaw_deg"]) <= 10
    assert found["verdict"].startswith("One front, and the sides follow")
    assert json.loads((tmp_path / "inspection.json").read_text()) == found
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 and not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_second_face_is_found(janus_folder: Path, bear_folder: Path, tmp_path: Path) -> None:
    found = inspect_mesh(janus_folder / "model.glb", tmp_path, "a red bear")
    assert found["fronts"] == 2 and found["azimuth_agreement"] < 0.8 and "Janus" in found["verdict"]
    one = inspect_mesh(bear_folder / "model.glb", tmp_path, "", "none")
    two = inspect_mesh(janus_folder / "model.glb", tmp_path, "", "none")
    assert two["opposite_cosine"] > one["opposite_cosine"] + 0.05
    assert "fronts" not in one and "Nobody was asked" in one["verdict"]


def test_the_artists_templates_are_asked(bear_folder: Path, tmp_path: Path) -> None:
    shown = read_colored(bear_folder / "model.glb")
    from recdreamer.cameras import orbit_cameras
    from recdreamer.evaluation.mesh_views import colored_views

    cameras = orbit_cameras(torch.arange(4) * 90.0, torch.full((4,), 10.0), 4.0, 30.0)
    pictures = colored_views(shown.mesh, shown.color_at, cameras, 128).textured
    (tmp_path / "templates").mkdir()
    for name, shot in zip(POSES, pictures, strict=True):
        write_picture(tmp_path / "templates" / f"{name}.png", shot)
    found = inspect_mesh(bear_folder / "model.glb", tmp_path / "out", templates=tmp_path / "templates")
    assert found["oracle"] == "your templates" and found["fronts"] == 1 and found["azimuth_agreement"] >= 0.9


def test_colors_are_read_as_our_own_reader_of_results_does(bear_folder: Path) -> None:
    shown = read_colored(bear_folder / "model.glb")
    assert not shown.is_lit, "our textures have their light already"
    with np.load(bear_folder / "mesh.npz") as arrays:
        faces = len(arrays["faces"])
    found = shown.color_at(np.arange(faces), np.full((faces, 3), 1 / 3))
    reds = (found[:, 0] > 0.5) & (found[:, 1] < 0.4) & (found[:, 2] < 0.4)
    assert 0.3 < reds.mean() < 0.9, "most of a red bear is red"


def test_a_mesh_without_colors_is_seen_in_clay(tmp_path: Path) -> None:
    (tmp_path / "ball.obj").write_text(ICO)
    shown = read_colored(tmp_path / "ball.obj")
    assert not shown.is_colored and np.ptp(shown.mesh.verts, axis=0).max() == pytest.approx(1.56)
    found = inspect_mesh(tmp_path / "ball.obj", tmp_path / "out")
    assert found["oracle"] == "none" and not found["has_colors"] and found["faces"] == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.glb", None, "There is no mesh"),
        ("cut.glb", b"glTF\x02\0\0\0\x20\0\0\0\x20\0\0\0JSON", "it is cut off"),
        ("text.glb", b"hello", "cannot be read"),
        ("scene.blend", b"BLENDER", "none of the formats"),
        ("empty.obj", b"", "has no faces"),
        ("point.obj", b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "no extent"),
    ],
)
def test_bad_files_get_one_sentence(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=said) as refused:
        read_colored(tmp_path / name)
    assert refused.value.message.count("\n") == 0


def test_a_damaged_texture_gets_one_sentence(bear_folder: Path, tmp_path: Path) -> None:
    data = (bear_folder / "model.glb").read_bytes()
    assert data.count(b"\x89PNG") >= 1
    (tmp_path / "bad.glb").write_bytes(data.replace(b"\x89PNG", b"\x89PNX"))
    with pytest.raises(RequestError, match="texture of it is damaged"):
        read_colored(tmp_path / "bad.glb")


def test_an_oracle_that_knows_too_little_says_what_it_needs(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(RequestError, match="needs to know what it sees"):
        choose_oracle("clip", "", None, "builtin", "builtin", cpu)
    with pytest.raises(RequestError, match="no templates to ask"):
        choose_oracle("templates", "", None, "builtin", "builtin", cpu)
    with pytest.raises(RequestError, match="No pictures"):
        choose_oracle("auto", "", tmp_path, "builtin", "builtin", cpu)
    assert choose_oracle("auto", "", None, "builtin", "builtin", cpu) is None
    chosen = choose_oracle("auto", "a wooden chair", None, "builtin", "builtin", cpu)
    assert chosen is not None and chosen.name == "embedded CLIP" and len(chosen.labels) == 3


def test_verdicts() -> None:
    said = {
        n: verdict_of({"fronts": n, "azimuth_agreement": 0.5, "opposite_cosine": 0.9}) for n in (-1, 0, 1, 3)
    }
    assert "all sides" in said[-1] and said[0].startswith("No side") and "do not follow" in said[1]
    assert said[3].startswith("3 sides")


def test_the_command_writes_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ball.obj").write_text(ICO)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "janus", str(tmp_path / "ball.obj"), "--device", "cpu"])
    assert ended.value.code == 0 and (tmp_path / "ball-inspection" / "report.html").exists()
    assert "Nobody was asked" in capsys.readouterr().out
