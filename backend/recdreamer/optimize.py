"""Algorithm 1 of RecDreamer, uniform score distillation, and the other methods in its place."""

from __future__ import annotations

from recdreamer.cameras import Cameras, sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.device import step_generator
from recdreamer.distillation.guidance_config import GuidanceConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import add_noise
from recdreamer.distillation.timesteps import sample_timesteps, timestep_range
from recdreamer.models.model import Model
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.prior.schedule import NoiseSchedule


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
