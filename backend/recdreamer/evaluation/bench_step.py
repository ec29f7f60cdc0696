"""Seconds, FLOPs and memory of one distillation step, split by part; on a GPU also its launches and precision."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch.utils.flop_counter import FlopCounterMode

from recdreamer.config import GenerateConfig, StepConfig
from recdreamer.device import choose_device, choose_dtype
from recdreamer.distillation.methods import LORA_METHODS, Guide
from recdreamer.evaluation.bench_guidance import cosines, costs, gradients
from recdreamer.evaluation.random_sd import random_dinov2, random_sd21
from recdreamer.field import RadianceField
from recdreamer.images import png_bytes
from recdreamer.mesh import Mesh
from recdreamer.models.painting import Painting
from recdreamer.models.radiance import Particles
from recdreamer.models.surface import Surface
from recdreamer.optimize import optimize_step
from recdreamer.presets import resolve
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.shared.protocol import JobFolder, JobRequest, Method, Stage, Template, write_atomically
from recdreamer.stages.geometry import start_grid
from recdreamer.stages.guidance import prepare_guides
from recdreamer.stages.run import Theta

RANDOM_SD21 = "random-sd21"
WARM_UP_STEPS = 3
QUANTITIES = (
    ("wall_ms", "wall ms", 1), ("gpu_ms", "GPU ms", 1), ("kernels", "kernels", 0), ("launches", "launches", 0)
)  # fmt: skip


def bench_step(
    methods: Sequence[Method],
    stage: Stage,
    prior_name: str,
    num_steps: int,
    device_name: str,
    settings: dict[str, Any],
    precision: bool = False,
) -> dict[str, Any]:
    """Median seconds of each part, TFLOP and peak memory of a step of one stage, for jobs of each method.

    `prior_name` is `builtin`, `random-sd21` or a model. The parts are timed where the step calls them. On a GPU each of
    them waits for the device, so their sum exceeds the row "step", which is timed without the parts. There the costs of
    a step as written and recorded come with it, and with `precision` the cosines of its gradients to float32.
    """
    device = choose_device(device_name)
    table = {
        method: _measure(method, stage, prior_name, num_steps, device, settings, precision)
        for method in methods
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    facts = {"device": name, "threads": torch.get_num_threads(), "prior": prior_name, "stage": stage}
    return facts | {"methods": table}


def as_table(found: dict[str, Any]) -> str:
    """The measurement as a Markdown table."""
    rows = found["methods"]
    parts = sorted(
        {part for row in rows.values() for part in row["seconds"]}, key=lambda part: part == "step"
    )
    lines = ["| seconds | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for part in parts:
        cells = (row["seconds"].get(part) for row in rows.values())
        lines.append(f"| {part} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    lines.append("| TFLOP | " + " | ".join(f"{row['tflop']:.3f}" for row in rows.values()) + " |")
    lines.append("| peak GiB | " + " | ".join(f"{row['peak_gib']:.2f}" for row in rows.values()) + " |")
    columns = list(rows.values())
    for kind in [kind for kind in columns[0].get("costs", {}) if kind != "agreement"]:
        for quantity, unit, digits in QUANTITIES:
            cells = (f"{row['costs'][kind][quantity]:.{digits}f}" for row in columns)
            lines.append(f"| {kind}: {unit} | " + " | ".join(cells) + " |")
    if "costs" in columns[0]:
        cells = (f"{row['costs']['agreement']['difference']:.1e}" for row in columns)
        lines.append("| gradient recorded, relative difference to written | " + " | ".join(cells) + " |")
        lines.append(
            "| peak GiB, recorded | " + " | ".join(f"{r['peak_gib_recorded']:.2f}" for r in columns) + " |"
        )
    for name in ("all", "rectifier", "branch"):
        if any(name in row.get("cosines", {}) for row in columns):
            cells = (f"{row['cosines'][name]:.5f}" if name in row["cosines"] else "" for row in columns)
            lines.append(f"| cosine to float32, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Subject:
    """A job that is ready to be measured."""

    config: GenerateConfig
    of_step: StepConfig
    prior: DiffusionPrior
    guide: Guide
    lora: LoraTrainer | None


def prepare(
    method: Method, stage: Stage, prior_name: str, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]
) -> Subject:  # fmt: skip
    """The same random weights and prompts each time."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        job, config = _job(Path(folder), method, prior_name, str(device), settings)
        prior = (
            random_sd21(device, dtype)
            if prior_name == RANDOM_SD21
            else DiffusionPrior.load(prior_name, device, dtype)
        )
        guide = prepare_guides(job, config, prior)[stage]
    of_step = config.step(stage)
    branch = guide.denoiser.branch if guide.method in LORA_METHODS else None
    lora = branch and LoraTrainer(
        branch, of_step.guidance.lora_learning_rate, of_step.guidance.lora_warmup_steps
    )
    return Subject(config, of_step, prior, guide, lora)


