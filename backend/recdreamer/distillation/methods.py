"""The seven methods: what each asks the denoiser about noised renders, and the gradient it makes of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.distillation.gradients import (
    bridge_grad,
    clamped,
    clipped_scores,
    esd_grad,
    rectifier_grad,
    sds_grad,
    vsd_grad,
)
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.noised import Noised
from recdreamer.distillation.perp_neg import perp_neg_eps, perp_neg_prompts
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.denoiser import Question
from recdreamer.prior.diffusion import guided
from recdreamer.prior.lora import LoraBranch
from recdreamer.prior.prompts import Prompts
from recdreamer.prior.schedule import NoiseSchedule
from recdreamer.protocol import Method

LORA_METHODS = ("vsd", "esd", "usd")


@runtime_checkable
class AnyDenoiser(Protocol):
    """What the methods need of a denoiser: `prior.denoiser.Denoiser`, or one with a closed form in the tests."""

    branch: LoraBranch | None

    @property
    def schedule(self) -> NoiseSchedule: ...

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]: ...

    def decode(self, latents: Tensor) -> Tensor: ...


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
