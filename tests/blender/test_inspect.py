"""Inspect Sides, with a stand-in backend: what is exported, what is asked, and what opens."""

from __future__ import annotations

import json
import struct

import bpy
import pytest


@pytest.fixture
def session(addon):
    return addon("session").session


@pytest.fixture
def opened(addon, monkeypatch):
    """URLs that would open in the browser."""
    urls = []
    monkeypatch.setattr(addon("operators.inspect"), "show", urls.append)
    return urls


def names_in(file) -> list[str]:
    """Names of the objects in a GLB."""
    data = file.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    return [node["name"] for node in json.loads(data[20 : 20 + length])["nodes"]]


def test_any_mesh_is_exported_alone_and_asked_about(fake_backend, block_out, session, opened, pump_until):
    settings, active = bpy.context.scene.recdreamer, bpy.context.object
    settings.prompt = "a red béar"
    selection = {obj.name for obj in bpy.context.selected_objects}
    assert bpy.ops.recdreamer.inspect() == {"FINISHED"}
    pump_until(lambda: not session.errand.task.is_running)
    assert session.errand.task.problem == ""
    (folder,) = opened
    assert names_in(folder / "object.glb") == [active.name]
    assert {obj.name for obj in bpy.context.selected_objects} == selection
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    assert asked[:3] == ["janus", str(folder / "object.glb"), "--out"] and "a red béar" in asked
    assert "--templates" not in asked and (folder / "report.html").is_file()


def test_the_shelf_says_what_the_sides_look_like(
    fake_backend, block_out, session, opened, pump_until, tmp_path
):
    settings = bpy.context.scene.recdreamer
    image = bpy.data.images.new("side", 16, 16)
    image.filepath_raw, image.file_format = str(tmp_path / "front.png"), "PNG"
    image.save()
    bpy.ops.recdreamer.add_files(directory=str(tmp_path), files=[{"name": "front.png"}])
    assert len(settings.enabled_templates) == 1
    assert bpy.ops.recdreamer.inspect() == {"FINISHED"}
    pump_until(lambda: not session.errand.task.is_running)
    asked = json.loads((opened[0] / "asked.json").read_text(encoding="utf-8"))
    assert asked[asked.index("--templates") + 1] == str(opened[0] / "templates")
    assert [path.name for path in (opened[0] / "templates").iterdir()] == ["front-0.png"]


def test_only_meshes_can_be_inspected(fake_backend):
    bpy.ops.object.empty_add()
    assert not bpy.ops.recdreamer.inspect.poll()
    bpy.ops.mesh.primitive_cube_add()
    assert bpy.ops.recdreamer.inspect.poll()
    bpy.ops.object.mode_set(mode="EDIT")
    assert not bpy.ops.recdreamer.inspect.poll()


def test_a_report_that_is_missing_is_one_sentence(addon, tmp_path):
    with pytest.raises(Exception, match="wrote no report"):
        addon("operators.inspect").show(tmp_path)
