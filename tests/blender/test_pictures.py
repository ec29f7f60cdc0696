"""Pictures from disk and clipboard: each one works or gets an error, and the others are still added."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
import pytest

from .objects import reported


def png(pixels: np.ndarray, depth: int = 8) -> bytes:
    """`height width channels`, top row first."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = pixels.astype(f">u{depth // 8}").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data) for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    )


def flat(height: int, width: int, *color: int) -> np.ndarray:
    return np.full((height, width, len(color)), color)


HALF = flat(40, 30, 200, 40, 40, 255)
HALF[:, 15:] = (90, 90, 90, 0)


@pytest.fixture
def shelf(extension):
    return bpy.context.scene.recdreamer.templates


def add(folder: Path, *names: str, **options) -> str:
    """Add files as the file browser does, and return the reported error."""
    try:
        bpy.ops.recdreamer.add_files(
            directory=str(folder), files=[{"name": name} for name in names], **options
        )
    except RuntimeError as error:
        return str(error).removeprefix("Error: ").strip()
    return ""


BAD = {
    "unreadable": (
        "back.png",
        b"this is text",
        "is empty or not an image that Blender can read. Choose a PNG",
    ),
    "cut short": ("back.png", png(HALF)[:60], "back.png"),
    "empty": ("back.jpg", b"", "Choose a PNG or JPEG file."),
    "missing": ("back.webp", None, "back.webp cannot be read. Choose another file."),
    "one pixel": ("back.png", png(flat(1, 1, 9, 9, 9)), "is 1 × 1 pixels, too small or too narrow"),
    "a thread": ("back.png", png(flat(3, 4000, 9, 9, 9)), "is 4000 × 3 pixels, too small or too narrow"),
    "transparent": (
        "bäck.png",
        png(flat(40, 40, 9, 9, 9, 0)),
        "bäck.png shows nothing: it is fully transparent",
    ),
    "animated": ("back.gif", b"GIF89a\x10\x00", "back.gif"),
}
GOOD = {
    "huge": ("ok.png", png(flat(5000, 7000, 200, 40, 40)), (2048, 1463), (200, 40, 40, 255)),
    "16 bit": ("ok.png", png(flat(40, 30, 51400, 10280, 10280), 16), (30, 40), (200, 40, 40, 255)),
    "grey": ("ok.png", png(flat(40, 30, 77)), (30, 40), (77, 77, 77, 255)),
    "alpha": ("ok.png", png(HALF), (30, 40), (200, 40, 40, 255)),
    "16 bit alpha": ("ok.png", png(257 * HALF, 16), (30, 40), (200, 40, 40, 255)),
    "other letters": ("正面 ünï.png", png(flat(40, 30, 200, 40, 40)), (30, 40), (200, 40, 40, 255)),
    "panorama": ("ok.png", png(flat(20, 1500, 200, 40, 40)), (1500, 20), (200, 40, 40, 255)),
}


@pytest.mark.parametrize(("name", "content", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_picture_gets_one_sentence_and_the_others_are_added(
    shelf, addon, tmp_path, monkeypatch, name, content, sentence
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for good in ("front.png", "left.png"):
        (tmp_path / good).write_bytes(png(HALF))
    images = len(bpy.data.images)
    message = add(tmp_path, name)
    assert sentence in message and message.count(". ") == 1 and message.endswith("."), message
    assert not shelf
    warnings = []
    operator = addon("operators.capture").RECDREAMER_OT_add_files
    stand_in = type("Operator", (), {"tell": lambda self, kind, text: warnings.append(text)})()
    stand_in.directory, stand_in.are_sketches = str(tmp_path), False
    stand_in.files = [type("File", (), {"name": file}) for file in ("front.png", name, "left.png")]
    folder = addon("properties").templates_folder()
    operator.capture(stand_in, bpy.context, folder)
    assert [template.label for template in shelf] == ["front", "left"]
    assert warnings == [message]
    assert len(bpy.data.images) == images
    assert len(list(folder.glob("*.png"))) == 2, "the bad picture leaves no file behind"


@pytest.mark.parametrize(("name", "content", "size", "color"), GOOD.values(), ids=GOOD)
def test_an_unusual_picture_works(shelf, addon, tmp_path, name, content, size, color):
    (tmp_path / name).write_bytes(content)
    assert add(tmp_path, name) == ""
    pixels = addon("shelf.pictures").load_pixels(shelf[0].path)
    assert pixels.shape == (size[1], size[0], 4)
    assert np.allclose(255 * pixels[4, 4], color, atol=1.5)
    if "alpha" in name or (pixels[..., 3] < 1).any():
        assert np.allclose(pixels[4, 25], (0.5, 0.5, 0.5, 0), atol=0.01), "gray behind the object"


def test_all_bad_pictures_are_named(shelf, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no")
    message = add(tmp_path, "a.png", "b.png")
    assert "a.png" in message and "b.png" in message and not shelf


def test_cmyk(shelf, addon, tmp_path):
    """CMYK images from prepress programs are converted to RGB."""
    (tmp_path / "front.tif").write_bytes(cmyk_tiff(16, 16, (0, 200, 200, 20)))
    assert add(tmp_path, "front.tif") == ""
    red, green, blue, alpha = addon("shelf.pictures").load_pixels(shelf[0].path)[8, 8]
    assert red > 0.7 and green < 0.35 and blue < 0.35 and alpha == 1


def cmyk_tiff(width: int, height: int, ink: tuple[int, int, int, int]) -> bytes:
    data = bytes(ink) * (width * height)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, 0), (259, 3, 1, 1), (262, 3, 1, 5)]
    entries += [(273, 4, 1, 0), (277, 3, 1, 4), (278, 4, 1, height), (279, 4, 1, len(data))]
    end = 8 + 2 + 12 * len(entries) + 4
    places = {258: end, 273: end + 8}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        value = places.get(tag, value)
        head += struct.pack("<HHI", tag, kind, count)
        head += struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value)
    return head + struct.pack("<I", 0) + struct.pack("<4H", 8, 8, 8, 8) + data


def test_a_photograph_stands_upright_however_the_camera_was_held(shelf, addon, tmp_path):
    """A picture with a dark top half, stored rotated with an EXIF orientation, as phones do."""
    # EXIF 6 rotates the stored picture clockwise, so its left edge becomes the top.
    stored = np.full((40, 60, 4), (0.9, 0.9, 0.9, 1.0), np.float32)
    stored[:, :30, :3] = 0.1
    image = bpy.data.images.new("stored", 60, 40)
    image.pixels.foreach_set(stored.ravel())
    image.filepath_raw, image.file_format = str(tmp_path / "plain.jpg"), "JPEG"
    image.save()
    jpeg = (tmp_path / "plain.jpg").read_bytes()
    for name, order in (("little.jpg", "<"), ("big.jpg", ">")):
        head = b"II*\0" if order == "<" else b"MM\0*"
        tiff = head + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
        exif = b"Exif\0\0" + tiff
        (tmp_path / name).write_bytes(
            jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
        )
    add(tmp_path, "little.jpg", "big.jpg", "plain.jpg")
    little, big, plain = (addon("shelf.pictures").load_pixels(template.path) for template in shelf)
    assert plain.shape == (40, 60, 4)
    for pixels in (little, big):
        assert pixels.shape == (60, 40, 4)
        assert (
            pixels[:25, :, 0].mean() > 0.7 and pixels[35:, :, 0].mean() < 0.3
        )  # The bottom row comes first.


TURNED = sorted(Path(__file__).with_name("turned").glob("turned.*"))


def test_every_format_stands_upright(shelf, addon):
    """The same picture, stored lying with EXIF orientation 6, as JPEG, PNG, TIFF and WebP."""
    assert [path.suffix for path in TURNED] == [".jpg", ".png", ".tif", ".webp"]
    for path in TURNED:
        assert add(path.parent, path.name) == ""
    pictures = [addon("shelf.pictures").load_pixels(template.path) for template in shelf]
    assert [picture.shape for picture in pictures] == [(40, 20, 4)] * 4
    for picture in pictures:
        assert np.abs(picture - pictures[1]).mean() < 0.03
    assert np.ptp(pictures[1][..., :3]) > 0.5, "it would show"


def test_multilayer_exr(shelf, addon, tmp_path):
    scene = bpy.data.scenes.new("render")
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(scene.camera)
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.engine, scene.render.resolution_x, scene.render.resolution_y = "BLENDER_WORKBENCH", 32, 32
    scene.render.filepath = str(tmp_path / "front.exr")
    bpy.ops.render.render(write_still=True, scene=scene.name)
    message = add(tmp_path, "front.exr")
    assert message == (
        "The image front.exr is a multilayer EXR, whose pixels Blender does not hand to add-ons. "
        "Save one of its layers as PNG, for example in the Image Editor (Image › Save As)."
    )
    assert not shelf


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 4 KiB, and Blender's writers say nothing about it."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def full_disk():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full_disk


def test_a_picture_that_is_cut_by_a_full_disk_becomes_no_card(shelf, addon, tmp_path, full_disk, block_out):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    (tmp_path / "front.png").write_bytes(png(noise))
    folder = addon("properties").templates_folder()
    bpy.context.scene.render.engine = "BLENDER_WORKBENCH"
    with full_disk():
        assert "The disk may be full. Free some space" in add(tmp_path, "front.png")
        for look in ("SOLID", "RENDERED"):
            message = reported(bpy.ops.recdreamer.capture_turntable, look=look)
            assert "Free some space" in message and "Traceback" not in message, message
    assert not shelf and not list(folder.glob("*.png")) and not list(folder.glob("*.exr"))
    assert add(tmp_path, "front.png") == "" and len(shelf) == 1


def test_a_pipe_is_refused_as_a_picture(shelf, tmp_path):
    os.mkfifo(tmp_path / "front.png")
    assert "front.png cannot be read. Choose another file." in add(tmp_path, "front.png")


def test_sketches_from_files(shelf, tmp_path):
    (tmp_path / "left sketch.png").write_bytes(png(HALF))
    assert add(tmp_path, "left sketch.png", are_sketches=True) == ""
    assert (shelf[0].source, shelf[0].label) == ("sketch", "left")


def test_a_path_on_the_clipboard(shelf, addon, tmp_path):
    (tmp_path / "the back.png").write_bytes(png(HALF))
    module = addon("operators.capture")
    for text in (str(tmp_path / "the back.png"), (tmp_path / "the back.png").as_uri() + "\r\n"):
        context = type("Context", (), {"window_manager": type("W", (), {"clipboard": text})})
        assert module._file_on_clipboard(context) == tmp_path / "the back.png"
    for text in ("", "a red bear", "x" * 5000, "file:///no/such.png", "file:"):
        context = type("Context", (), {"window_manager": type("W", (), {"clipboard": text})})
        assert module._file_on_clipboard(context) is None


def test_no_picture_on_the_clipboard(shelf):
    with pytest.raises(RuntimeError, match="Without a window there is no clipboard"):
        bpy.ops.recdreamer.paste_picture()
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    with (
        bpy.context.temp_override(window=window, area=area),
        pytest.raises(RuntimeError, match="There is no picture on the clipboard"),
    ):
        bpy.ops.recdreamer.paste_picture()
    assert area.type == "VIEW_3D" and not shelf


def test_a_picture_on_the_clipboard(shelf, addon, monkeypatch):
    """Only the paste itself needs a desktop, so it is replaced."""
    module = addon("operators.capture")

    def pasted_image(context):
        image = bpy.data.images.new("Clipboard", 30, 20)
        image.pixels.foreach_set(np.tile(np.float32([1, 0, 0, 1]), 600))
        return module.contextmanager(lambda: iter([image]))()

    monkeypatch.setattr(module, "_pasted_image", pasted_image)
    bpy.ops.recdreamer.paste_picture()
    assert (shelf[0].source, shelf[0].label) == ("clipboard", "front")
    assert addon("shelf.pictures").load_pixels(shelf[0].path).shape == (20, 30, 4)
