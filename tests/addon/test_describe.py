"""Texts for the panel, and labels of views."""

import pytest
from recdreamer_extension.addon import describe
from recdreamer_extension.backend.recdreamer.shared.protocol import JobState


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (-3, "0 s")]
)
def test_duration(seconds, text):
    assert describe.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "just now"), (60, "1 min ago"), (7300, "2 h ago"), (3e5, "3 d ago")]
)
def test_age(seconds, text):
    assert describe.age(seconds) == text


def test_progress_and_speed():
    assert describe.progress(JobState()) == (0.0, "Starting")
    state = JobState(stage="bake_texture", step=30, total=40, it_per_s=1.5, eta_s=65)
    assert describe.progress(state) == (0.75, "Bake texture  30 / 40")
    assert describe.speed(state) == "1.50 it/s"
    assert describe.speed(JobState()) == ""


@pytest.mark.parametrize(
    ("line", "fraction"),
    [("Picture 3 of 12", 0.25), ("3/4 done", 0.75), ("5 / 4", 1.0), ("loading", None), ("0 of 0", None)],
)
def test_fraction(line, fraction):
    assert describe.fraction(line) == fraction


def test_with_share():
    assert describe.with_share("front", 0.974) == "front  97 %"
    assert describe.with_share("front", None) == "front"


@pytest.mark.parametrize(
    ("azimuth_deg", "label"),
    [(0, "front"), (350, "front"), (44, "front"), (46, "right"), (180, "back"), (-90, "left"), (300, "left")],
)
def test_nearest_label(azimuth_deg, label):
    assert describe.nearest_label(azimuth_deg) == label


@pytest.mark.parametrize(
    ("azimuth_deg", "label"),
    [(0, "front"), (359.9999, "front"), (360, "front"), (90, "right"), (120, "120°")],
)
def test_turntable_label(azimuth_deg, label):
    assert describe.turntable_label(azimuth_deg) == label


@pytest.mark.parametrize(
    ("stem", "label"), [("bear_front_01", "front"), ("LEFT", "left"), ("leftover", ""), ("Bär-back", "back")]
)
def test_label_of_file(stem, label):
    assert describe.label_of_file(stem) == label


def test_wrap_never_gives_up():
    assert describe.wrap("a sentence", 0, len) == [*"a", *"sentence"], (
        "a letter a line, but no end without one"
    )
    text = "word " * 40 + "x" * 100
    lines = describe.wrap(text, 30, len)
    assert all(len(line) <= 30 for line in lines) and "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert describe.wrap("", 30, len) == []


def test_what_is_shortened_fits_and_what_fits_is_not():
    assert describe.shortened("a red bear", 10, len) == "a red bear"
    assert describe.shortened("a red bear", 9, len) == "a red be…"
    assert len(describe.shortened("a red bear", 1, len)) <= 2
