"""Cards keep their pictures: through undo, renaming, other .blend files, other working folders, other home folders."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest


def save_as(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(path))


@pytest.fixture
def pictures(settings, addon, tmp_path):
    """Two cards from files; their contents, which must stay the same."""
    settings.prompt = "a bear"
    for number, label in enumerate(("front", "back")):
        pixels = np.full((16, 16, 4), (0.2 * number, 0.5, 0.9, 1.0), np.float32)
        addon("shelf.pictures").save_png(pixels, tmp_path / f"{label}.png")
        bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": f"{label}.png"}])
    assert [card.label for card in settings.templates] == ["front", "back"]
    return [card.path.read_bytes() for card in settings.templates]


def found():
    """Pictures of the cards as a job would get them."""
    settings = bpy.context.scene.recdreamer
    settings.to_request()  # Refuses cards without pictures.
    return [card.path.read_bytes() for card in settings.templates]


def test_undo_brings_a_card_back_with_its_picture(pictures):
    bpy.ops.ed.undo_push(message="Before")
    bpy.ops.recdreamer.remove_template(index=0)
    bpy.ops.ed.undo_push(message="Removed")
    assert len(bpy.context.scene.recdreamer.templates) == 1
    bpy.ops.ed.undo()
    assert found() == pictures


def test_undo_after_saving_keeps_the_pictures_and_the_next_file_has_them(pictures, preferences, tmp_path):
    bpy.ops.ed.undo_push(message="Before")
    bpy.context.scene.recdreamer.prompt = "another bear"
    bpy.ops.ed.undo_push(message="Prompt")
    save_as(tmp_path / "A/a.blend")
    bpy.ops.ed.undo()
    assert bpy.context.scene.recdreamer.prompt == "a bear" and found() == pictures
    save_as(tmp_path / "A/b.blend")
    preferences.data_folder = str(tmp_path / "elsewhere")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/b.blend"))
    assert found() == pictures


def test_renaming_scene_poses_and_images_changes_no_picture(pictures, preferences, tmp_path):
    save_as(tmp_path / "A/a.blend")
    bpy.context.scene.name = "Another Scene"
    for image in bpy.data.images:
        image.name = "renamed"
    settings = bpy.context.scene.recdreamer
    settings.templates[0].label, settings.templates[1].label = "back", "front"
    save_as(tmp_path / "A/renamed.blend")
    preferences.data_folder = str(tmp_path / "elsewhere")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/renamed.blend"))
    assert found() == pictures and [card.label for card in bpy.context.scene.recdreamer.templates] == [
        "back", "front"
    ]  # fmt: skip


def test_another_file_and_back(pictures, tmp_path):
    save_as(tmp_path / "A/a.blend")
    save_as(tmp_path / "B/b.blend")
    assert found() == pictures
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=False)
    assert not bpy.context.scene.recdreamer.templates
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    assert found() == pictures


def test_another_working_folder(pictures, tmp_path, monkeypatch):
    save_as(tmp_path / "A/a.blend")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert found() == pictures
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    assert found() == pictures


def test_another_home_folder_or_computer_gets_the_pictures_out_of_the_file(
    pictures, preferences, tmp_path, monkeypatch
):
    save_as(tmp_path / "A/a.blend")
    for image in bpy.data.images:
        assert str(tmp_path) not in image.filepath, "the file does not tell where the artist's home is"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home/data"))
    preferences.data_folder = ""
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    folder = tmp_path / "home/data/recdreamer/templates"
    assert found() == pictures and len(list(folder.iterdir())) == 2
    names = {path.name for path in folder.iterdir()}
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    assert {path.name for path in folder.iterdir()} == names


def test_saving_again_packs_each_picture_once(pictures, tmp_path):
    save_as(tmp_path / "A/a.blend")
    count = len(bpy.data.images)
    save_as(tmp_path / "A/a.blend")
    assert len(bpy.data.images) == count == 2


@pytest.mark.parametrize(
    "name", ["../../escaped.png", "startup.py", "/tmp/escaped.png", "a.png", "C:\\a.png"]
)
def test_the_file_of_a_stranger_writes_nothing_but_pictures_of_the_shelf(
    pictures, preferences, tmp_path, name
):
    save_as(tmp_path / "A/a.blend")
    card = bpy.context.scene.recdreamer.templates[0]
    card.image = card.packed_of = name
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "A/a.blend"))
    preferences.data_folder = str(tmp_path / "deep/er/data")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    written = [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]
    assert len(written) == 1 and written[0].parent == tmp_path / "deep/er/data/templates"
    assert written[0].read_bytes() == pictures[1]


def test_data_that_is_not_a_picture_is_not_written(pictures, preferences, tmp_path):
    (tmp_path / "script.txt").write_text("import os")
    save_as(tmp_path / "A/a.blend")
    image = bpy.data.images.new("no picture", 1, 1)
    image.pack(data=b"import os", data_len=9)
    bpy.context.scene.recdreamer.templates[0].packed = image
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "A/a.blend"))
    preferences.data_folder = str(tmp_path / "data")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "A/a.blend"))
    assert [card.is_missing for card in bpy.context.scene.recdreamer.templates] == [True, False]
