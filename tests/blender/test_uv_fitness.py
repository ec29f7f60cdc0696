"""What is wrong with a UV map is said before Generate, by the function that the worker asks, too."""

from __future__ import annotations

import time

import numpy as np
import pytest

from .objects import add_cube, reported


@pytest.fixture
def painted(settings):
    cube = add_cube()
    settings.start.kind, settings.start.object = "texture", cube
    return cube


def put_uvs(obj, uvs) -> None:
    layer = obj.data.uv_layers.active.uv
    layer.foreach_set("vector", np.broadcast_to(np.float32(uvs), (len(layer), 2)).ravel())


def read_uvs(obj) -> np.ndarray:
    uvs = np.empty(2 * len(obj.data.uv_layers.active.uv), np.float32)
    obj.data.uv_layers.active.uv.foreach_get("vector", uvs)
    return uvs.reshape(-1, 2)


@pytest.fixture(autouse=True)
def patient(addon, monkeypatch):
    """Each redraw waits for the verdict, and reads the mesh anew."""
    monkeypatch.setattr(addon("start.uv_fitness"), "WAIT_S", 60)
    monkeypatch.setattr(addon("start.uv_fitness"), "FRESH_S", 0)


def test_a_good_map(painted, sentence, draw):
    assert sentence() == ""
    assert "UV" not in " ".join(draw().texts)


def test_a_map_without_area(painted, sentence):
    put_uvs(painted, (0, 0))
    assert sentence() == (
        "'Cube': The UV map has no area: all its faces are points or lines. "
        "Unwrap the object again, or remove the UV map and a new one is made."
    )
    painted.data.uv_layers.remove(painted.data.uv_layers[0])
    assert sentence() == "", "and so it is"


def test_a_map_of_a_default_that_repeats(painted, sentence):
    put_uvs(painted, 3 * read_uvs(painted))
    assert "cross the border of their UV tile" in sentence()


def test_not_finite(painted, sentence):
    put_uvs(painted, (np.nan, 0))
    assert "coordinates that are no numbers" in sentence()


def test_overlaps_are_a_warning_only(painted, sentence, draw):
    for polygon in painted.data.polygons:
        for corner, loop in enumerate(polygon.loop_indices):
            painted.data.uv_layers.active.uv[loop].vector = ((0, 0), (1, 0), (1, 1), (0, 1))[corner]
    assert sentence() == ""
    assert "parts that overlap share their colors" in " ".join(draw().texts)


def test_what_modifiers_make_of_it_is_checked_by_generate(painted, sentence):
    modifier = painted.modifiers.new("Mirror", "MIRROR")
    modifier.use_mirror_u, modifier.offset_u = True, -3.0
    assert sentence() == ""
    assert "'Cube': " in reported() and "UV" in reported()


def test_a_slow_verdict_does_not_hold_the_panel_up(painted, sentence, addon, monkeypatch):
    module = addon("start.uv_fitness")

    def slow(*args):
        time.sleep(0.5)
        raise module.RequestError("It is bad.", "Mend it.")

    monkeypatch.setattr(module, "check_uvs", slow)
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    put_uvs(painted, (0.25, 0.5))
    started = time.monotonic()
    assert sentence() == "" and time.monotonic() - started < 0.4
    deadline = time.monotonic() + 20
    while sentence() == "" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sentence() == "'Cube': It is bad. Mend it."
