"""The seven methods: what each asks the denoiser about noised renders, and the gradient it makes of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recdreamer.cameras import Cameras
from recdreamer.distillation.gradients import (
    Clamp,
    bridge_grad,
    clamped,
    clipped_scores,
    esd_grad,
    rectifier_grad,
    sds_grad,
    vsd_grad,
)
from recdreamer.distillation.perp_neg import PerpNegSchedule, perp_neg_eps, perp_neg_prompts
from recdreamer.distillation.timesteps import Schedule
from recdreamer.pose.classifier import ClassifierConfig
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.denoiser import Question
from recdreamer.prior.diffusion import guided
from recdreamer.prior.lora import LoraBranch
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.protocol import Method

LORA_METHODS = ("vsd", "esd", "usd")


@dataclass(frozen=True)
class GuidanceConfig:
    """What the prior is asked for, and how strongly."""

    guidance_scale: float = 7.5
    """Classifier-free guidance in diffusers' convention (threestudio's SDS means one more by the same number)."""
    auxiliary_prompt: str = ""
    """Appended to the prompt so that other poses have a share at all (paper, B.3)."""
    view_prompts: bool = False
    """Put the camera's view into words."""
    views: ViewConfig = ViewConfig()
    schedule: Schedule = "back_and_forth"
    num_intervals: int = 2
    """n_i of the back-and-forth schedule."""
    anneal_at: float = 0.2
    """Share of the steps after which `annealed` halves the highest timestep."""
    late_until: float = 0.5
    """Share of the timesteps, from the lowest on, that `late` draws from."""
    lora_rank: int = 4
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that the branch may change, by the end of their name."""
    lora_learning_rate: float = 1e-4
    lora_warmup_steps: int = 500
    lora_every: int = 1
    """Steps between two training steps of the branch."""
    entropy_weight: float = 0.5
    """λ of ESD."""
    clip_limits: tuple[float, float] = (2.0, 8.0)
    """Bounds on the entries of Debiased-SDS's gradient, at the first and the last step."""
    masked_lm: str = ""
    """Masked language model that debiases the prompt (Debiased-SDS: bert-base-uncased); empty leaves the prompt."""
    debias_words: tuple[str, ...] = ()
    """Words that prompt debiasing may leave out; none means all."""
    perp_neg_schedule: PerpNegSchedule = "threestudio"
    perp_neg_strength: float = 2.0
    """Of the original schedule."""
    bridge_from: float = 0.8
    """Share of the steps after which SDS-Bridge goes on from SDS to its second stage (20,000 of 25,000)."""
    bridge_source: str = (
        "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    )
    """What the renders are taken for in the second stage, appended to the prompt."""
    bridge_weight: float = 1.0
    checkpointing: bool = False
    """Compute the U-Net's activations twice instead of keeping them: less memory, more time."""
    compile: bool = False
    """Compile the U-Net first (minutes, once a run); for Linux with a GPU."""


@dataclass(frozen=True)
class RectifierConfig:
    """How the distribution of poses, or of another attribute, is rectified."""

    pose: bool = True
    """Rectify the pose; False leaves it to the prior."""
    attribute: dict[str, str] = field(default_factory=dict)
    """Classes of another attribute that is rectified, each with the words that CLIP knows it by (paper, Fig. 15)."""
    attribute_target: dict[str, float] = field(default_factory=dict)
    """f(c) of the attribute, as `target`."""
    attribute_classifier: str = "openai/clip-vit-base-patch32"
    """`builtin`, or a folder or id of a CLIP model, or of an image classifier whose own classes `attribute` names."""

    weight: float = 16_384.0
    """Factor on the rectifier's gradient. Eq. 13 prints 1; the released code multiplies by the number of latent
    entries, here those of Stable Diffusion, so that the cap decides. docs/evaluation.md has what 1 does."""
    clamp: Clamp = "cap"
    clamp_limit: float = 1.0
    """Largest norm in units of the denoiser's."""
    jacobian: bool = True
    """Differentiate the clean estimate through the U-Net; False takes the noise estimate as constant."""
    separate_pass: bool = False
    """Fresh noise and a forward of its own, as the released code; False shares x_t and the forward (Alg. 1)."""
    estimate: Literal["clean", "noisy"] = "clean"
    """Picture that the classifier sees: the clean estimate, or x_t itself (ablation of p(c|x_t, y), Sec. 4.4)."""
    marginal: Literal["running", "sampled"] = "running"
    """p̄: followed while optimizing, or fixed by pictures drawn beforehand (ablation of p(c|y), Sec. 4.4)."""
    marginal_samples: int = 64
    """Pictures that are drawn for the fixed marginal."""
    target: dict[str, float] = field(default_factory=dict)
    """f(c) by class, in any unit; empty is uniform, a single class is pose control (C.5)."""
    yaw: Literal["inferred", "free"] = "inferred"
    """Target of the marginal form: `inferred` asks each camera for the class that should be there once the views
    tell how the object is turned (`YawPosterior`); `free` asks all cameras for the same f(c), as the paper."""
    yaw_memory: int = 100
    """Samples that make up 90 % of what is known about that."""
    lazy_steps: int = 0
    """First steps, in which the marginal is followed and nothing rectified (released code: lazy_activation)."""
    num_intervals: int = 10
    """n_t: intervals of timesteps with a marginal of their own."""
    n_ema: int = 100
    """Samples that make up 90 % of a marginal."""
    classifier: ClassifierConfig = ClassifierConfig()
    anchor: bool = True
    """Compare templates from elsewhere with what the prior draws, and let its own pictures stand in where they do not
    fit; False takes them as they are (paper)."""
    tiny_decoder: str = ""
    """Folder or id of an AutoencoderTiny (TAESD: madebyollin/taesd) that decodes for the classifier; empty takes
    the prior's own decoder, which costs more than the classifier itself at Stable Diffusion's size."""


@runtime_checkable
class AnyDenoiser(Protocol):
    """What the methods need of a denoiser: `prior.denoiser.Denoiser`, or one with a closed form in the tests."""

    branch: LoraBranch | None

    @property
    def schedule(self) -> NoiseSchedule: ...

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Noised:
    """Latents of renders with noise on them (Alg. 1, line 3), and where the renders were taken from."""

    latents: Float[Tensor, "batch c h w"]
    """Without noise, and without gradient."""
    latents_t: Float[Tensor, "batch c h w"]
    eps: Float[Tensor, "batch c h w"]
    t: Int[Tensor, "batch"]
    w_t: Float[Tensor, "batch 1 1 1"]
    """ω(t) = sigma_t²."""
    cameras: Cameras | None
    """None for pictures that were taken from nowhere (2D particles)."""
    step: int
    progress: float
    """Share of the steps that are done."""

    @property
    def c2w(self) -> Float[Tensor, "batch 4 4"] | None:
        return None if self.cameras is None else self.cameras.c2w


def add_noise(
    latents: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], cameras: Cameras | None,
    step: int, num_steps: int, schedule: NoiseSchedule, generator: torch.Generator,
) -> Noised:  # fmt: skip
    """Alg. 1, line 3."""
    latents = latents.detach()
    eps = torch.randn(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
    w_t = schedule.sigma_t(t).square()
    return Noised(latents, schedule.add_noise(latents, eps, t), eps, t, w_t, cameras, step, step / num_steps)


class Guide:
    """One method, ready to say where noised renders should go."""

    def __init__(
        self,
        method: Method,
        denoiser: AnyDenoiser,
        prompts: Prompts,
        config: GuidanceConfig,
        rectifiers: Sequence[Rectifier] = (),
        rectifier_config: RectifierConfig | None = None,
    ) -> None:
        self.method: Method = method
        self.denoiser, self.prompts, self.config = denoiser, prompts, config
        self.rectifiers, self.rectifier_config = rectifiers, rectifier_config or RectifierConfig()
        self.norms: dict[str, Tensor] = {}
        """Norms of both terms of USD at the latest step, per view; on the device."""

    def grad(self, x: Noised, generator: torch.Generator) -> Float[Tensor, "batch c h w"]:
        """The method's gradient with respect to the latents."""
        match self.method:
            case "usd":
                return self.usd(x, generator)
            case "vsd":
                return self.vsd(x)
            case "esd":
                return self.esd(x)
            case "sds":
                return self.sds(x)
            case "debiased_sds":
                return clipped_scores(self.sds(x), self.config.clip_limits, x.progress)
            case "perp_neg":
                return self.perp_neg(x)
            case "sds_bridge":
                return self.sds(x) if x.progress < self.config.bridge_from else self.bridge(x)

    @torch.no_grad()
    def sds(self, x: Noised) -> Float[Tensor, "batch c h w"]:
        """DreamFusion (Poole et al. 2022)."""
        cond, uncond = self._ask(x, Question(self._text(x)), Question(self._empty(x)))
        return sds_grad(guided(cond, uncond, self.config.guidance_scale), x.eps, x.w_t)

    @torch.no_grad()
    def perp_neg(self, x: Noised) -> Float[Tensor, "batch c h w"]:
        """SDS with the view's negatives."""
        assert x.cameras is not None, "Perp-Neg asks by the camera's azimuth."
        asked = perp_neg_prompts(
            self.prompts, x.cameras.azimuth_deg, x.cameras.elevation_deg,
            self.config.perp_neg_schedule, self.config.perp_neg_strength,
        )  # fmt: skip
        texts = (self._empty(x), asked.positive, *asked.negatives)
        uncond, positive, *negatives = self._ask(x, *map(Question, texts))
        eps = perp_neg_eps(uncond, positive, negatives, asked.weights, self.config.guidance_scale)
        return sds_grad(eps, x.eps, x.w_t)

    @torch.no_grad()
    def bridge(self, x: Noised) -> Float[Tensor, "batch c h w"]:
        """SDS-Bridge, second stage."""
        source = self.prompts.source.expand(len(x.t), -1, -1)
        target, source = self._ask(x, Question(self._text(x)), Question(source))
        return bridge_grad(target, source, self.config.bridge_weight)

    @torch.no_grad()
    def vsd(self, x: Noised) -> Float[Tensor, "batch c h w"]:
        """ProlificDreamer (Wang et al. 2023)."""
        cond, uncond, lora = self._ask(
            x, Question(self._text(x)), Question(self._empty(x)), self._branch(x, x.c2w)
        )
        return vsd_grad(guided(cond, uncond, self.config.guidance_scale), lora, x.w_t)

    @torch.no_grad()
    def esd(self, x: Noised) -> Float[Tensor, "batch c h w"]:
        """ESD; the branch knows views without a camera from camera dropout in its training."""
        nowhere = None if x.c2w is None else torch.zeros_like(x.c2w)
        cond, uncond, lora, lora_free = self._ask(
            x, Question(self._text(x)), Question(self._empty(x)),
            self._branch(x, x.c2w), self._branch(x, nowhere),
        )  # fmt: skip
        eps_pretrained = guided(cond, uncond, self.config.guidance_scale)
        return esd_grad(eps_pretrained, lora, lora_free, x.w_t, self.config.entropy_weight)

    def usd(self, x: Noised, generator: torch.Generator) -> Float[Tensor, "batch c h w"]:
        """Alg. 1, lines 4 and 5: VSD, and the way to the wanted poses."""
        assert self.rectifiers, "USD without a rectifier is VSD."
        settings, schedule = self.rectifier_config, self.denoiser.schedule
        is_lazy = x.step < settings.lazy_steps
        latents_t = x.latents_t.clone().requires_grad_(not is_lazy)
        text = Question(self._text(x))
        with torch.set_grad_enabled(not (is_lazy or settings.separate_pass) and settings.jacobian):
            (eps_cond,) = self._ask(x, text, latents_t=latents_t)
        with torch.no_grad():
            eps_uncond, eps_lora = self._ask(x, Question(self._empty(x)), self._branch(x, x.c2w))
            eps_pretrained = guided(eps_cond, eps_uncond, self.config.guidance_scale)
            grad = vsd_grad(eps_pretrained, eps_lora, x.w_t)
        if settings.separate_pass and not is_lazy:
            eps = torch.randn(x.eps.shape, generator=generator, device=x.eps.device, dtype=x.eps.dtype)
            latents_t = schedule.add_noise(x.latents, eps, x.t).requires_grad_()
            with torch.set_grad_enabled(settings.jacobian):
                (eps_cond,) = self._ask(x, text, latents_t=latents_t)
        with torch.set_grad_enabled(not is_lazy):
            is_clean = settings.estimate == "clean"
            images = self.denoiser.decode(
                schedule.x0_hat(latents_t, eps_cond, x.t) if is_clean else latents_t
            )
            # Line 5, the update of the marginal, happens inside, after its use.
            azimuth_deg = None if x.cameras is None else x.cameras.azimuth_deg
            log_ratios = [r.log_ratio(images, x.t, azimuth_deg, generator) for r in self.rectifiers]
        if is_lazy:
            return grad
        (towards,) = torch.autograd.grad(torch.stack(log_ratios).sum(), latents_t)
        alpha_t, sigma_t = schedule.alpha_t(x.t), schedule.sigma_t(x.t)
        rectifying = settings.weight * rectifier_grad(alpha_t * towards, alpha_t, sigma_t, x.w_t)
        kept = clamped(rectifying, grad, settings.clamp, settings.clamp_limit)
        self.norms = {
            name: term.flatten(1).norm(dim=1)
            for name, term in {"denoiser": grad, "rectifier": rectifying, "rectifier_kept": kept}.items()
        }
        return grad + kept

    def _ask(self, x: Noised, *questions: Question, latents_t: Tensor | None = None) -> list[Tensor]:
        return self.denoiser.ask(x.latents_t if latents_t is None else latents_t, x.t, *questions)

    def _text(self, x: Noised) -> Float[Tensor, "batch tokens width"]:
        if x.cameras is None:
            return self.prompts.plain.expand(len(x.t), -1, -1)
        return self.prompts.seen_from(x.cameras.azimuth_deg, x.cameras.elevation_deg)

    def _empty(self, x: Noised) -> Float[Tensor, "batch tokens width"]:
        return self.prompts.empty.expand(len(x.t), -1, -1)

    def _branch(self, x: Noised, c2w: Tensor | None) -> Question:
        """The branch knows the prompt without a view's words: its camera says where it looks from."""
        return Question(self.prompts.plain.expand(len(x.t), -1, -1), True, c2w)
