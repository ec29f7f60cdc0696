"""Algorithm 1 of RecDreamer, uniform score distillation, and the other methods in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from recdreamer.cameras import Cameras, orbit_cameras, sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.distillation.methods import GuidanceConfig, Guide, add_noise
from recdreamer.distillation.timesteps import sample_timesteps, timestep_range
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.models.model import Model
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.report import Report


def optimize_step(
    step: int,
    config: GenerateConfig,
    prior: DiffusionPrior,
    model: Model,
    guide: Guide,
    lora: LoraTrainer | None,
    cameras: Cameras | None = None,
) -> None:
    """One pass through Algorithm 1. Other methods differ in line 4; those without a branch have no line 6.

    `cameras` are drawn when none are given.
    """
    generator = step_generator(config.seed, step, model.device)
    num_views, num_steps = config.optimize.num_views, config.optimize.num_steps

    # Line 2: render the particle from random cameras.
    if cameras is None:
        cameras = sample_cameras(config.cameras, num_views, generator, model.device)
    rendering = model.render(cameras, step, generator)
    latents = prior.encode(rendering.rgb)

    # Line 3: noise.
    t = sample_timesteps(timesteps_of(config.guidance, prior.schedule, step, num_steps), num_views, generator)
    noised = add_noise(latents, t, cameras, step, num_steps, prior.schedule, generator)

    # Lines 4 and 5: what the prior sees less what the branch knows of the renders, and the way to the wanted poses.
    grad = guide.grad(noised, generator)
    model.descend(rendering, latents, grad, step, generator)

    # Line 6: the branch learns the renders.
    if lora is not None and step % config.guidance.lora_every == 0:
        lora.step(noised.latents, guide.prompts.plain.expand(num_views, -1, -1), cameras.c2w, step, generator)


def timesteps_of(
    guidance: GuidanceConfig, schedule: NoiseSchedule, step: int, num_steps: int
) -> tuple[int, int]:
    """Lowest and highest timestep (exclusive) of a step."""
    return timestep_range(
        guidance.schedule, step, num_steps, schedule.num_timesteps,
        guidance.num_intervals, guidance.anneal_at, guidance.late_until,
    )  # fmt: skip


@runtime_checkable
class Resumable(Protocol):
    """A part of a stage whose state a checkpoint holds."""

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor]) -> None: ...


def optimize(
    stage: str,
    store: CheckpointStore,
    config: GenerateConfig,
    device: torch.device,
    parts: Sequence[Resumable],
    run_step: Callable[[int], None],
    after_step: Callable[[int], None],
    check: Callable[[int], None] = lambda step: None,
) -> float:
    """Run the steps of a stage that are left after its newest checkpoint. Returns the seconds of all runs.

    Saves now and then, at the end, and whatever ends the run early. `check(step)` raises what must keep a state from
    being saved.
    """
    num_steps, first_step, seconds_before = config.optimize.num_steps, 0, 0.0
    checkpoint = store.newest(stage)
    if checkpoint is not None:
        tensors = {name: tensor.to(device) for name, tensor in checkpoint.tensors.items()}
        for part in parts:
            part.load(tensors)
        first_step, seconds_before = checkpoint.step, checkpoint.meta["seconds"]
    started = last_save = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    def save(step: int) -> None:
        check(step)
        tensors = {name: tensor for part in parts for name, tensor in part.tensors().items()}
        store.save(stage, step, tensors, {"seconds": seconds()}, final=step == num_steps)

    for step in range(first_step, num_steps):
        run_step(step)
        try:
            after_step(step + 1)
        except BaseException:
            save(step + 1)
            raise
        if time.monotonic() - last_save > config.optimize.checkpoint_every_s:
            save(step + 1)
            last_save = time.monotonic()
    if first_step < num_steps:
        save(num_steps)
    return seconds()


def report_poses(report: Report, labels: Sequence[str], marginal: PoseMarginal, guide: Guide) -> None:
    """Tell the pose distribution, and how large both terms of USD are."""
    report.pose_distribution(dict(zip(labels, marginal.overall().tolist(), strict=True)))
    for name, norm in guide.norms.items():
        report.metric(f"norm_{name}", norm.mean().item())


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The source of all randomness of one step: the same after a restart as without one."""
    return torch.Generator(device=device).manual_seed((seed * 1_000_003 + step) % (1 << 63))


def orbit(num_views: int, config: GenerateConfig, device: torch.device, first_deg: float = 0.0) -> Cameras:
    """Evenly spaced cameras at the middle of the configured ranges."""
    middle = lambda bounds: sum(bounds) / 2  # noqa: E731
    azimuth_deg = first_deg + torch.arange(num_views, device=device) * (360.0 / num_views)
    elevation_deg = torch.full((num_views,), middle(config.cameras.elevation_deg), device=device)
    return orbit_cameras(
        azimuth_deg, elevation_deg, middle(config.cameras.distance), middle(config.cameras.fov_y_deg)
    )
