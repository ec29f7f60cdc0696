"""What a step costs the GPU, as written and recorded, and how near its gradient is to that in float32."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from recdreamer.cameras import orbit_cameras
from recdreamer.config import StepConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import add_noise
from recdreamer.graphs import Recorder
from recdreamer.models.model import Model
from recdreamer.optimize import distillation_grad, optimize_step
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.recorded_step import Picture, RecordedSteps

ROUNDS = 3
"""Rounds in which both kinds of step take turns, so that a slow minute of the machine hits both."""
PROFILED_STEPS = 2


@dataclass(frozen=True)
class Cost:
    """Of one step."""

    wall_ms: float
    """Median, each step waited for."""
    gpu_ms: float
    """Sum over all kernels and copies."""
    kernels: float
    launches: float
    """Calls by which the host starts work; one replays a whole graph."""


def costs(
    config: StepConfig, prior: DiffusionPrior, guide: Guide, lora: LoraTrainer | None, model: Model,
    cameras: Callable[[int], Any], num_steps: int, recorder: Recorder | None = None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Costs of whole steps and of the guidance alone (pixels in the place of θ), as written and recorded.

    Steps are warmed up first; whole ones move `model`. With the guidance comes how well the gradients of both agree.
    Tests give a `recorder` that needs no GPU.
    """
    px = model.render(cameras(0) or _views(config, prior), 0, torch.Generator(prior.device)).rgb.shape[-1]
    noise = torch.rand(config.num_views, 3, px, px, generator=torch.Generator().manual_seed(0))
    picture, found = Picture(noise.to(prior.device)), {}
    for name, theta in (("step", model), ("guidance", picture)):
        recorded = RecordedSteps(config, prior, guide, lora, lambda message: print(message, file=sys.stderr))

        def write(step: int, theta: Model = theta) -> None:
            optimize_step(step, config, prior, theta, guide, lora, cameras(step))

        def replay(step: int, theta: Model = theta, recorded: RecordedSteps = recorded) -> None:
            recorded.run(step, theta, cameras(step))

        kinds = {"as written": write, "recorded": replay}
        walls: dict[str, list[float]] = {kind: [] for kind in kinds}
        for run in kinds.values():
            for step in range(3):
                run(step)
        for _ in range(ROUNDS):
            for kind, run in kinds.items():
                walls[kind] += [_wall_ms(run, step, prior.device) for step in range(-(-num_steps // ROUNDS))]
        for kind, run in kinds.items():
            found[f"{name}, {kind}"] = asdict(
                Cost(statistics.median(walls[kind]), *_profiled(run, prior.device))
            )
    return found | {"agreement": agreement(write, replay, picture, [lora, *guide.rectifiers])}


def agreement(
    write: Callable[[int], None], replay: Callable[[int], None], picture: Picture, parts: Sequence[Any], step: int = 9
) -> dict[str, float]:  # fmt: skip
    """Cosine and relative difference of the gradients that two kinds of the same step give, from the same state."""
    kept = [None if part is None else {k: v.clone() for k, v in part.tensors().items()} for part in parts]
    grads = []
    for run in (write, replay):
        for part, state in zip(parts, kept, strict=True):
            if part is not None and state is not None:
                part.load(state)
        run(step)
        assert picture.grad is not None
        grads.append(picture.grad.double().flatten().clone())
    difference = ((grads[1] - grads[0]).norm() / grads[0].norm()).item()
    return {"cosine": torch.nn.functional.cosine_similarity(*grads, dim=0).item(), "difference": difference}


def _views(config: StepConfig, prior: DiffusionPrior) -> Any:
    angles = torch.arange(float(config.num_views), device=prior.device) * 360 / config.num_views
    return orbit_cameras(angles, torch.full_like(angles, 10.0), 4.0, 30.0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _wall_ms(run: Callable[[int], None], step: int, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    run(step)
    _wait(device)
    return 1e3 * (time.perf_counter() - started)


def _profiled(run: Callable[[int], None], device: torch.device) -> tuple[float, float, float]:
    """GPU milliseconds, kernels and launches of a step."""
    # On a GPU what the CPU does in between would only make the trace long.
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for step in range(PROFILED_STEPS):
            run(step)
        _wait(device)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    return counted(events, PROFILED_STEPS)


def counted(events: list[dict[str, Any]], steps: int) -> tuple[float, float, float]:
    """GPU milliseconds, kernels and launches per step of a trace in Chrome's format.

    >>> kernel = {"cat": "kernel", "name": "gemm", "dur": 1500.0}
    >>> launch = {"cat": "cuda_runtime", "name": "cudaGraphLaunch", "dur": 9.0}
    >>> counted([kernel, kernel, launch, {"cat": "cuda_runtime", "name": "cudaDeviceSynchronize"}], 1)
    (3.0, 2.0, 1.0)
    """
    work = [event["dur"] for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    calls = [event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    starts = ("Launch", "Memcpy", "Memset")
    launches = sum(any(start in event["name"] for start in starts) for event in calls)
    return sum(work) / 1e3 / steps, len(work) / steps, launches / steps


@dataclass(frozen=True)
class Gradients:
    """What a method makes of given latents."""

    all: Tensor
    rectifier: Tensor | None
    branch: Tensor | None


def gradients(guide: Guide, prior: DiffusionPrior, lora: LoraTrainer | None) -> Gradients:
    """Of seeded latents, noise and cameras, the same in any precision; the branch is stirred from its start."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, prior.unet.config.in_channels, *[prior.unet.config.sample_size] * 2)
    draw = lambda *size: torch.randn(size, generator=generator).to(prior.device)  # noqa: E731
    if lora is not None:
        with torch.no_grad():
            for parameter in lora.branch.parameters():
                parameter.add_(0.02 * draw(*parameter.shape))
    t = torch.tensor([400], device=prior.device)
    angle = torch.tensor([30.0], device=prior.device)
    cameras = orbit_cameras(angle, torch.full_like(angle, 10.0), 4.0, 30.0)
    on_device = torch.Generator(prior.device).manual_seed(2)
    x = add_noise(draw(*shape), t, cameras, 1000, 10_000, prior.schedule, on_device)
    lesson = None if lora is None else lora.draw(x.latents, guide.prompts.plain, cameras.c2w, on_device)
    answers = guide.ask(x, on_device, lesson)
    branch = answers.branch_grads
    if branch is None and lora is not None and lesson is not None:
        branch = torch.autograd.grad(lora.branch.loss(lesson), lora.branch.learning())
    flat = None if branch is None else torch.cat([grad.flatten() for grad in branch])
    return Gradients(distillation_grad(guide, x, answers), answers.grad_log_r, flat)


def cosines(found: Gradients, wanted: Gradients) -> dict[str, float]:
    """Cosine of each part that both have."""
    parts = {name: (getattr(found, name), getattr(wanted, name)) for name in ("all", "rectifier", "branch")}
    return {
        name: torch.nn.functional.cosine_similarity(
            one.double().flatten(), other.double().flatten(), dim=0
        ).item()
        for name, (one, other) in parts.items()
        if one is not None and other is not None
    }
