"""Pictures as files: values, the order on a sheet, and files that are whole or not there."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from recdreamer.images import png_bytes, sheet_of, to_pixels, write_picture, write_sheet


def test_values_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])
    pixels = to_pixels(values.expand(3, 2, 5))
    assert pixels.shape == (2, 5, 3)
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))), pixels)


def test_a_jpeg_is_smaller_and_nearly_the_same(tmp_path) -> None:
    steps = torch.linspace(0, 1, 64)
    picture = torch.stack((steps.expand(64, 64), steps[:, None].expand(64, 64), torch.full((64, 64), 0.3)))
    picture = (picture + 0.02 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    for name in ("a.jpg", "a.png"):
        write_picture(tmp_path / name, picture)
    with Image.open(tmp_path / "a.jpg") as jpeg, Image.open(tmp_path / "a.png") as png:
        assert (jpeg.format, png.format) == ("JPEG", "PNG")
        difference = np.asarray(jpeg).astype(int) - np.asarray(png)
    assert abs(difference).mean() < 5 and (tmp_path / "a.jpg").stat().st_size < 6000


def test_a_picture_has_its_rows_from_the_top_and_its_channels_in_order(tmp_path) -> None:
    picture = torch.zeros(3, 2, 4)
    picture[0, 0, 3] = 1.0
    write_picture(tmp_path / "red.png", picture)
    with Image.open(tmp_path / "red.png") as read:
        assert read.size == (4, 2)
        assert read.getpixel((3, 0)) == (255, 0, 0) and read.getpixel((0, 1)) == (0, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]
    with pytest.raises(FileNotFoundError):  # A folder that was deleted does not come back.
        write_picture(tmp_path / "deleted" / "red.png", picture)


def test_a_sheet_is_filled_row_by_row_and_ends_in_white() -> None:
    pictures = torch.arange(5)[:, None, None, None].expand(5, 3, 2, 3) / 10
    sheet = sheet_of(pictures, 3)
    assert sheet.shape == (3, 4, 9)
    assert sheet[0, ::2, ::3].tolist() == pytest.approx(np.array([[0, 0.1, 0.2], [0.3, 0.4, 1]]))


def test_a_sheet_is_enlarged_pixel_by_pixel(tmp_path) -> None:
    pictures = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    write_sheet(tmp_path / "plain.png", pictures, 2)
    write_sheet(tmp_path / "large.png", pictures, 2, enlarge=3)
    plain, large = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "large.png"))
    assert plain.shape == (2, 4, 3)
    assert np.array_equal(large, plain.repeat(3, 0).repeat(3, 1))
