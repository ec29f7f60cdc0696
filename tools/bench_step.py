"""Seconds of one distillation step, split by part, with peak memory: python tools/bench_step.py --out docs/bench.json.

Medians over the measured steps, on whatever device there is; parts are timed where `optimize_step` calls them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recdreamer.config import resolve
from recdreamer.generate import choose_device, prepare_guide
from recdreamer.optimize import optimize_step
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.protocol import JobFolder, JobRequest, write_atomically
from recdreamer.scene import Scene

from compare_methods import METHODS


class Stopwatch:
    """Adds up the seconds spent in named callables, one list entry per step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict(list)
        self.current: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        inner = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            try:
                return inner(*args, **kwargs)
            finally:
                self.current[name] += self.now() - started

        setattr(owner, attribute, timed)

    def end_step(self, total: float) -> None:
        self.current["everything else"] = total - sum(self.current.values())
        self.current["step"] = total
        for name, seconds in self.current.items():
            self.seconds[name].append(seconds)
        self.current = defaultdict(float)


def measure(method: str, num_steps: int, settings: dict[str, Any], device_name: str) -> dict[str, float]:
    """Median seconds by part of `num_steps` steps, after three that are not counted."""
    folder = Path(tempfile.mkdtemp())
    request = replace(JobRequest("a red bear", device=device_name, overrides=settings), **METHODS[method])
    write_atomically(folder / "job.json", request.to_json())
    config, device = resolve(request), choose_device(device_name)
    prior = DiffusionPrior.load(config.prior, device, torch.float32)
    guide = prepare_guide(JobFolder(folder), config, prior)
    scene, lora, watch = Scene(config, device), None, Stopwatch(device)
    if guide.denoiser.branch is not None:
        lora = LoraTrainer(
            guide.denoiser.branch, config.guidance.lora_learning_rate, config.guidance.lora_warmup_steps
        )
        watch.wrap(lora, "step", "LoRA training")
    watch.wrap(scene, "render", "render")
    watch.wrap(scene, "descend", "field and encoder backward, update")
    watch.wrap(prior, "encode", "encode")
    watch.wrap(guide.denoiser, "ask", "noise estimates")
    watch.wrap(prior, "decode", "decode")
    if guide.rectifier is not None:
        watch.wrap(guide.rectifier, "log_ratio", "classifier")
    original = torch.autograd.grad
    watch.wrap(torch.autograd, "grad", "rectifier backward")
    try:
        for step in range(num_steps + 3):
            started = watch.now()
            optimize_step(step, config, prior, scene, guide, lora)
            watch.end_step(watch.now() - started)
    finally:
        torch.autograd.grad = original
    return {name: statistics.median(seconds[3:]) for name, seconds in watch.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = {name: json.loads(value) for name, value in (item.split("=", 1) for item in options.settings)}
    table = {method: measure(method, options.steps, settings, options.device) for method in options.methods}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1 << 20
    )
    parts = sorted({part for row in table.values() for part in row}, key=lambda part: part == "step")
    print("| seconds | " + " | ".join(table) + " |\n|---" * 1 + "|---" * len(table) + "|")
    for part in parts:
        print(f"| {part} | " + " | ".join(f"{row.get(part, 0):.3f}" for row in table.values()) + " |")
    print(f"threads {torch.get_num_threads()}, peak memory {peak_mib:.0f} MiB")
    if options.out:
        found = {"seconds": table, "threads": torch.get_num_threads(), "peak_mib": peak_mib}
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
