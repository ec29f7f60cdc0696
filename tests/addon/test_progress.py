"""Progress by bytes and the remaining time."""

from __future__ import annotations

from recdreamer_extension.addon.setup.locks import PYTHONS, Pin
from recdreamer_extension.addon.setup.progress import ByteProgress, missing


def test_remaining_time_follows_the_speed_of_the_last_seconds():
    progress = ByteProgress(3_000_000_000, 5_000_000_000)
    for second in range(31):
        progress.update(second * 10_000_000, float(second))
    # 300 MB of 5 GB in 30 s: 470 s for the rest.
    assert abs(progress.remaining_s - 470) < 1
    assert progress.text == "0.18 of 3.00 GB  ·  8 min left"
    for second in range(31, 91):
        progress.update(300_000_000 + (second - 30) * 50_000_000, float(second))
    assert abs(progress.remaining_s - 34) < 1
    assert progress.text == "1.98 of 3.00 GB  ·  34 s left"


def test_the_remaining_time_is_unknown_until_the_speed_is_known():
    progress = ByteProgress(100, 100)
    assert progress.remaining_s is None
    for second in range(10):
        progress.update(50, float(second))
    assert progress.remaining_s is None
    assert "left" not in progress.text


def test_more_than_expected_is_not_done():
    progress = ByteProgress(0, 0)
    progress.update(10**9, 0.0)
    assert progress.factor == 0.99


def test_what_an_environment_lacks(tmp_path):
    site = tmp_path / "lib" / f"python{PYTHONS[0]}" / "site-packages"
    for name in ("numpy-2.4.6", "warp_lang-1.17.0", "PyMCubes-0.1.6"):
        (site / f"{name}.dist-info").mkdir(parents=True)
    pin = lambda name, version, pythons=PYTHONS: Pin(name, version, pythons, ("h",), 1, 1)  # noqa: E731
    pins = [
        pin("numpy", "2.4.6"),
        pin("warp-lang", "1.19.0"),
        pin("pymcubes", "0.1.6"),
        pin("scipy", "1", ("3.12",)),
    ]
    assert [one.name for one in missing(pins, "3.11", tmp_path)] == ["warp-lang"]
    assert [one.name for one in missing(pins, "3.12", tmp_path)] == ["warp-lang", "scipy"]
