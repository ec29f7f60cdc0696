"""One step of Algorithm 1 (uniform score distillation), and of the other methods by the same lines.

The loop around it (lines 1 and 7) is `stages.run.run_steps`, whose `run_step` picks line 2's particle θ^i; p̄_t begins as
1/n_c in `pose.marginal`. On a GPU, `recorded_step` replays a step as a CUDA graph instead of running these lines again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

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
from recdreamer.parallel.team import share_of_views
from recdreamer.parallel.view_shares import ALL_VIEWS, Share, share_of
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

    `model` is the particle θ; `cameras`, timesteps `t` and the step's random numbers are drawn if none are given. Where
    processes share the views of a step, cameras and timesteps are those of this process.
    """
    found = distill(step, config, prior, model, guide, lora, cameras, t, generator)
    settle(step, found, guide, lora)


def distill(
    step: int,
    config: StepConfig,
    prior: DiffusionPrior,
    model: Model,
    guide: Guide,
    lora: LoraTrainer | None,
    cameras: Cameras | None = None,
    t: Int[Tensor, "views"] | None = None,
    generator: torch.Generator | None = None,
) -> Found:
    """Lines 2 to 4, and the gradients of line 6. As in `optimize_step`."""
    if generator is None:
        generator = step_generator(config.seed, step, model.device, share_of_views(config.num_views))
    share, num_steps = share_of(generator), config.num_steps

    # Line 2: x_0 = g(θ, c): render, then encode.
    if cameras is None:
        cameras = drawn_cameras(config, generator, share, model.device)
    rendering = model.render(cameras, step, generator)
    latents = (guide.encoder or prior).encode(rendering.rgb)

    # Line 3: x_t = α_t x_0 + σ_t ε; x holds x_0, x_t, ε, σ_t and ω(t).
    if t is None:
        t = drawn_timesteps(step, config, prior.schedule, generator, share)
    x = add_noise(latents, t, cameras, step, num_steps, prior.schedule, generator)

    # What line 6 learns, at a timestep of its own and without view words in y: USD answers it along with line 4.
    lesson = None
    if lora is not None and step % config.guidance.lora_every == 0:
        lesson = lora.draw(x.latents, guide.prompts.plain.expand(len(t), -1, -1), cameras.c2w, generator)

    # Line 4: θ ← θ - η_1 ∇_θ; the mean over views, η_1 and the regularizers are in `descend` of each model (`models/`).
    answers = guide.ask(x, generator, lesson)
    model.descend(rendering, latents, distillation_grad(guide, x, answers, share), step, generator)

    branch_grads = answers.branch_grads
    if lora is not None and lesson is not None and branch_grads is None:
        branch_grads = lora.grads(lesson)
    return Found(x, answers.log_probs, branch_grads, share)


def settle(step: int, found: Found, guide: Guide, lora: LoraTrainer | None) -> None:
    """Lines 5 and 6, with the views of all processes."""
    # Line 5, Eq. 19: p̄_t ← α_ema p_ξ(c|x_t) + (1 - α_ema) p̄_t, after line 4 has used the old p̄_t.
    guide.observe(found.x, found.log_probs, found.share)

    # Line 6, Eq. 8: φ ← φ - η_2 ∇_φ |ε_φ(x_t, t, c, y) - ε|², with t, ε and x_t of the lesson.
    if lora is not None and found.branch_grads is not None:
        lora.learn(found.branch_grads, step, found.share)


