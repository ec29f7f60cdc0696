"""2D particles: pictures optimized as latents, by the same methods but without cameras (paper, App. E)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.config import GenerateConfig, OptimizeConfig, StepConfig
from recdreamer.device import step_generator
from recdreamer.distillation.guidance_config import RectifierConfig
from recdreamer.distillation.methods import Answers, Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.distillation.timesteps import sample_timesteps
from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.named_tensors import load_optimizer, optimizer_tensors
from recdreamer.optimize import distillation_grad, timesteps_of
from recdreamer.pose.marginal import PoseMarginal
from recdreamer.pose.rectifier import Classifier
from recdreamer.prior.diffusion import DiffusionPrior
from recdreamer.prior.lora import LoraTrainer
from recdreamer.report import Report
from recdreamer.shared.protocol import JobFolder, RequestError
from recdreamer.stages.run import report_poses, run_steps

STAGE = "particles"
NUM_RECORDS = 40
"""Number of records of a run, evenly spaced."""


def check_config(config: GenerateConfig) -> None:
    """Raises RequestError for settings that need cameras."""
    if config.method in ("perp_neg", "consdreamer"):
        raise RequestError(
            f"{config.method} needs the camera's azimuth, and 2D particles have no camera.",
            "Choose another method.",
        )
    if config.pose_mode == "camera":
        raise RequestError("2D particles have no camera to take the pose from.", "Choose the marginal mode.")
    for name in ("num_particles", "num_steps", "num_views"):
        if getattr(config.optimize, name) < 1:
            raise RequestError(f"optimize.{name} is {getattr(config.optimize, name)}.", "Give 1 or more.")


class LatentParticles:
    """Pictures x¹ … xⁿ as latents that start as noise, each with an optimizer state of its own."""

    def __init__(self, settings: OptimizeConfig, seed: int, prior: DiffusionPrior) -> None:
        self.settings, self.prior = settings, prior
        shape = (prior.unet.config.in_channels, *[prior.latent_side] * 2)
        generator = torch.Generator(prior.device).manual_seed(seed)
        # One tensor each: those that a step skips have no gradient, so that their momentum does not change.
        self.latents = [
            torch.randn(shape, generator=generator, device=prior.device).requires_grad_()
            for _ in range(settings.num_particles)
        ]
        self.optimizer = torch.optim.Adam(self.latents, settings.grid_learning_rate, fused=True)

    def draw(self, generator: torch.Generator) -> Int[Tensor, "batch"]:
        """The indices of a step: `num_views` of them without repetition, or all if there are fewer."""
        order = torch.randperm(len(self.latents), generator=generator, device=generator.device)
        return order[: self.settings.num_views]

    def at(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch c h w"]:
        return torch.stack([self.latents[i] for i in indices.tolist()]).detach()

    def descend(self, indices: Int[Tensor, "batch"], grad: Float[Tensor, "batch c h w"], step: int) -> None:
        """One optimizer step of the drawn particles; the rate falls along the same cosine as a field's."""
        settings = self.settings
        left = 0.5 + 0.5 * math.cos(math.pi * step / settings.num_steps)
        left = settings.final_learning_rate + (1 - settings.final_learning_rate) * left
        self.optimizer.param_groups[0]["lr"] = left * settings.grid_learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        for i, direction in zip(indices.tolist(), grad, strict=True):
            self.latents[i].grad = direction.detach().clone()
        self.optimizer.step()

    @torch.no_grad()
    def pictures(self, at_once: int = 4) -> Float[Tensor, "particles 3 height width"]:
        """All particles, decoded a few at a time."""
        parts = torch.stack(self.latents).split(at_once)
        return torch.cat([self.prior.decode(part) for part in parts]).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        named = {f"latents.{i}": latents for i, latents in enumerate(self.latents)}
        return named | optimizer_tensors("optimizer", self.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for i, latents in enumerate(self.latents):
                latents.copy_(tensors[f"latents.{i}"])
        load_optimizer("optimizer", self.optimizer, tensors)


class PoseObserver:
    """Records the poses (or another attribute) of every step's clean estimates, as USD sees them, for any method.

    It draws no random numbers and returns nothing, so that a run is the same with and without it.
    """

    def __init__(self, guide: Guide, classifier: Classifier, config: RectifierConfig) -> None:
        self.denoiser, self.classifier = guide.denoiser, classifier
        schedule = guide.denoiser.schedule
        self.marginal = PoseMarginal(
            len(classifier.labels),
            config.num_intervals,
            config.n_ema,
            schedule.num_timesteps,
        ).to(schedule.alphas_cumprod.device)
        self.sum = torch.zeros_like(self.marginal.probs)
        """Sum of the marginals over the steps."""

    @torch.no_grad()
    def see(self, x: Noised, answers: Answers) -> None:
        """Record the estimates of one step."""
        estimates = self.denoiser.decode(self.denoiser.schedule.x0_hat(x.latents_t, answers.eps_text, x.t))
        self.marginal.update(x.t, self.classifier(estimates).exp())
        self.sum += self.marginal.probs

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""
        return {"observed": self.marginal.probs, "observed_sum": self.sum}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.marginal.probs.copy_(tensors["observed"])
        self.sum.copy_(tensors["observed_sum"])


@dataclass(frozen=True)
class Snapshot:
    """A run after a step."""

    step: int
    pictures: Float[Tensor, "particles 3 height width"]
    labels: tuple[str, ...]
    marginal: Float[Tensor, "intervals classes"]
    """p̄_t(c|y) now."""
    mean_marginal: Float[Tensor, "intervals classes"]
    """Its mean over the steps."""


def particle_step(
    step: int,
    config: StepConfig,
    particles: LatentParticles,
    guide: Guide,
    lora: LoraTrainer | None,
    observer: PoseObserver | None,
) -> None:
    """One pass through Algorithm 1; there is nothing to render, so line 2 is skipped."""
    prior = particles.prior
    generator = step_generator(config.seed, step, prior.device)
    drawn = particles.draw(generator)
    latents, num_steps = particles.at(drawn), config.num_steps

    # Line 3: x_t = α_t x_0 + σ_t ε.
    bounds = timesteps_of(config.guidance, prior.schedule, step, num_steps)
    t = sample_timesteps(bounds, len(drawn), generator)
    x = add_noise(latents, t, None, step, num_steps, prior.schedule, generator)

    # Line 4.
    answers = guide.ask(x, generator)
    particles.descend(drawn, distillation_grad(guide, x, answers), step)

    # Line 5.
    guide.observe(x, answers.log_probs)
    if observer is not None:
        observer.see(x, answers)

    # Line 6: the branch learns the pictures.
    if lora is not None and step % config.guidance.lora_every == 0:
        nowhere = torch.zeros(len(drawn), 4, 4, device=latents.device)
        lora.step(latents, guide.prompts.plain.expand(len(drawn), -1, -1), nowhere, step, generator)


def particle_stage(
    job: JobFolder,
    config: GenerateConfig,
    prior: DiffusionPrior,
    guide: Guide,
    observer: PoseObserver,
    report: Report,
    record: Callable[[Snapshot], None],
) -> tuple[LatentParticles, float]:
    """All steps, resumed from the newest checkpoint. Returns the particles and the seconds of all runs together."""
    particles, settings = LatentParticles(config.optimize, config.seed, prior), config.step("shape")
    guidance, num_steps = settings.guidance, settings.num_steps
    branch, lora = guide.denoiser.branch, None
    if branch is not None:
        # Without a camera, its part of the branch has nothing to learn and stays at zero.
        branch.camera.requires_grad_(False)
        lora = LoraTrainer(branch, guidance.lora_learning_rate, guidance.lora_warmup_steps)

    def after_step(step: int) -> None:
        if is_due(step, num_steps, NUM_RECORDS):
            marginal, labels = observer.marginal, observer.classifier.labels
            record(Snapshot(step, particles.pictures(), labels, marginal.probs.clone(), observer.sum / step))
            report_poses(report, labels, marginal)
        report.progress(step, num_steps)

    seconds = run_steps(
        STAGE,
        CheckpointStore(job.checkpoints),
        settings,
        prior.device,
        [part for part in (particles, observer, lora, *guide.rectifiers) if part is not None],
        lambda step: particle_step(step, settings, particles, guide, lora, observer),
        after_step,
    )
    return particles, seconds


def is_due(step: int, num_steps: int, times: int) -> bool:
    """Whether an action that happens `times` times in a run, evenly spaced and at its end, is due after `step`."""
    return step * times // num_steps > (step - 1) * times // num_steps
