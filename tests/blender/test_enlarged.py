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


def strip(path, side_px):
    """Four views side by side, as a worker writes them: the front is red, the back is green, the others are black."""
    image = bpy.data.images.new("strip", 4 * side_px, side_px)
    pixels = np.zeros((side_px, 4 * side_px, 4), np.float32)
    pixels[..., 3] = 1
    pixels[:, :side_px, 0] = 1
    pixels[:, 2 * side_px : 3 * side_px, 1] = 1
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(path), "JPEG" if path.suffix == ".jpg" else "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path


def test_a_list_shows_the_front_view_alone(addon, tmp_path):
    """Four views side by side would be a thin line in a row of History."""
    previews, path = addon("pictures.previews"), strip(tmp_path / "strip.png", 64)
    name = previews._load(path, False)
    preview = previews._collection[name]
    assert tuple(preview.icon_size) == (32, 32) and tuple(preview.image_size) == (128, 128)
    icon = np.empty(32 * 32 * 4, np.float32)
    preview.icon_pixels_float.foreach_get(icon)
    assert (icon.reshape(-1, 4)[:, 0] > 0.9).all(), "red all over"


def picture_of(preview) -> np.ndarray:
    width, height = preview.image_size
    pixels = np.empty(width * height * 4, np.float32)
    preview.image_pixels_float.foreach_get(pixels)
    return pixels.reshape(height, width, 4)


def test_the_panel_shows_a_preview_pixel_by_pixel(addon, tmp_path):
    """Blender itself would make it 256 pixels wide: 64 for a view."""
    previews, path, images = (
        addon("pictures.previews"),
        strip(tmp_path / "strip.jpg", 256),
        len(bpy.data.images),
    )
    assert previews.icon(path, is_large=True) == 0 and previews.icon(path) == 0
    while previews.is_behind():
        previews.load_next()
    large, small = (
        previews._collection[previews._names[path, False, is_large]] for is_large in (True, False)
    )
    shown = picture_of(large)
    assert shown.shape == (512, 512, 4) and picture_of(small).shape == (128, 128, 4)
    # Rows count from the bottom: front above left, right above back, which is the lower left one.
    assert shown[400, 100, 0] > 0.9 and shown[100, 100, 1] > 0.9 and shown[400, 400, :3].max() < 0.1
    assert tuple(large.icon_size) == (32, 32) and len(bpy.data.images) == images
    path.write_bytes(b"damaged")
    assert previews.pixels_of(path) is None and previews._load(path, False, True) == ""
    previews.clear()


def test_large_pictures_are_released_when_they_are_not_drawn(addon, tmp_path, monkeypatch):
    previews = addon("pictures.previews")
    paths = [strip(tmp_path / f"{index}.jpg", 16) for index in range(previews.MAX_LARGE + 3)]
    now_s = [1000.0]
    monkeypatch.setattr(previews, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for path in paths:
        previews.icon(path, is_large=True)
        previews.icon(path)
        while previews.is_behind():
            previews.load_next()
    assert not previews.trim() and len(previews._names) == 2 * len(paths)
    now_s[0] += previews.UNSEEN_S - 1
    previews.icon(paths[0], is_large=True)  # Still drawn.
    previews.load_next()
    now_s[0] += 2
    assert previews.trim() and not previews.trim()
    left = [path for path, _, is_large in previews._names if is_large]
    assert left == [paths[0], *paths[4:]] and len(previews._collection) == previews.MAX_LARGE + len(paths)
    assert previews.icon(paths[1], is_large=True) == 0 and previews.is_behind()
    previews.clear()


def test_a_picture_is_as_large_as_it_is_or_as_there_is_room(extension, addon):
    def side_px(width_px: float, ui_scale: float) -> float:
        system = SimpleNamespace(ui_scale=ui_scale)
        context = SimpleNamespace(
            region=SimpleNamespace(width=width_px), preferences=SimpleNamespace(system=system)
        )
        return addon("layout").icon_scale(context, 512) * 20 * ui_scale

    assert side_px(292, 1.0) == 160 and side_px(584, 2.0) == 320
    assert side_px(1000, 1.0) == side_px(1000, 1.25) == side_px(3000, 2.0) == 512


def test_a_removed_picture_is_no_end_of_the_slider(done, addon):
    """The worker keeps fewer pictures of a long stage; then the nearest one is shown."""
    shown = addon("panels.enlarged").shown_preview
    bpy.context.window_manager.recdreamer_preview = 0.35
    path = shown(done)
    assert path.name == "000004.png"
    path.unlink()
    addon("session").pump()
    assert shown(done) != path and shown(done).exists()
    bpy.context.window_manager.recdreamer_preview = 1.0
