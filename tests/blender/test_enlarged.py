"""The slider through earlier previews, the enlarged one, and the ring of covered sides."""

from __future__ import annotations

import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector


@pytest.fixture
def done(generate):
    return generate(steps=10)[0]


def test_the_slider_goes_through_earlier_previews(done, addon, draw, monkeypatch):
    shown = addon("panels.enlarged").shown_preview
    manager = bpy.context.window_manager
    assert shown(done).name == "000010.png"
    names = []
    for value in (0.0, 0.35, 0.999, 1.0):
        manager.recdreamer_preview = value
        names.append(shown(done).name)
    assert names == ["000001.png", "000004.png", "000010.png", "000010.png"]
    manager.recdreamer_preview = 0.0
    other = SimpleNamespace(id="another", preview=None)
    assert shown(other) is None  # The slider belongs to the job for which it was moved.
    monkeypatch.setattr(type(done.folder.root), "iterdir", lambda self: pytest.fail("a draw reads no folder"))
    assert {"recdreamer_preview"} <= set(draw().props)


def test_a_link_is_no_preview(done, addon, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(done.preview.read_bytes())
    (done.folder.root / "previews" / "0.png").symlink_to(secret)
    assert len(addon("panels.enlarged").previews_of(done)) == 10


def test_the_preview_is_enlarged(done, addon):
    enlarged, session = addon("panels.enlarged"), addon("session").session
    images = len(bpy.data.images)
    assert not enlarged.load()
    assert bpy.ops.recdreamer.enlarge() == {"FINISHED"} and session.is_enlarged
    path, pixels = enlarged._pixels
    assert path == done.preview and pixels.shape == (128, 128, 4) and pixels[64, 64, 0] > 0.7
    assert not enlarged.load() and len(bpy.data.images) == images
    bpy.context.window_manager.recdreamer_preview = 0.0
    assert addon("session").pump() is not None and enlarged._pixels[0].name == "000001.png"
    bpy.ops.recdreamer.enlarge()
    assert not session.is_enlarged
    bpy.context.window_manager.recdreamer_preview = 1.0


def test_the_ring_begins_at_the_front(extension, addon):
    coverage = addon("shelf.coverage")
    lines = coverage.ring_lines(Vector((1, 2, 3)), 2.0, 0.0)
    assert np.allclose(lines[0, 0], (1, 0, 3), atol=1e-6)  # -Y
    quarter = coverage.SEGMENTS // 4
    assert np.allclose(lines[quarter, 0], (3, 2, 3), atol=1e-6)  # +X, as for the cameras of templates.
    turned = coverage.ring_lines(Vector((1, 2, 3)), 2.0, math.pi / 2)
    assert np.allclose(turned[0], lines[quarter], atol=1e-6)
    assert np.allclose(lines[:, 1], np.roll(lines[:, 0], -1, axis=0), atol=1e-6)
    shown = coverage.covered([0.0, 90.0, 180.0, 270.0])
    assert sum(shown) == 4 * 2 * coverage.HALF_COVERED_DEG / (360 / coverage.SEGMENTS)
    assert not any(coverage.covered([]))


def test_the_ghost_of_a_camera(extension, addon):
    c2w = Matrix.Translation((0, 0, 5))
    projection = Matrix(((2, 0, 0, 0), (0, 2, 0, 0), (0, 0, -1, -0.2), (0, 0, -1, 0)))
    lines = addon("shelf.coverage").ghost_lines(c2w, projection, 1.0)
    assert lines.shape == (8, 2, 3) and np.allclose(lines[:4, 0], (0, 0, 5))
    assert np.allclose(
        sorted(map(tuple, lines[:4, 1])), [(-0.5, -0.5, 4), (-0.5, 0.5, 4), (0.5, -0.5, 4), (0.5, 0.5, 4)]
    )


def test_a_list_shows_the_front_view_alone(addon, tmp_path):
    """Four views side by side would be a thin line in a row of History."""
    previews, path = addon("pictures.previews"), tmp_path / "strip.png"
    image = bpy.data.images.new("strip", 256, 64)
    pixels = np.zeros((64, 256, 4), np.float32)
    pixels[..., 3] = 1
    pixels[:, :64, 0] = 1  # The front is red, the other views are black.
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    name = previews._load(path, False)
    preview = previews._collection[name]
    assert tuple(preview.icon_size) == (32, 32) and tuple(preview.image_size) == (128, 128)
    icon = np.empty(32 * 32 * 4, np.float32)
    preview.icon_pixels_float.foreach_get(icon)
    assert (icon.reshape(-1, 4)[:, 0] > 0.9).all(), "red all over"