def distillation_grad(
    guide: Guide, x: Noised, answers: Answers, share: Share = ALL_VIEWS
) -> Float[Tensor, "batch c h w"]:
    """The gradient with respect to the latents x_0 (Alg. 1, line 4; paper, Eq. 13):

    ω(t) (ε_pretrain - ε_φ) - ω(t) σ_t/α_t ∇ log r(x_t), the last with respect to x_0.

    `answers.grad_log_r` is the slope with respect to x_t. As x_t = α_t x_0 + σ_t ε, that with respect to x_0 is α_t times
    as large, and α_t drops out. Without a rectifier this is VSD (Eq. 9), and with the drawn noise for ε_φ SDS (Eq. 5).

    In the marginal form r is Σ_c f(c)/p̄_t(c) p_ξ(c|x_t) (Eq. 11), in pose control the probability of the camera's class
    (C.5); `pose/rectifier.py` has both. The term is multiplied by `rectifier.weight` (1 in Eq. 13, 16,384 in the released
    code for Stable Diffusion) and then cut to the length of the denoiser's (B.3).
    """
    denoising = guide.clipped(answers.w_t * (answers.eps_pretrained - answers.eps_phi), x)
    if answers.grad_log_r is None:
        return denoising
    rectifying = -answers.w_t * x.sigma_t * answers.grad_log_r
    return denoising + guide.weighted_and_limited(rectifying, denoising, share)


def drawn_cameras(
    config: StepConfig, generator: torch.Generator, share: Share, device: torch.device
) -> Cameras:
    """This process's cameras, of those that are drawn for all."""
    return sample_cameras(config.cameras, config.num_views, generator, device).of(share)


def drawn_timesteps(
    step: int, config: StepConfig, schedule: NoiseSchedule, generator: torch.Generator, share: Share
) -> Int[Tensor, "views"]:
    """This process's timesteps, of those that are drawn for all."""
    bounds = timesteps_of(config.guidance, schedule, step, config.num_steps)
    return share.own(sample_timesteps(bounds, config.num_views, generator))


def timesteps_of(
    guidance: GuidanceConfig, schedule: NoiseSchedule, step: int, num_steps: int
) -> tuple[int, int]:
    """Lowest and highest timestep (exclusive) of a step."""
    return timestep_range(
        guidance.schedule, step, num_steps, schedule.num_timesteps,
        guidance.num_intervals, guidance.anneal_at, guidance.late_until,
    )  # fmt: skip


NOISED = ("latents", "latents_t", "eps", "t", "sigma_t", "w_t")
"""The tensors of a `Noised`."""


@dataclass(frozen=True)
class Found:
    """What lines 5 and 6 need from those before."""

    x: Noised
    log_probs: tuple[Float[Tensor, "batch classes"], ...]
    branch_grads: tuple[Tensor, ...] | None
    """None if the branch learns nothing in this step."""
    share: Share

    def copied(self) -> Found:
        """Out of the memory of a recording, which the next replay writes again."""
        grads = None if self.branch_grads is None else tuple(grad.clone() for grad in self.branch_grads)
        log_probs, x = tuple(each.clone() for each in self.log_probs), self.x
        tensors = {name: getattr(x, name).clone() for name in NOISED}
        cameras = None if x.cameras is None else Cameras.joined([x.cameras])
        return replace(
            self, x=replace(x, cameras=cameras, **tensors), log_probs=log_probs, branch_grads=grads
        )


def _weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    first, *others = (weight * tensor for weight, tensor in zip(weights, tensors, strict=True))
    return reduce(torch.add, others, first)


def joined(parts: Sequence[Found], share: Share) -> Found:
    """What was found in parts of a process's views, one after another."""
    first, *_ = parts
    if len(parts) == 1:
        return first
    rows = lambda name: torch.cat([getattr(part.x, name) for part in parts])  # noqa: E731
    cameras = [part.x.cameras for part in parts if part.x.cameras is not None]
    x = Noised(
        *map(rows, NOISED),
        cameras=Cameras.joined(cameras) if cameras else None, step=first.x.step, progress=first.x.progress,
    )  # fmt: skip
    grads = None
    if first.branch_grads is not None:
        weights = [part.share.size / share.size for part in parts]
        of_each = zip(*[part.branch_grads or () for part in parts], strict=True)
        grads = tuple(_weighted_sum(weights, each) for each in of_each)
    return Found(
        x, tuple(map(torch.cat, zip(*[part.log_probs for part in parts], strict=True))), grads, share
    )
