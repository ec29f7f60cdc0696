"""The extension's modules without bpy, importable as `recdreamer_extension.addon...` in any Python."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

if "recdreamer_extension" not in sys.modules:
    # Like Blender, import the root of the checkout as a package whose name is not that of its folder.
    spec = importlib.util.spec_from_file_location(
        "recdreamer_extension", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["recdreamer_extension"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["recdreamer_extension"])


@pytest.fixture
def fake_command() -> list[str]:
    """Command line of the stand-in for `python -m recdreamer`."""
    return [sys.executable, str(Path(__file__).parent / "fake_worker.py")]


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)

    return wait
