"""Template pictures: what is read, mirrored and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recdreamer.pose.templates import load_templates, templates_in, with_mirrored_sides
from recdreamer.protocol import JobFolder, RequestError, Template


def picture(path: Path, width: int = 40, height: int = 60, mode: str = "RGB", value: int = 120) -> Path:
    Image.new(mode, (width, height), value if mode == "L" else (value,) * len(mode)).save(path)
    return path


def test_a_folder_of_pictures_named_after_their_class(tmp_path: Path) -> None:
    for name in ("front.png", "front-2.png", "back.jpg", "left_a.png", "notes.txt"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no picture")
    found = templates_in(tmp_path)
    assert [(t.label, t.mirrored) for t in found] == [
        ("back", False), ("front", False), ("front", False), ("left", False), ("right", True),
    ]  # fmt: skip
    assert [t.azimuth_deg for t in found] == [180.0, 0.0, 0.0, 270.0, 90.0]


def test_both_sides_present_are_left_alone() -> None:
    both = (Template("left", "l.png"), Template("right", "r.png"))
    assert with_mirrored_sides(both) == both


def test_a_mirrored_template_is_flipped(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(tmp_path / "side.png")
    plain, mirrored = load_templates(
        JobFolder(tmp_path), (Template("left", "side.png"), Template("right", "side.png", mirrored=True)), 8
    )
    assert plain.image[:, :, 0].min() == 1 and mirrored.image[:, :, 0].max() == 0
    assert bool((plain.image.flip(-1) == mirrored.image).all())


def test_alpha_becomes_the_mask_and_grey_ground(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (template,) = load_templates(JobFolder(tmp_path), (Template("front", "a.png"),), 16)
    assert template.mask is not None and template.mask[0, 8, 8] == 1 and template.mask[0, 0, 0] == 0
    assert template.image[:, 8, 8].tolist() == [1, 0, 0] and abs(template.image[0, 0, 0] - 0.8) < 1e-6


def test_any_shape_is_fitted_into_a_square(tmp_path: Path) -> None:
    picture(tmp_path / "tall.png", 10, 200)
    (template,) = load_templates(JobFolder(tmp_path), (Template("front", "tall.png"),), 64)
    assert template.image.shape == (3, 64, 64) and template.mask is None


@pytest.mark.parametrize("damage", ["missing", "not a picture", "empty file", "transparent", "huge"])
def test_an_unusable_picture_is_named_in_one_sentence(damage: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "frönt.png"
    if damage == "not a picture":
        path.write_text("hello")
    elif damage == "empty file":
        path.touch()
    elif damage == "transparent":
        picture(path, mode="RGBA", value=0)
    elif damage == "huge":
        monkeypatch.setattr("recdreamer.pose.templates.MAX_PIXELS", 100)
        picture(path)
    with pytest.raises(RequestError, match=r"frönt\.png") as caught:
        load_templates(JobFolder(tmp_path), (Template("front", "frönt.png"),), 32)
    assert "\n" not in caught.value.message and caught.value.hint


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No pictures"):
        templates_in(tmp_path)
    with pytest.raises(RequestError, match="No pictures"):
        templates_in(tmp_path / "missing")
