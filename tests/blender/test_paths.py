"""Paths mean the same whichever .blend file is open and wherever Blender was started."""

from __future__ import annotations

import os
from pathlib import Path

import bpy
import pytest

# Since 4.5 Blender warns of `//`, but takes it; an error in between would crash it.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not support blend relative:RuntimeWarning")


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "start").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "start")
    return tmp_path / "home"


def open_new_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(path))


@pytest.mark.parametrize("name", ["data_folder", "backend_python", "views_model"])
def test_a_path_beside_the_file_stays_there(preferences, home, tmp_path, name):
    open_new_file(tmp_path / "A/a.blend")
    setattr(preferences, name, "//RecDreamer")
    assert getattr(preferences, name) == str(tmp_path / "A/RecDreamer")
    open_new_file(tmp_path / "B/b.blend")
    assert getattr(preferences, name) == str(tmp_path / "A/RecDreamer")


@pytest.mark.parametrize("typed", ["//Rec", "Rec", "~/Rec", "./Rec", " 'x/../Rec' "])
def test_without_a_file_a_path_is_in_the_home_folder(preferences, home, typed):
    preferences.data_folder = typed
    assert preferences.data_folder == str(home / "Rec")


def test_absolute_and_empty_paths(preferences, home, addon):
    preferences.data_folder = str(home / "Dätä")
    assert preferences.folder == home / "Dätä"
    preferences.data_folder = preferences.backend_python = ""
    assert preferences.folder == addon("jobs.registry").default_data_folder()
    assert preferences.backend_python == ""


def test_jobs_are_found_from_every_file(preferences, settings, generate, home, tmp_path, addon, monkeypatch):
    open_new_file(tmp_path / "A/a.blend")
    preferences.data_folder = "//RecDreamer"
    job, _ = generate()
    assert job.folder.root.parent == tmp_path / "A/RecDreamer/jobs"
    open_new_file(tmp_path / "B/b.blend")
    monkeypatch.chdir(home)
    assert addon("session").session.registry.find(job.id) is not None


@pytest.mark.parametrize(
    ("typed", "prior"),
    [("", "builtin"), ("some/model", "some/model"), ("taesd", "taesd"),
     ("~/sd", "HOME/sd"), ("'/models/sd'", "/models/sd"),
     ("//sd", "FILE/sd"), ("./sd", "HOME/sd")],
)  # fmt: skip
def test_a_model_in_a_folder_is_named_in_full(preferences, home, tmp_path, typed, prior):
    open_new_file(tmp_path / "A/a.blend")
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a red bear"
    preferences.image_model = typed
    open_new_file(tmp_path / "B/b.blend")
    settings = bpy.context.scene.recdreamer
    settings.prompt = "a red bear"
    expected = prior.replace("HOME", str(home)).replace("FILE", str(tmp_path / "A"))
    assert settings.to_request().prior == expected.replace("/", os.sep)
