"""The ten methods: the questions that each asks about noised renders. `optimize.py` turns answers into gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.device import tensor_floats
from recdreamer.distillation.gradients import clamped, clipped_scores
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.inversion import inverted
from recdreamer.distillation.noised import Noised
from recdreamer.distillation.perp_neg import perp_neg_eps, perp_neg_prompts
from recdreamer.distillation.view_embedding import disentangled
from recdreamer.graphs import Scalar
from recdreamer.parallel.team import rows_of_all
from recdreamer.parallel.view_shares import ALL_VIEWS, Share, drawn
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.denoiser import Denoiser, Question
from recdreamer.prior.diffusion import TinyEncoder, guided
from recdreamer.prior.lora import Lesson, LoraBranch
from recdreamer.prior.prompts import Prompts
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.shared.protocol import USD_METHODS, Method

LORA_METHODS = ("vsd", "esd", "usd")


@runtime_checkable
class AnyDenoiser(Protocol):
    """The denoiser that the methods require: `prior.denoiser.Denoiser`, or one with a closed form in the tests."""

    branch: LoraBranch | None

    @property
    def schedule(self) -> NoiseSchedule: ...

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Answers:
    """The terms of line 4 of Algorithm 1 for noised renders x_t."""

    eps_pretrained: Float[Tensor, "batch c h w"]
    """ε_pretrain(x_t, t, y), with classifier-free guidance."""
    eps_phi: Float[Tensor, "batch c h w"]
    """ε_φ(x_t, t, c, y) of the branch; methods without a branch use the sampled noise ε instead."""
    eps_text: Float[Tensor, "batch c h w"]
    """The pretrained model's estimate for the prompt alone; the clean estimate is computed from it."""
    w_t: Float[Tensor, "batch 1 1 1"]
    """ω(t)."""
    log_probs: tuple[Float[Tensor, "batch classes"], ...] = ()
    """log p_ξ(c|x_t, y) of each rectifier."""
    grad_log_r: Float[Tensor, "batch c h w"] | None = None
    """∇ log r with respect to x_t; None if nothing is rectified."""
    branch_grads: tuple[Tensor, ...] | None = None
    """Gradients of the lesson's loss for each parameter of the branch, if the lesson shared a backward pass."""


