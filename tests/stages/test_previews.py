"""The preview pictures of a stage: how large, how often, and how many are kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from recdreamer.cameras import CameraConfig, Cameras
from recdreamer.stages import previews
from recdreamer.stages.previews import LARGE_PX, MAX_KEPT, SHARE, SMALL_PX, Previews

CPU = torch.device("cpu")


class Clock:
    """Time that passes only where a test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Slow:
    """A model whose picture takes a time for each pixel, and shows by its brightness from where it is seen."""

    def __init__(self, clock: Clock, large_s: float) -> None:
        self.clock, self.pixel_s, self.sizes = clock, large_s / (4 * LARGE_PX**2), []
        self.most_px = LARGE_PX
        """With more, there is not enough memory."""

    def picture(self, cameras: Cameras, size_px: int, brightness: float = 0.8) -> Tensor:
        if size_px > self.most_px:
            raise torch.OutOfMemoryError
        self.sizes.append((len(cameras), size_px))
        self.clock.now_s += self.pixel_s * len(cameras) * size_px**2
        return (cameras.azimuth_deg / 360)[:, None, None, None].expand(-1, 3, size_px, size_px)


def widths_of(paths: list[Path]) -> list[int]:
    found = []
    for path in paths:
        with Image.open(path) as picture:
            found.append(picture.width)
    return found


def test_four_views_side_by_side_in_a_row_for_each_particle(tmp_path: Path) -> None:
    clock = Clock()
    one, other = Slow(clock, 0.0), Slow(clock, 0.0)
    path = Previews(tmp_path / "previews", "shape", 25, CameraConfig(), CPU, clock).write(
        [one, other], 7, is_last=True
    )
    assert path == tmp_path / "previews" / "shape-000007.jpg"
    with Image.open(path) as picture:
        assert picture.size == (4 * LARGE_PX, 2 * LARGE_PX)
        middles = [picture.getpixel((128 + LARGE_PX * view, 300))[0] for view in range(4)]
    assert middles == pytest.approx([0, 64, 128, 191], abs=3), "front, right, back, left"
    assert one.sizes == [(1, LARGE_PX)] * 4, "view by view, for the sake of the memory"


def test_large_pictures_take_their_share_of_the_time_at_most(tmp_path: Path) -> None:
    """1.3 s for a large one and 0.3 s for a step: the built-in model on a CPU."""
    clock = Clock()
    model, writer = Slow(clock, 1.3), Previews(tmp_path, "shape", 25, CameraConfig(), CPU, clock)
    paths, began_s = [], clock.now_s
    for step in range(25, 1001, 25):
        clock.now_s += 25 * 0.3
        paths.append(writer.write([model], step))
    widths = widths_of([path for path in paths if path.exists()])
    assert set(widths) == {4 * SMALL_PX, 4 * LARGE_PX} and widths[0] == 4 * SMALL_PX
    share = 1.3 * widths.count(4 * LARGE_PX) / (clock.now_s - began_s)
    assert SHARE / 2 < share <= SHARE
    assert widths_of([writer.write([model], 1001, is_last=True)]) == [4 * LARGE_PX], (
        "the last is always large"
    )


def test_where_they_cost_nothing_all_but_the_first_are_large(tmp_path: Path) -> None:
    clock = Clock()
    model, writer = Slow(clock, 0.01), Previews(tmp_path, "shape", 25, CameraConfig(), CPU, clock)
    paths = []
    for step in (50, 100, 150):
        clock.now_s += 15
        paths.append(writer.write([model], step))
    assert widths_of(paths) == [4 * SMALL_PX, 4 * LARGE_PX, 4 * LARGE_PX]


def test_a_lack_of_memory_makes_pictures_small_and_ends_no_job(tmp_path: Path) -> None:
    clock = Clock()
    model, writer = Slow(clock, 0.01), Previews(tmp_path, "shape", 25, CameraConfig(), CPU, clock)
    model.most_px = SMALL_PX
    assert widths_of([writer.write([model], step, is_last=True) for step in (1, 2)]) == [4 * SMALL_PX] * 2
    model.most_px = SMALL_PX - 1
    with pytest.raises(torch.OutOfMemoryError):
        writer.write([model], 3)


def test_a_long_stage_keeps_pictures_evenly_spread(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(previews, "SMALL_PX", 8)
    monkeypatch.setattr(previews, "LARGE_PX", 8)
    clock = Clock()
    model, writer = Slow(clock, 0.0), Previews(tmp_path, "shape", 10, CameraConfig(), CPU, clock)
    other = tmp_path / "shape_1-000010.jpg"
    other.write_bytes(b"of another particle")
    (tmp_path / "coarse.npz").write_bytes(b"a mesh")
    for step in range(10, 20_001, 10):
        newest = writer.write([model], step)
        assert newest.exists()
    steps = sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("shape-*"))
    assert MAX_KEPT / 2 <= len(steps) <= MAX_KEPT and steps[0] == 10 and steps[-1] == 20_000
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert max(gaps) <= 64 * 10, (
        "twice the distance of 100 evenly spread ones at most, and rounded to a power of two"
    )
    assert other.exists() and (tmp_path / "coarse.npz").exists()
