"""Template pictures: what is read, mirrored and refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from recdreamer.pose.templates import BACKGROUND, load_templates, templates_in, with_mirrored_sides
from recdreamer.shared.protocol import JobFolder, RequestError, Template

RED, BLUE, HALF, GREY = (1, 0, 0), (0, 0, 1), (0.5, 0.5, 0.5), (BACKGROUND, BACKGROUND, BACKGROUND)


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


def test_alpha_becomes_the_mask_and_a_grey_background(tmp_path: Path) -> None:
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


def halves(left: tuple[int, ...], right: tuple[int, ...], size: int = 16) -> Image.Image:
    """A picture of two colours; its mode follows from the number of channels."""
    pixels = np.empty((size, size, len(left)), np.uint8)
    pixels[:, : size // 2], pixels[:, size // 2 :] = left, right
    return Image.fromarray(pixels)


def png(width: int, height: int, depth: int, colour_type: int, raw: bytes) -> bytes:
    """A PNG of any kind, also those that Pillow cannot write; `raw` holds the filtered rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def png16(colour_type: int, left: tuple[int, ...], right: tuple[int, ...]) -> bytes:
    """A 16-bit PNG of two colours in 0 … 65535."""
    row = b"\0" + np.array(left * 8 + right * 8, ">u2").tobytes()
    return png(16, 16, 16, colour_type, row * 16)


def odd_ink_profile() -> bytes:
    """A CMYK profile of a press whose cyan ink is red and whose other inks are black (ICC.1:2010, lut8Type)."""
    paper, red, black = (255, 128, 128), (138, 209, 198), (0, 128, 128)  # Lab, 8 bits each
    table = [
        black if magenta or yellow or key else red if cyan else paper
        for cyan in (0, 1) for magenta in (0, 1) for yellow in (0, 1) for key in (0, 1)
    ]  # fmt: skip
    one = 0x10000
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, one)
    lut += straight * 4 + b"".join(bytes(lab) for lab in table) + straight * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 128 + 16, len(lut)) + lut
    header = struct.pack(">I4sI4s4s4s", 128 + len(tags), b"", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 0xF6D6, one, 0xD32D)
    return header.ljust(128, b"\0") + tags


def turned(path: Path, kind: str = "PNG") -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: left and right change places
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    halves((0, 0, 255), (255, 0, 0)).save(path, kind, exif=exif, **options)


def lab(path: Path) -> None:
    screen, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(halves((255, 0, 0), (0, 0, 255)), screen, lab, outputMode="LAB")
    assert found is not None
    found.save(path, "TIFF")


def premultiplied(path: Path) -> None:
    """A TIFF whose colours are multiplied by alpha, as renderers write them."""
    picture = halves((255, 0, 0, 255), (0, 0, 51, 51))
    stream = io.BytesIO()
    picture.save(stream, "TIFF", compression=None)
    data = bytearray(stream.getvalue())
    # Tag 338 says what the fourth channel is: 2 is plain alpha, 1 is alpha by which the colours are multiplied.
    place = data.index(struct.pack("<HHIH", 338, 3, 1, 2))
    data[place + 8] = 1
    path.write_bytes(data)


def animated(kind: str, path: Path) -> None:
    first, second = halves((255, 0, 0), (0, 0, 255)), halves((0, 255, 0), (0, 255, 0))
    first.save(path, kind, save_all=True, append_images=[second], duration=100, lossless=True)


def palette(path: Path) -> None:
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([0, 255, 0, 255, 0, 0])
    picture.paste(0, (8, 0, 16, 16))
    picture.save(path, "PNG", transparency=0)


def cmyk(path: Path, kind: str = "TIFF", **options: object) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8, 0] = 255
    Image.fromarray(pixels, "CMYK").save(path, kind, **options)


