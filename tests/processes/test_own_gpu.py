"""Each process sees a GPU of its own, whichever of them its starter could see."""

from __future__ import annotations

import subprocess
import sys

import pytest

from recdreamer.job import processes


@pytest.mark.parametrize(
    ("visible", "number", "own"),
    [(None, 1, "1"), ("", 0, "0"), ("3,5", 0, "3"), ("3,5", 1, "5"), ("3,5", 2, ""), ("GPU-a,GPU-b", 1, "GPU-b")],
)  # fmt: skip
def test_a_process_of_a_launcher_sees_the_gpu_of_its_number(
    visible: str | None, number: int, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LOCAL_RANK": number, "WORLD_SIZE": 2, "CUDA_VISIBLE_DEVICES": visible}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))
    processes.see_own_gpu()
    assert processes.os.environ["CUDA_VISIBLE_DEVICES"] == own


@pytest.mark.parametrize("world_size", [None, "1"])
def test_a_process_that_is_alone_sees_what_it_saw(
    world_size: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    processes.see_own_gpu()
    assert processes.os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_nothing_looks_for_gpus_before_a_process_has_chosen_its_own() -> None:
    """Warp does so when it is imported, and would then go on with all of them."""
    script = "import sys, recdreamer.cli.main, recdreamer.job.processes; print('warp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
