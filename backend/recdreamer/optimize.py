"""One step of Algorithm 1 (uniform score distillation), and of the other methods by the same lines.

The loop around it (lines 1 and 7) is `stages.run.run_steps`; p̄_t begins as 1/n_c in `pose.marginal`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras, sample_cameras
from recdreamer.config import StepConfig
from recdreamer.device import step_generator
from recdreamer.distillation.guidance_config import GuidanceConfig
from recdreamer.distillation.methods import Answers, Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.distillation.timesteps import sample_timesteps, timestep_range
from recdreamer.models.model import Model
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.prior.schedule import NoiseSchedule


def optimize_step(
    step: int,
    config: StepConfig,
    prior: DiffusionPrior,
    model: Model,
    guide: Guide,
    lora: LoraTrainer | None,
    cameras: Cameras | None = None,
    t: Int[Tensor, "views"] | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Lines 2 to 6. Methods differ in the terms of line 4, which `guide` supplies; only VSD, ESD and USD train ε_φ, a
    LoRA branch of the U-Net (line 6).

    `model` is the particle θ; `cameras`, timesteps `t` and the step's random numbers are drawn if none are given.
    """
    generator = generator or step_generator(config.seed, step, model.device)
    num_views, num_steps = config.num_views, config.num_steps

    # Line 2: x_0 = g(θ, c): render, then encode.
    if cameras is None:
        cameras = sample_cameras(config.cameras, num_views, generator, model.device)
    rendering = model.render(cameras, step, generator)
    latents = prior.encode(rendering.rgb)

    # Line 3: x_t = α_t x_0 + σ_t ε; x holds x_0, x_t, ε, σ_t and ω(t).
    if t is None:
        bounds = timesteps_of(config.guidance, prior.schedule, step, num_steps)
        t = sample_timesteps(bounds, num_views, generator)
    x = add_noise(latents, t, cameras, step, num_steps, prior.schedule, generator)

    # What line 6 learns, at a timestep of its own and without view words in y: USD answers it along with line 4.
    lesson = None
    if lora is not None and step % config.guidance.lora_every == 0:
        lesson = lora.draw(x.latents, guide.prompts.plain.expand(num_views, -1, -1), cameras.c2w, generator)

    # Line 4: θ ← θ - η_1 ∇_θ; the mean over views, η_1 and the regularizers are in `descend`.
    answers = guide.ask(x, generator, lesson)
    model.descend(rendering, latents, distillation_grad(guide, x, answers), step, generator)

    # Line 5, Eq. 19: p̄_t ← α_ema p_ξ(c|x_t) + (1 - α_ema) p̄_t, after line 4 has used the old p̄_t.
    guide.observe(x, answers.log_probs)

    # Line 6, Eq. 8: φ ← φ - η_2 ∇_φ |ε_φ(x_t, t, c, y) - ε|².
    if lora is not None and lesson is not None:
        lora.learn(lesson, step, answers.branch_grads)


def distillation_grad(guide: Guide, x: Noised, answers: Answers) -> Float[Tensor, "batch c h w"]:
    """The gradient with respect to the latents x_0 (Alg. 1, line 4; paper, Eq. 13):

    ω(t) (ε_pretrain - ε_φ) - ω(t) σ_t/α_t ∇ log r(x_t), the last with respect to x_0.

    As x_t = α_t x_0 + σ_t ε, that is α_t times the slope with respect to x_t, and α_t drops out. Without a rectifier
    it is VSD (Eq. 9), and with the drawn noise for ε_φ it is SDS (Eq. 5). r is the marginal form's, or that of pose
    control (C.5), as the rectifier says. Its term is multiplied by `rectifier.weight` (Eq. 13 has 1) and at most as long
    as the denoiser's (B.3).
    """
    denoising = guide.clipped(answers.w_t * (answers.eps_pretrained - answers.eps_phi), x)
    if answers.grad_log_r is None:
        return denoising
    rectifying = -answers.w_t * x.sigma_t * answers.grad_log_r
    return denoising + guide.weighted_and_limited(rectifying, denoising)


def timesteps_of(
    guidance: GuidanceConfig, schedule: NoiseSchedule, step: int, num_steps: int
) -> tuple[int, int]:
    """Lowest and highest timestep (exclusive) of a step."""
    return timestep_range(
        guidance.schedule, step, num_steps, schedule.num_timesteps,
        guidance.num_intervals, guidance.anneal_at, guidance.late_until,
    )  # fmt: skip