WORKS: dict[str, tuple[Callable[[Path], object], tuple[float, ...], tuple[float, ...], float]] = {
    "opaque": (lambda p: halves((255, 0, 0), (0, 0, 255)).save(p, "PNG"), RED, BLUE, 0),
    "grey": (lambda p: halves((255, 0, 0), (0, 0, 0)).convert("L").save(p, "PNG"), (0.298,) * 3, (0, 0, 0), 0.01),
    "grey with alpha": (lambda p: halves((0, 255), (9, 0)).save(p, "PNG"), (0, 0, 0), GREY, 1e-6),
    "bits": (lambda p: halves((255,) * 3, (0,) * 3).convert("1").save(p, "PNG"), (1, 1, 1), (0, 0, 0), 0),
    "half transparent": (
        lambda p: halves((255, 0, 0, 255), (0, 0, 255, 51)).save(p, "PNG"), RED, (0.64, 0.64, 0.84), 1e-6
    ),
    "palette with transparency": (palette, RED, GREY, 1e-6),
    "CMYK without a profile": (cmyk, (0, 1, 1), (1, 1, 1), 0),
    "CMYK with a profile": (lambda p: cmyk(p, icc_profile=odd_ink_profile()), RED, (1, 1, 1), 0.02),
    "CMYK with a broken profile": (lambda p: cmyk(p, icc_profile=b"no profile"), (0, 1, 1), (1, 1, 1), 0),
    "CMYK JPEG": (lambda p: cmyk(p, "JPEG", quality=100), (0, 1, 1), (1, 1, 1), 0.02),
    "16-bit grey": (lambda p: p.write_bytes(png16(0, (128 * 257,), (65535,))), HALF, (1, 1, 1), 0.003),
    "16-bit dark grey": (lambda p: p.write_bytes(png16(0, (300,), (0,))), (1 / 255,) * 3, (0, 0, 0), 1e-6),
    "16-bit RGB": (
        lambda p: p.write_bytes(png16(2, (65535, 0, 0), (128 * 257,) * 3)), RED, HALF, 0.003
    ),
    "16-bit RGBA": (
        lambda p: p.write_bytes(png16(6, (65535, 0, 0, 65535), (0, 0, 0, 0))), RED, GREY, 1e-6
    ),
    "16-bit TIFF": (
        lambda p: Image.fromarray(np.full((16, 16), 128 * 257, np.uint16)).save(p, "TIFF"), HALF, HALF, 0.003
    ),
    "animated GIF": (lambda p: animated("GIF", p), RED, BLUE, 0.01),
    "animated WebP": (lambda p: animated("WEBP", p), RED, BLUE, 0),
    "turned by EXIF": (turned, RED, BLUE, 0),
    **{f"turned {kind}": (lambda p, kind=kind: turned(p, kind), RED, BLUE, 0.03) for kind in ("JPEG", "WEBP", "TIFF")},
    "premultiplied": (premultiplied, RED, (0.64, 0.64, 0.84), 0.01),
    "16-bit TIFF of a Macintosh": (
        lambda p: Image.fromarray(np.full((16, 16), 128 * 257, ">u2")).save(p, "TIFF"), HALF, HALF, 0.003
    ),
    "Lab": (lab, RED, BLUE, 0.1),
    "pages": (lambda p: animated("TIFF", p), RED, BLUE, 0),
    "animated PNG": (lambda p: animated("PNG", p), RED, BLUE, 0),
    "JPEG with another suffix": (
        lambda p: halves((255, 0, 0), (0, 0, 255)).save(p, "JPEG", quality=100, subsampling=0), RED, BLUE, 0.02
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("name", ["front.png", "фигура/vörne 正面.png"])
def test_every_usual_kind_of_picture_keeps_its_colours(kind: str, name: str, tmp_path: Path) -> None:
    write, left, right, tolerance = WORKS[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name)
    (template,) = load_templates(JobFolder(tmp_path), (Template("front", name),), 16)
    assert template.image[:, 5, 3].tolist() == pytest.approx(left, abs=tolerance + 1e-7)
    assert template.image[:, 5, 12].tolist() == pytest.approx(right, abs=tolerance + 1e-7)


def truncated(path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def stray(path: Path) -> None:
    pixels = np.zeros((200, 200, 4), np.uint8)
    pixels[7, 7] = 255
    Image.fromarray(pixels).save(path)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such file"),
    "empty file": (lambda p: p.touch(), "empty"),
    "a text": (lambda p: p.write_text("hello"), "it is not a picture"),
    "a folder": (lambda p: p.mkdir(), "folder"),
    "truncated": (truncated, "truncated"),
    "header only": (lambda p: p.write_bytes(png(16, 16, 8, 2, b"")[:40]), "cannot be read"),
    "one pixel": (lambda p: picture(p, 1, 1), "1 × 1 pixels is too small"),
    "transparent": (lambda p: picture(p, mode="RGBA", value=0), "transparent"),
    "nearly transparent": (lambda p: halves((255, 0, 0, 25), (0, 0, 0, 0)).save(p), "transparent"),
    "a stray pixel": (stray, "transparent"),
    "float": (lambda p: Image.fromarray(np.ones((16, 16), np.float32)).save(p, "TIFF"), "32 bits"),
    # The three limits: ours, the one where Pillow warns, the one where it raises.
    "many pixels": (lambda p: p.write_bytes(png(9000, 9000, 1, 0, b"")), "9000 × 9000 pixels is too large"),
    "a small bomb": (lambda p: p.write_bytes(png(10_000, 10_000, 1, 0, b"")), "bomb"),
    "a bomb": (lambda p: p.write_bytes(png(65_500, 65_500, 1, 0, b"")), "bomb"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_an_unusable_picture_is_named_in_one_sentence(damage: str, tmp_path: Path) -> None:
    write, reason = REFUSED[damage]
    write(tmp_path / "frönt.png")
    with pytest.raises(RequestError, match=r"frönt\.png") as caught:
        load_templates(JobFolder(tmp_path), (Template("front", "frönt.png"),), 32)
    assert reason in caught.value.message and caught.value.hint
    assert "\n" not in caught.value.message and len(caught.value.message) < 250


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "SGI", "TGA", "PCX", "DDS", "JPEG2000"])
def test_other_formats_are_not_decoded_whatever_they_are_called(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript runs a program, and decoders that nobody needs are a risk without a use."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("a program was started"))
    halves((255, 0, 0), (0, 0, 255), 32).save(tmp_path / "front.png", kind)
    with pytest.raises(RequestError, match="it is not a picture, or it is damaged"):
        load_templates(JobFolder(tmp_path), (Template("front", "front.png"),), 32)


@pytest.mark.parametrize("image", ["../front.png", "/dev/zero", "link.png", "templates\\..\\..\\front.png"])
def test_a_picture_outside_of_the_job_is_not_read(image: str, tmp_path: Path) -> None:
    picture(tmp_path / "front.png")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "link.png").symlink_to(tmp_path / "front.png")
    with pytest.raises(RequestError, match=r"not inside its folder|is a link"):
        load_templates(JobFolder(tmp_path / "job"), (Template("front", image),), 32)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_unused_frames_are_reported(kind: str, tmp_path: Path) -> None:
    animated(kind, tmp_path / "front.png")
    lines: list[str] = []
    load_templates(JobFolder(tmp_path), (Template("front", "front.png"),), 32, lines.append)
    assert lines == ["The template 'front.png' has 2 frames or pages; the first is used."]


def test_damage_is_refused_in_one_sentence_or_harmless(tmp_path: Path) -> None:
    """40 mutations of each format in the suite; RECDREAMER_FUZZ=2000 makes as many."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        path = tmp_path / f"front.{kind.lower()}"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path, kind)
        whole = path.read_bytes()
        for _ in range(int(os.environ.get("RECDREAMER_FUZZ", "40"))):
            damaged = bytearray(whole)
            for _ in range(int(rng.integers(1, 8))):
                place = int(rng.integers(min(len(damaged), 200)))
                damaged[place : place + 4] = rng.bytes(int(rng.integers(0, 5)))
            path.write_bytes(damaged)
            try:
                (found,) = load_templates(JobFolder(tmp_path), (Template("front", path.name),), 32)
            except RequestError as error:
                assert "\n" not in error.message and len(error.message) < 400 and error.hint
            else:
                assert bool(found.image.isfinite().all())


@pytest.mark.parametrize("size", [(20_000, 20), (20, 20_000), (20_000, 3000)])
def test_a_huge_picture_needs_no_huge_memory(size: tuple[int, int], tmp_path: Path) -> None:
    """Squared at full size 20 000 × 20 pixels would take 5 GB."""
    resource = pytest.importorskip("resource")  # not on Windows
    Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "wide.png", compress_level=1)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (template,) = load_templates(JobFolder(tmp_path), (Template("front", "wide.png"),), 32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 1e6
    assert template.image.mean((1, 2)).tolist() == pytest.approx([1, 0, 0])
    assert template.image.std((1, 2)).max() < 1e-5


def test_a_large_picture_is_averaged_and_its_alpha_weighs(tmp_path: Path) -> None:
    """Invisible green must not bleed into the visible red."""
    halves((255, 0, 0, 255), (0, 255, 0, 0), size=1000).save(tmp_path / "a.png")
    (template,) = load_templates(JobFolder(tmp_path), (Template("front", "a.png"),), 16)
    assert template.mask is not None
    assert template.image[1].max() <= BACKGROUND + 1e-5
    assert template.image[:, 8, 2].tolist() == pytest.approx([1, 0, 0])
    assert float(template.mask.mean()) == pytest.approx(0.5, abs=0.01)


def test_thin_lines_on_nothing_are_a_picture(tmp_path: Path) -> None:
    pixels = np.zeros((1000, 1000, 4), np.uint8)
    pixels[200:800, 500] = (0, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "front-sketch.png")
    (template,) = load_templates(JobFolder(tmp_path), templates_in(tmp_path), 32)
    assert template.mask is not None and template.mask.max() > 0


def test_a_template_keeps_its_weight(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    heavy, plain = load_templates(
        JobFolder(tmp_path), (Template("front", "a.png", weight=2.5), Template("front", "a.png")), 16
    )
    assert (heavy.weight, plain.weight) == (2.5, 1.0)


@pytest.mark.parametrize(
    ("name", "label", "source"),
    [
        ("front.png", "front", "file"),
        ("front-2.png", "front", "file"),
        ("left_side.png", "left", "file"),
        ("Back (1).JPG", "back", "file"),
        ("right2.gif", "right", "file"),
        ("front-sketch.png", "front", "sketch"),
        ("Sketch_back-2.webp", "back", "sketch"),
        ("pose1.png", "pose1", "file"),
        ("sketch.png", "sketch", "sketch"),
    ],
)
def test_names_say_class_and_source(name: str, label: str, source: str, tmp_path: Path) -> None:
    picture(tmp_path / name)
    found = templates_in(tmp_path)[0]
    assert (found.label, found.source, found.image) == (label, source, name)


def test_files_that_are_not_pictures_are_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "front.png")
    (tmp_path / "back.png").mkdir()
    (tmp_path / "._front.png").write_bytes(b"resource fork")
    assert [t.image for t in templates_in(tmp_path)] == ["front.png"]


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No pictures"):
        templates_in(tmp_path)
    with pytest.raises(RequestError, match="No pictures"):
        templates_in(tmp_path / "missing")
