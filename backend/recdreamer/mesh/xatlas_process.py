"""Asks xatlas in a process of its own, because its steps cannot be stopped and hold Python's lock meanwhile."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from recdreamer.report import JobError, Tick
from recdreamer.shared.safe_files import read_npz

CHILD = Path(__file__).with_name("xatlas_child.py")
LIMIT_S = 300.0
"""Time after which a step is given up. Ordinary objects take less than one second, the worst that were found eight; a
busy computer must not make another mesh than an idle one."""
TICK_S = 0.2


class GivenUp(Exception):
    """xatlas took longer than LIMIT_S, or crashed."""


def ask_xatlas(
    kind: Literal["cut", "pack"], task: dict[str, np.ndarray], tick: Tick
) -> dict[str, np.ndarray]:
    """The outcome of a task, see `xatlas_child.py`. `tick` is called meanwhile, and may raise, which ends the process.

    Raises GivenUp, and JobError where xatlas cannot be run.
    """
    # The task goes by a file: a pipe that `communicate` could not fill within its time limit is never filled.
    with tempfile.TemporaryFile() as stream:
        np.savez(stream, allow_pickle=False, **task)
        stream.seek(0)
        # "-P", because code of the folder where the job was started must not be imported.
        child = subprocess.Popen(
            [sys.executable, "-P", str(CHILD), kind],
            stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
    try:
        for _ in range(round(LIMIT_S / TICK_S)):
            tick()
            try:
                outcome, said = child.communicate(timeout=TICK_S)
            except subprocess.TimeoutExpired:
                continue
            if child.returncode == 1:
                reason = said.decode("utf-8", errors="replace").strip().rpartition("\n")[2][:200]
                raise JobError(
                    "install",
                    f"xatlas, which unwraps meshes, cannot run ({reason}).",
                    "Install the backend again.",
                )
            if child.returncode:
                raise GivenUp
            return read_npz(outcome, ("charts", "uvs", "size"))
        raise GivenUp
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
