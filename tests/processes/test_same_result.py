"""However many processes share the views of a step, it is the same step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .one_of_several import CASES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROUNDING = 2e-5
"""Relative. One view less would change a gradient by about a fifth."""


def start(out: Path, count: int, cases: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'backend'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes.one_of_several", out, str(count), str(rank), port, cases],
            cwd=ROOT, env=environment,
        )
        for rank in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[str, Tensor]]:
    """The state and the gradients after a case, by the number of processes. Five views: they never divide evenly."""
    out = tmp_path_factory.mktemp("ends")
    for count in (1, 2, 3):
        running = start(out, count, ";".join(CASES))
        assert [process.wait(600) for process in running] == [0] * count
    return lambda case, count: load_file(out / f"{case}-{count}.safetensors")


def difference(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_processes_do_what_one_does(
    case: str, count: int, ends: Callable[[str, int], dict[str, Tensor]]
) -> None:
    alone, together = ends(case, 1), ends(case, count)
    assert alone.keys() == together.keys()
    grads = [name for name in alone if name.startswith("grad.")]
    assert grads and all(torch.isfinite(alone[name]).all() for name in grads)
    apart = {name: difference(together[name], alone[name]) for name in alone}
    # Adam makes a step of full length of a gradient that is rounding alone, so only gradients and sums are compared.
    compared = [*grads, *(name for name in alone if name in ("marginal", "yaw"))]
    assert {name: apart[name] for name in compared if apart[name] > ROUNDING} == {}


@pytest.mark.parametrize("case", ["shape, two views at once", "shape, recorded, one view at once"])
def test_views_one_after_another_are_those_at_once(
    case: str, ends: Callable[[str, int], dict[str, Tensor]]
) -> None:
    whole, parts = ends("shape", 1), ends(case, 1)
    compared = [name for name in whole if name.startswith("grad.") or name in ("marginal", "yaw")]
    apart = {name: difference(parts[name], whole[name]) for name in compared}
    assert {name: value for name, value in apart.items() if value > ROUNDING} == {}


def test_the_comparison_would_see_a_lost_view(ends: Callable[[str, int], dict[str, Tensor]]) -> None:
    """Negative control: other views give another gradient."""
    shape, other = ends("shape", 1), ends("shape, learned background", 1)
    name = next(name for name in shape if name.startswith("grad.theta"))
    assert difference(other[name], shape[name]) > 100 * ROUNDING