def _measure(
    method: Method,
    stage: Stage,
    prior_name: str,
    num_steps: int,
    device: torch.device,
    settings: dict[str, Any],
    precision: bool,
) -> dict[str, Any]:
    dtype = choose_dtype(prior_name, device)
    wanted = None
    if precision and dtype != torch.float32:
        exact = prepare(method, stage, prior_name, device, torch.float32, settings)
        wanted = gradients(exact.guide, exact.prior, exact.lora)
        del exact
    # Earlier measurements are in reference cycles, and would count as memory of this method.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    subject = prepare(method, stage, prior_name, device, dtype, settings)
    prior, guide, lora, of_step = subject.prior, subject.guide, subject.lora, subject.of_step
    theta = _theta(stage, subject.config, device)

    def step(number: int) -> None:
        optimize_step(number, of_step, prior, theta.at(number), guide, lora, theta.cameras(number))

    for number in range(WARM_UP_STEPS):
        step(number)
    with FlopCounterMode(display=False) as flops:
        step(WARM_UP_STEPS)
    peak_gib = _peak_gib(device)
    found: dict[str, Any] = {}
    if device.type == "cuda":
        found["costs"] = costs(of_step, prior, guide, lora, theta.at(0), theta.cameras, num_steps)
        found["peak_gib_recorded"] = _peak_gib(device)
    whole = Stopwatch(device)
    for number in range(num_steps):
        started = whole.now()
        step(number)
        whole.end_step(whole.now() - started)
    parts, model = Stopwatch(device), theta.at(0)
    parts.wrap(model, "render", "render")
    parts.wrap(prior, "encode", "encode")
    parts.wrap(guide.denoiser, "ask", "noise estimates")
    parts.wrap(guide.denoiser, "ask_beside", "noise estimates with the branch's lesson")
    parts.wrap(guide.denoiser, "decode", "decode")
    parts.wrap(model, "descend", "field and encoder backward, update")
    for rectifier in guide.rectifiers:
        parts.wrap(rectifier, "log_ratio", "classifier")
    if lora is not None:
        parts.wrap(lora, "learn", "branch training")
    # The gradients of the rectifier and of the branch; nothing else in a step calls this function.
    original = torch.autograd.grad
    parts.wrap(torch.autograd, "grad", "rectifier and branch backward")
    try:
        for number in range(num_steps):
            started = parts.now()
            step(number)
            parts.end_step(parts.now() - started)
    finally:
        torch.autograd.grad = original
    seconds = parts.medians() | {"step": whole.medians()["step"]}
    if wanted is not None:
        # On a fresh branch, as in float32.
        fresh = prepare(method, stage, prior_name, device, dtype, settings)
        found["cosines"] = cosines(gradients(fresh.guide, fresh.prior, fresh.lora), wanted)
    return found | {"seconds": seconds, "tflop": flops.get_total_flops() / 1e12, "peak_gib": peak_gib}


def _theta(stage: Stage, config: GenerateConfig, device: torch.device) -> Theta:
    """The model of the stage, started from a ball."""
    if stage == "shape":
        return Particles(config, device)
    ball = trimesh.creation.icosphere(5, 0.6)
    mesh = Mesh(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
    field = RadianceField(config.field, config.seed).to(device)
    if stage == "texture":
        return Painting(config, mesh, field, device)
    return Surface(config, start_grid(config, mesh, field, device), device)


def _job(
    folder: Path, method: Method, prior_name: str, device: str, settings: dict[str, Any]
) -> tuple[JobFolder, GenerateConfig]:
    """A job with noise as templates: their content does not change the cost of a step, nor is it worth any pictures of
    the prior, which take a minute at Stable Diffusion's size."""
    folder.mkdir(parents=True, exist_ok=True)
    templates, noise = [], np.random.default_rng(0)
    for label in ("front", "right", "back", "left"):
        path = folder / f"{label}.png"
        path.write_bytes(png_bytes(noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)))
        templates.append(Template(label, path.name))
    request = JobRequest(
        "a red bear", method=method, prior=prior_name, device=device, templates=tuple(templates),
        overrides={"rectifier.anchor": False} | settings,
    )  # fmt: skip
    write_atomically(folder / "job.json", request.to_json())
    config = resolve(request)
    if prior_name == RANDOM_SD21:
        config = replace(config, extractor=str(random_dinov2(folder / "dinov2")))
    return JobFolder(folder), config


def _peak_gib(device: torch.device) -> float:
    """Peak memory of the device; on a CPU of the whole process, so that later methods include earlier ones."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Stopwatch:
    """Adds up the seconds spent in named callables, with one list entry per step; inner ones count only once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.current: dict[str, float] = defaultdict(float)
        self.inside = 0.0
        """Seconds of callables that ended inside of the one that runs."""

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time `owner.attribute` from now on, as `name`."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            outside, self.inside, started = self.inside, 0.0, self.now()
            try:
                return inner(*args, **kwargs)
            finally:
                seconds = self.now() - started
                self.current[name] += seconds - self.inside
                self.inside = outside + seconds

        setattr(owner, attribute, timed)

    def end_step(self, total: float) -> None:
        if self.current:
            self.current["everything else"] = total - sum(self.current.values())
        self.current["step"] = total
        for name, seconds in self.current.items():
            self.seconds[name].append(seconds)
        self.current = defaultdict(float)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items()}
