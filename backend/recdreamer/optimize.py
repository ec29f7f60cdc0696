"""Algorithm 1 of RecDreamer: uniform score distillation, with VSD and SDS as its special cases."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import Cameras, orbit_cameras, sample_cameras
from recdreamer.config import GenerateConfig
from recdreamer.distillation.gradients import clamped, rectifier_grad, sds_grad, vsd_grad
from recdreamer.distillation.timesteps import sample_timesteps, timestep_range
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.diffusion import DiffusionPrior, guided
from recdreamer.prior.lora import LoraTrainer
from recdreamer.scene import Scene


def optimize_step(
    step: int,
    config: GenerateConfig,
    prior: DiffusionPrior,
    text: tuple[Float[Tensor, "1 tokens width"], Float[Tensor, "1 tokens width"]],
    scene: Scene,
    lora: LoraTrainer | None,
    rectifier: Rectifier | None,
) -> None:
    """One pass through Algorithm 1. Without `rectifier` it is VSD, without `lora` as well it is SDS.

    `text` holds the embeddings of the prompt and of the empty prompt.
    """
    generator = step_generator(config.seed, step, scene.device)
    schedule, num_views = prior.schedule, config.optimize.num_views

    # Line 2: render the particle from random cameras.
    cameras = sample_cameras(config.cameras, num_views, generator, scene.device)
    rendering = scene.render(cameras, step, generator)
    latents = prior.encode(rendering.rgb)

    # Line 3: noise.
    bounds = timestep_range(
        config.guidance.schedule,
        step,
        config.optimize.num_steps,
        schedule.num_timesteps,
        config.guidance.num_intervals,
    )
    t = sample_timesteps(bounds, num_views, generator)
    eps = torch.randn(latents.shape, generator=generator, device=latents.device)
    latents_t = schedule.add_noise(latents.detach(), eps, t)
    w_t = schedule.sigma_t(t).square()

    # Line 4: what the prior sees less what the branch knows of the renders, and the way to the wanted poses.
    cond, uncond = (embedding.expand(num_views, -1, -1) for embedding in text)
    shares_pass = rectifier is not None and not config.rectifier.separate_pass
    latents_t.requires_grad_(shares_pass)
    with torch.set_grad_enabled(shares_pass and config.rectifier.jacobian):
        eps_cond = prior.eps(latents_t, t, cond)
    with torch.no_grad():
        eps_pretrained = guided(eps_cond, prior.eps(latents_t, t, uncond), config.guidance.guidance_scale)
        if lora is None:
            grad = sds_grad(eps_pretrained, eps, w_t)
        else:
            grad = vsd_grad(eps_pretrained, lora.branch.eps(latents_t, t, cond, cameras.c2w), w_t)
    if rectifier is not None:
        if not shares_pass:
            eps = torch.randn(latents.shape, generator=generator, device=latents.device)
            latents_t = schedule.add_noise(latents.detach(), eps, t).requires_grad_()
            with torch.set_grad_enabled(config.rectifier.jacobian):
                eps_cond = prior.eps(latents_t, t, cond)
        images = prior.decode(schedule.x0_hat(latents_t, eps_cond, t))
        # Line 5, the update of the marginal, happens inside, after its use.
        log_ratio = rectifier.log_ratio(images, t, cameras.azimuth_deg, generator)
        (towards,) = torch.autograd.grad(log_ratio.sum(), latents_t)
        alpha_t, sigma_t = schedule.alpha_t(t), schedule.sigma_t(t)
        rectifying = config.rectifier.weight * rectifier_grad(alpha_t * towards, alpha_t, sigma_t, w_t)
        grad = grad + clamped(rectifying, grad, config.rectifier.clamp, config.rectifier.clamp_limit)
    scene.descend(rendering, latents, grad, step, generator)

    # Line 6: the branch learns the renders.
    if lora is not None:
        lora.step(latents.detach(), cond, cameras.c2w, step, generator)


def optimize(
    first_step: int,
    config: GenerateConfig,
    run_step: Callable[[int], None],
    after_step: Callable[[int], None],
    save: Callable[[int], None],
) -> None:
    """Run the steps from `first_step` on; save now and then, and whatever ends the run early."""
    num_steps, last_save = config.optimize.num_steps, time.monotonic()
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
