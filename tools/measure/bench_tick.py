"""How long one tick of Blender's timer takes: with thousands of job folders, and with a worker that says thousands of
lines a second. Needs no Blender: `python tools/measure/bench_tick.py [--jobs 5000] [--lines 10000]`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TALK = """
import json, sys, time
print(json.dumps({"type": "hello", "protocol": PROTOCOL}), flush=True)
began, said = time.monotonic(), 0
while time.monotonic() - began < SECONDS:
    for _ in range(LINES // 100):
        said += 1
        print(json.dumps({"type": "progress", "step": said, "total": 10**6}))
    sys.stdout.flush()
    time.sleep(max(0.0, began + said / LINES - time.monotonic()))
print(json.dumps({"type": "result"}), flush=True)
"""


def extension() -> None:
    """Make the checkout importable under a name of its own, as Blender does."""
    spec = importlib.util.spec_from_file_location(
        "extension", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["extension"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["extension"])


def timed(what: str, tick: Callable[[], object], count: int, wait_s: float) -> None:
    """Print how long ticks take, in ms: by the clock, and of this thread alone, as other programs run, too."""
    took_ms, own_ms = [], []
    for _ in range(count):
        began, own = time.perf_counter(), time.thread_time()
        tick()
        took_ms.append(1e3 * (time.perf_counter() - began))
        own_ms.append(1e3 * (time.thread_time() - own))
        time.sleep(wait_s)
    took_ms.sort()
    own_ms.sort()
    print(
        f"{what:30s} mean {sum(took_ms) / count:6.2f} ms   median {took_ms[count // 2]:6.2f} ms   "
        f"99 % {took_ms[99 * count // 100]:6.2f} ms   max {took_ms[-1]:6.2f} ms   of its own max {own_ms[-1]:6.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000, help="job folders")
    parser.add_argument("--lines", type=int, default=10_000, help="lines per second of the worker")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the worker talks")
    arguments = parser.parse_args()
    extension()
    from extension.addon.jobs.registry import JobRegistry  # pyright: ignore[reportMissingImports]
    from extension.addon.jobs.task import BACKEND  # pyright: ignore[reportMissingImports]
    from extension.backend.recdreamer.shared.protocol import PROTOCOL_VERSION, JobRequest  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as name:
        text = JobRequest(prompt="a red bear").to_json()
        for index in range(arguments.jobs):
            folder = Path(name, "jobs", f"20260101-{index:06d}-a-red-bear")
            folder.mkdir(parents=True)
            (folder / "job.json").write_text(text)
            (folder / "state.json").write_text('{"status": "done"}')
        a_minute_ago = time.time() - 60
        os.utime(Path(name, "jobs"), (a_minute_ago, a_minute_ago))
        began = time.perf_counter()
        registry = JobRegistry(Path(name))
        print(
            f"{arguments.jobs} job folders: opened the newest in {1e3 * (time.perf_counter() - began):.0f} ms"
        )
        began, ticks = time.perf_counter(), 0
        timed("while the others are opened", registry.poll, 200, 0.0)
        while registry.is_behind:
            registry.poll()
            ticks += 1
        print(f"all are open after {200 + ticks} ticks")
        timed("idle", registry.poll, 200, 0.0)
        job = registry.create(JobRequest(prompt="a red bear"), [])
        values = {"PROTOCOL": PROTOCOL_VERSION, "SECONDS": arguments.seconds, "LINES": arguments.lines}
        program = "\n".join(f"{key} = {value}" for key, value in values.items()) + TALK
        registry.start(job, [sys.executable, "-c", program], BACKEND)
        timed(f"{arguments.lines} lines per second", registry.poll, int(arguments.seconds / 0.25) - 1, 0.25)
        assert job.client is not None
        job.client._process.wait()
        began = time.perf_counter()
        while job.client is not None:
            registry.poll()
            time.sleep(0.01)
        print(f"the end is seen {1e3 * (time.perf_counter() - began):.0f} ms after it")


if __name__ == "__main__":
    main()
