"""Where caches lie."""

from __future__ import annotations

import sys

import pytest

from recdreamer import cache
from recdreamer.cache import cache_folder, lasting_folder


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("C:/Users/Jana/AppData/Local", "C:/Users/Jana/AppData/Local/recdreamer/warp"),
        ("C:/Users/Jürgen", None),
    ],
)
def test_windows_profiles_with_other_letters_get_an_ascii_folder(monkeypatch, local, expected):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", local)
    monkeypatch.setenv("PROGRAMDATA", "C:/ProgramData")
    folder = lasting_folder("warp").as_posix()
    assert folder.isascii()
    if expected is None:
        assert folder.startswith("C:/ProgramData/recdreamer/")
    else:
        assert folder == expected


@pytest.fixture(autouse=True)
def _asked_anew():
    cache.why_not_writable.cache_clear()
    yield
    cache.why_not_writable.cache_clear()


def test_a_cache_that_cannot_be_written_is_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    assert cache_folder("warp") == tmp_path / "there" / "recdreamer" / "warp"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = cache_folder("warp")
    assert found == cache_folder("warp") and not found.is_relative_to(tmp_path / "file")
    found.mkdir(parents=True, exist_ok=True)
    (found / "kernel").write_text("")


def test_without_a_home_folder_a_cache_is_a_temporary_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", homeless)
    assert cache_folder("warp").name == "warp"
