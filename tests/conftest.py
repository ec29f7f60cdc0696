"""Switches shape and type checking on for the whole backend before anything of it is imported.

The hook stands here and not in pytest's options: there the last name of the list is silently taken as the
checker, so a short list checks nothing. tests/test_shapes_are_checked.py proves that it bites.
Warp compiles the source of its kernels and needs them bare: write `@no_type_check` (from typing) above
`@wp.kernel` and `@wp.func`.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

# Blender's own environments run tests without the backend's packages.
if importlib.util.find_spec("jaxtyping") is not None:
    from jaxtyping import install_import_hook

    early = sorted(name for name in sys.modules if name.split(".")[0] == "recdreamer")
    if early:
        raise RuntimeError(f"imported before type checking was switched on: {', '.join(early)}")
    install_import_hook("recdreamer", "beartype.beartype")

    # Compiled kernels are worth keeping; everything else starts from nothing, as on another machine.
    from recdreamer.cache import cache_folder

    os.environ.setdefault("WARP_CACHE_PATH", str(cache_folder("warp")))
    _scratch = tempfile.TemporaryDirectory(prefix="recdreamer-cache-")
    os.environ["XDG_CACHE_HOME"] = _scratch.name


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test sets in the environment ends with it: commands that run in this process switch the network off."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ} - {"PYTEST_CURRENT_TEST"}:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect `gpu` tests, visibly, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]