class Guide:
    """A distillation method bound to its denoiser, prompts and rectifiers."""

    def __init__(
        self,
        method: Method,
        denoiser: AnyDenoiser,
        prompts: Prompts,
        config: GuidanceConfig,
        rectifiers: Sequence[Rectifier] = (),
        rectifier_config: RectifierConfig | None = None,
        encoder: TinyEncoder | None = None,
    ) -> None:
        """`encoder` encodes the renders instead of the prior's own."""
        self.method: Method = method
        self.denoiser, self.prompts, self.config = denoiser, prompts, config
        self.rectifiers, self.rectifier_config = rectifiers, rectifier_config or RectifierConfig()
        self.encoder = encoder
        self.progress = Scalar(0.0, prompts.plain.device)

    def case(self, step: int, progress: float) -> str:
        """What a step asks, where that depends on the time. Steps of one case differ in their numbers alone."""
        if self.method in USD_METHODS and step < self.rectifier_config.lazy_steps:
            return "lazy"
        if self.method == "sds_bridge" and progress >= self.config.bridge_from:
            return "bridge"
        return ""

    def begin(self, progress: float) -> None:
        """Set the numbers that change with time; before a recorded step is replayed."""
        self.progress.set(progress)

    def ask(self, x: Noised, generator: torch.Generator, lesson: Lesson | None = None) -> Answers:
        """The answers that the method needs. Changes no state: asking twice gives the same answers.

        The branch's `lesson` is answered along with them where that saves a pass.
        """
        match self.method:
            case "usd":
                return self._usd(x, generator, lesson)
            case "vsd":
                return self._vsd(x)
            case "esd":
                return self._esd(x)
            case "sds" | "debiased_sds":
                return self._sds(x)
            case "consdreamer":
                return self._consdreamer(x)
            case "sdi":
                return self._sds(self._inverted(x))
            case "usd_sdi":
                return self._usd(self._inverted(x), generator)
            case "perp_neg":
                return self._perp_neg(x)
            case "sds_bridge":
                return self._bridge(x) if self.case(x.step, x.progress) == "bridge" else self._sds(x)

    def clipped(self, denoising: Float[Tensor, "batch c h w"], x: Noised) -> Float[Tensor, "batch c h w"]:
        """The denoiser's term; Debiased-SDS clips its entries."""
        if self.method == "debiased_sds":
            self.begin(x.progress)
            return clipped_scores(denoising, self.config.clip_limits, self.progress.tensor)
        return denoising

    def weighted_and_limited(
        self,
        rectifying: Float[Tensor, "batch c h w"],
        denoising: Float[Tensor, "batch c h w"],
        share: Share = ALL_VIEWS,
    ) -> Float[Tensor, "batch c h w"]:
        """The rectifier's term, weighted and limited relative to the denoiser's (paper, B.3)."""
        settings = self.rectifier_config
        weighted = settings.weight * rectifying
        return clamped(weighted, denoising, settings.clamp, settings.clamp_limit, share)

    def observe(
        self, x: Noised, log_probs: Sequence[Float[Tensor, "batch classes"]], share: Share = ALL_VIEWS
    ) -> None:
        """Alg. 1, line 5: update every rectifier with the classified views, those of other processes among them."""
        if not self.rectifiers:
            return
        t, azimuth_deg = rows_of_all(x.t, share), x.azimuth_deg
        azimuth_deg = None if azimuth_deg is None else rows_of_all(azimuth_deg, share)
        for rectifier, probs in zip(self.rectifiers, log_probs, strict=True):
            rectifier.observe(rows_of_all(probs, share), t, azimuth_deg)

    @torch.no_grad()
    def _sds(self, x: Noised) -> Answers:
        """DreamFusion (Poole et al. 2022)."""
        cond, uncond = self._answers(x, Question(self._text(x)), Question(self._empty(x)))
        return Answers(guided(cond, uncond, self.config.guidance_scale), x.eps, cond, x.w_t)

    @torch.no_grad()
    def _perp_neg(self, x: Noised) -> Answers:
        """SDS with the negative prompts of each view."""
        assert x.cameras is not None, "Perp-Neg needs the camera's azimuth."
        asked = perp_neg_prompts(
            self.prompts, x.cameras.azimuth_deg, x.cameras.elevation_deg,
            self.config.perp_neg_schedule, self.config.perp_neg_strength,
        )  # fmt: skip
        texts = (self._empty(x), asked.positive, *asked.negatives)
        uncond, positive, *negatives = self._answers(x, *map(Question, texts))
        eps = perp_neg_eps(uncond, positive, negatives, asked.weights, self.config.guidance_scale)
        return Answers(eps, x.eps, positive, x.w_t)

    @torch.no_grad()
    def _bridge(self, x: Noised) -> Answers:
        """SDS-Bridge, second stage (McAllister et al. 2024): the source prompt's estimate replaces the branch's.

        The released 3D code has neither ω(t) nor a guidance scale here, and weight 1. Both prompts have the words for
        the view, so that their difference is one of quality alone.
        """
        if x.cameras is None:
            source = self.prompts.sources[:1].expand(len(x.t), -1, -1)
        else:
            source = self.prompts.source_seen_from(x.cameras.azimuth_deg, x.cameras.elevation_deg)
        target, source = self._answers(x, Question(self._text(x)), Question(source))
        return Answers(target, source, target, torch.full_like(x.w_t, self.config.bridge_weight))

    @torch.no_grad()
    def _consdreamer(self, x: Noised) -> Answers:
        """SDS with the disentangled text embedding of ConsDreamer (Zhou et al. 2025), without its partial order loss."""
        assert x.cameras is not None, "ConsDreamer needs the camera's azimuth."
        text = disentangled(self.prompts, x.cameras.azimuth_deg, self.config.view_strength)
        cond, uncond = self._answers(x, Question(text), Question(self._empty(x)))
        return Answers(guided(cond, uncond, self.config.guidance_scale), x.eps, cond, x.w_t)

    @torch.no_grad()
    def _inverted(self, x: Noised) -> Noised:
        """SDI (Lukoianov et al. 2024): the noise that leads to this render, in the place of a random one.

        As in SDS the noise then stands for the branch, which is neither asked nor trained.
        """
        text, empty = Question(self._text(x)), Question(self._empty(x))

        def eps_of(latents_t: Tensor, t: Tensor) -> Tensor:
            cond, uncond = self.denoiser.ask(latents_t, t, text, empty)
            return guided(cond, uncond, self.config.inversion_scale)

        return inverted(x, eps_of, self.denoiser.schedule, self.config.inversion_steps)

    @torch.no_grad()
    def _vsd(self, x: Noised) -> Answers:
        """ProlificDreamer (Wang et al. 2023)."""
        cond, uncond, eps_phi = self._answers(
            x, Question(self._text(x)), Question(self._empty(x)), self._branch(x, x.c2w)
        )
        return Answers(guided(cond, uncond, self.config.guidance_scale), eps_phi, cond, x.w_t)

    @torch.no_grad()
    def _esd(self, x: Noised) -> Answers:
        """ESD (Wang et al. 2024): the branch's estimates with and without a camera, mixed by λ.

        λ = 0 is VSD; in threestudio this is classifier-free guidance of the branch with scale 1 - λ. Camera dropout
        trains the branch for views without a camera.
        """
        nowhere = None if x.c2w is None else torch.zeros_like(x.c2w)
        cond, uncond, eps_phi, eps_phi_free = self._answers(
            x, Question(self._text(x)), Question(self._empty(x)),
            self._branch(x, x.c2w), self._branch(x, nowhere),
        )  # fmt: skip
        share = self.config.entropy_weight
        mixed = share * eps_phi_free + (1 - share) * eps_phi
        return Answers(guided(cond, uncond, self.config.guidance_scale), mixed, cond, x.w_t)

    def _usd(self, x: Noised, generator: torch.Generator, lesson: Lesson | None = None) -> Answers:
        """VSD's questions, and the classification of the clean estimate with its gradient (paper, Sec. 3.3).

        On SDI (`usd_sdi`) there is no branch: the noise of the inversion stands for its answer.
        """
        assert self.rectifiers, "USD without a rectifier is VSD."
        settings, schedule = self.rectifier_config, self.denoiser.schedule
        is_lazy = self.case(x.step, x.progress) == "lazy"
        text, latents_t, eps_text = Question(self._text(x)), x.latents_t, None
        with torch.no_grad():
            branch = () if self.method == "usd_sdi" else (self._branch(x, x.c2w),)
            eps_uncond, *of_branch = self._answers(x, Question(self._empty(x)), *branch)
            eps_phi = of_branch[0] if of_branch else x.eps
            if settings.separate_pass and not is_lazy:
                (eps_text,) = self._answers(x, text)
                eps = drawn(torch.randn, tuple(x.eps.shape), generator, x.eps.dtype)
                latents_t = schedule.add_noise(x.latents, eps, x.t)
        latents_t, losses, learning = latents_t.clone().requires_grad_(not is_lazy), [], []
        eps_empty: list[Tensor] = []
        with_gradient, denoiser = settings.jacobian and not is_lazy, self.denoiser
        is_guided = settings.estimate_guidance != 1
        is_shared = lesson is not None and with_gradient and not is_guided
        if is_shared and lesson is not None and isinstance(denoiser, Denoiser) and denoiser.branch:
            # The forward and backward passes that the rectifier needs anyway take the lesson along.
            eps_read, loss = denoiser.ask_beside(latents_t, x.t, text, lesson)
            losses, learning = [loss], denoiser.branch.learning()
        else:
            with torch.set_grad_enabled(with_gradient):
                empty = (Question(self._empty(x)),) if is_guided else ()
                eps_read, *eps_empty = self._answers(x, text, *empty, latents_t=latents_t)
        eps_text = eps_read.detach() if eps_text is None else eps_text
        if is_guided:
            eps_read = guided(eps_read, eps_empty[0], settings.estimate_guidance)
        eps_pretrained = guided(eps_text, eps_uncond, self.config.guidance_scale)
        with torch.set_grad_enabled(not is_lazy), self._rectifiers_precision():
            is_clean = settings.estimate == "clean"
            images = self.denoiser.decode(
                schedule.x0_hat(latents_t, eps_read, x.t) if is_clean else latents_t
            )
            readings = [r.log_ratio(images, x.t, x.azimuth_deg, generator) for r in self.rectifiers]
        grad_log_r, branch_grads = None, []
        if not is_lazy:
            log_r = torch.stack([log_ratio for log_ratio, _ in readings])
            with self._rectifiers_precision():
                grad_log_r, *branch_grads = torch.autograd.grad(
                    [log_r.sum(), *losses], [latents_t, *learning]
                )
        log_probs = tuple(log_probs.detach() for _, log_probs in readings)
        return Answers(
            eps_pretrained, eps_phi, eps_text, x.w_t, log_probs, grad_log_r, tuple(branch_grads) or None
        )

    def _rectifiers_precision(self) -> AbstractContextManager[None]:
        """The extractor works in float32; beside a prior in half precision its products may take tensor cores."""
        prior = self.denoiser.prior if isinstance(self.denoiser, Denoiser) else None
        return tensor_floats(prior is not None and prior.unet.dtype in (torch.bfloat16, torch.float16))

    def _answers(self, x: Noised, *questions: Question, latents_t: Tensor | None = None) -> list[Tensor]:
        return self.denoiser.ask(x.latents_t if latents_t is None else latents_t, x.t, *questions)

    def _text(self, x: Noised) -> Float[Tensor, "batch tokens width"]:
        if x.cameras is None:
            return self.prompts.plain.expand(len(x.t), -1, -1)
        return self.prompts.seen_from(x.cameras.azimuth_deg, x.cameras.elevation_deg)

    def _empty(self, x: Noised) -> Float[Tensor, "batch tokens width"]:
        return self.prompts.empty.expand(len(x.t), -1, -1)

    def _branch(self, x: Noised, c2w: Tensor | None) -> Question:
        """The branch gets the prompt without view words, because it gets the camera."""
        return Question(self.prompts.plain.expand(len(x.t), -1, -1), True, c2w)
