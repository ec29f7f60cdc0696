"""Where caches lie."""

from __future__ import annotations

import sys

import pytest

from recdreamer.cache import cache_folder


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
    folder = cache_folder("warp").as_posix()
    assert folder.isascii()
    if expected is None:
        assert folder.startswith("C:/ProgramData/recdreamer/")
    else:
        assert folder == expected
