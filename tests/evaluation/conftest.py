"""Results shared by the tests of the measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from .known_meshes import figure_of, finish, two_faced


@pytest.fixture(scope="session")
def bear_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(figure_of("a red bear"), tmp_path_factory.mktemp("bear"))


@pytest.fixture(scope="session")
def janus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(figure_of("a red bear"), tmp_path_factory.mktemp("janus"), two_faced)
