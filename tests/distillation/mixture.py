"""Mixtures of Gaussians with class labels: what the guidance approximates elsewhere is exact here.

For x_0 ~ Σ_k w_k N(m_k, s_k² I) and x_t = alpha_t · x_0 + sigma_t · eps, every density, posterior and noise
estimate has a closed form. Points are latents of shape (batch, 2, 1, 1) in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recdreamer.cameras import Cameras
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.optimize import distillation_grad
from recdreamer.pose.rectifier import Rectifier
from recdreamer.prior.denoiser import Question
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.prior.schedule import NoiseSchedule, Prediction
from recdreamer.shared.protocol import Method

Answer = Callable[[Tensor, Tensor], Tensor]
"""Noise estimate of a branch for (x_t, t)."""

DOUBLE = torch.float64
NO_NOISE = (torch.ones(1, 1, 1, 1, dtype=DOUBLE), torch.zeros(1, 1, 1, 1, dtype=DOUBLE))
"""alpha and sigma of the clean data."""


def stable_diffusion_schedule(prediction: Prediction = "epsilon") -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=DOUBLE) ** 2
    return NoiseSchedule((1 - betas).cumprod(0), prediction)


SCHEDULE = stable_diffusion_schedule()


_SIGNAL = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=DOUBLE).square().neg().log1p().cumsum(0).exp()


def rates(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t, from the betas and not through the schedule under test."""
    signal = _SIGNAL[t][:, None, None, None]
    return signal.sqrt(), (1 - signal).sqrt()


@dataclass(frozen=True)
class Mixture:
    """Gaussian components, each of one class. A deviation of 0 is a point, which only noise makes a density."""

    weights: Tensor
    means: Tensor
    deviations: Tensor
    classes: Tensor

    @staticmethod
    def of(*components: tuple[float, tuple[float, float], float, int]) -> Mixture:
        """From (weight, mean, deviation, class) of each component; the weights add up to 1."""
        weights, means, deviations, classes = zip(*components, strict=True)
        numbers = [torch.tensor(values, dtype=DOUBLE) for values in (weights, means, deviations)]
        return Mixture(*numbers, torch.tensor(classes))

    @staticmethod
    def around(points: Tensor) -> Mixture:
        """The points themselves, all alike: with noise on them this is the exact density of particles."""
        n = len(points)
        zeros = torch.zeros(n, dtype=DOUBLE)
        return Mixture(torch.full_like(zeros, 1 / n), points.detach().flatten(1), zeros, zeros.long())

    @property
    def num_classes(self) -> int:
        return int(self.classes.max()) + 1

    @property
    def class_probs(self) -> Tensor:
        """p(c)."""
        return torch.zeros(self.num_classes, dtype=DOUBLE).index_add(0, self.classes, self.weights)

    def rectified(self, target: Tensor) -> Mixture:
        """Σ_c f(c) p(x|c)."""
        return replace(self, weights=self.weights * (target / self.class_probs)[self.classes])

    def log_parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log of w_k N(x; alpha m_k, alpha² s_k² + sigma²), (batch, components)."""
        alpha, variance = alpha.flatten(1), self._variance(alpha, sigma)
        square = (x.flatten(1)[:, None] - alpha[..., None] * self.means).square().sum(-1)
        return self.weights.log() - square / (2 * variance) - (2 * torch.pi * variance).log()

    def log_p(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.log_parts(x, alpha, sigma).logsumexp(1)

    def log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p(c) p_t(x|c), (batch, classes)."""
        parts = self.log_parts(x, alpha, sigma)
        return torch.stack([parts[:, self.classes == c].logsumexp(1) for c in range(self.num_classes)], 1)

    def log_posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p(c|x_t)."""
        return self.log_joint(x, alpha, sigma).log_softmax(1)

    def score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """∇ log p_t(x), by hand."""
        pull = self.log_parts(x, alpha, sigma).softmax(1) / self._variance(alpha, sigma)
        return (alpha.flatten(1) * (pull @ self.means) - x.flatten(1) * pull.sum(1, keepdim=True)).view_as(x)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[eps|x_t] = -sigma_t ∇ log p_t(x_t), what a perfect network answers."""
        alpha, sigma = rates(t)
        return -sigma * self.score(x_t, alpha, sigma)

    def x0_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0|x_t] as the mean of each component's own posterior mean; no noise estimate in it."""
        alpha, sigma = (rate.flatten(1) for rate in rates(t))
        share = self.log_parts(x_t, *rates(t)).softmax(1)
        gain = alpha * self.deviations**2 / (alpha**2 * self.deviations**2 + sigma**2)
        means = self.means + gain[..., None] * (x_t.flatten(1)[:, None] - alpha[..., None] * self.means)
        return (share[..., None] * means).sum(1).view_as(x_t)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
        points = self.means[component] + self.deviations[component][:, None] * noise
        return points[..., None, None]

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.flatten(1) ** 2 * self.deviations**2 + sigma.flatten(1) ** 2


class MixtureDenoiser:
    """Answers with the mixtures that the words name; satisfies `AnyDenoiser`.

    The width of a text is the number of mixtures, its one token holds a share of each: (0, 1) is the second,
    (½, ½) the mean of both answers. `q` answers for the branch, `q_free` where the camera is all zeros.
    """

    def __init__(
        self,
        *mixtures: Mixture,
        q: Answer | None = None,
        q_free: Answer | None = None,
        schedule: NoiseSchedule = SCHEDULE,
    ) -> None:
        self.mixtures, self.q, self.q_free, self.schedule = mixtures, q, q_free, schedule
        self.branch = None

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]:
        return [self._answer(latents_t, t, question) for question in questions]

    def decode(self, latents: Tensor) -> Tensor:
        """A picture of one pixel: the point in red and green."""
        return torch.cat([latents, torch.zeros_like(latents[:, :1])], 1)

    def _answer(self, latents_t: Tensor, t: Tensor, question: Question) -> Tensor:
        if question.of_branch:
            is_nowhere = question.c2w is not None and not bool(question.c2w.any())
            answer = self.q_free if is_nowhere else self.q
            assert answer is not None, "The branch was asked, and none was given."
            return answer(latents_t, t)
        assert question.c2w is None
        shares = question.text[:, 0].unbind(1)
        answers = [mixture.eps(latents_t, t) for mixture in self.mixtures]
        return sum(share[:, None, None, None] * eps for share, eps in zip(shares, answers, strict=True))


def words(
    width: int, plain: int = 0, empty: int = 0, views: tuple[int, ...] = (), source: int = 0
) -> Prompts:
    """Prompts by the number of the mixture that each one means; `views` in the order of VIEWS."""
    rows = torch.eye(width, dtype=DOUBLE)[:, None]
    seen = rows[list(views or (plain,) * 5)]
    return Prompts(rows[plain][None], rows[empty][None], seen, rows[[source] * 5], ViewConfig())


class ExactClassifier(nn.Module):
    """p(c|x_0) of a mixture, or p(c|x_t) once `t` is set."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture, self.t = mixture, None
        self.labels = tuple("abcdefgh"[: mixture.num_classes])

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.mixture.log_posterior(images[:, :2], *(NO_NOISE if self.t is None else rates(self.t)))


def rectifier_of(
    classifier: nn.Module, target: Tensor | None = None, marginal: Tensor | None = None, n_ema: int = 100
) -> Rectifier:
    """In float64. Without a target uniform; with a marginal this one for good, without it the running one."""
    rectifier = Rectifier(classifier, "marginal", None, num_intervals=10, n_ema=n_ema)
    rectifier.marginal.double()
    classes = len(classifier.labels)
    uniform = torch.full((classes,), 1 / classes, dtype=DOUBLE)
    rectifier.target = uniform if target is None else target
    rectifier.marginal.probs[:] = uniform if marginal is None else marginal
    rectifier.is_running = marginal is None
    return rectifier


def noised(
    latents: Tensor,
    t: Tensor | int,
    seed: int = 0,
    cameras: Cameras | None = None,
    step: int = 0,
    num_steps: int = 1000,
) -> Noised:
    """The real `add_noise` with Stable Diffusion's schedule."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.as_tensor(t).expand(len(latents))
    return add_noise(latents, t, cameras, step, num_steps, SCHEDULE, generator)


def difference_quotient(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 5e-4) -> Tensor:
    """Central differences of fourth order of one value for each point."""
    slopes = []
    for unit in torch.eye(x[0].numel(), dtype=x.dtype):
        move = step * unit.view_as(x[0])
        near, far = (function(x + k * move) - function(x - k * move) for k in (1, 2))
        slopes.append((8 * near - far) / (12 * step))
    return torch.stack(slopes, 1).view_as(x)


P = Mixture.of(
    (0.5, (0.0, 1.6), 0.4, 0), (0.2, (0.5, 1.0), 0.3, 0), (0.2, (1.4, -0.8), 0.5, 1), (0.1, (-1.4, -0.8), 0.3, 2)
)  # fmt: skip
"""The prior: classes of 0.7, 0.2 and 0.1."""
Q = Mixture.of((0.6, (0.3, 0.9), 0.6, 0), (0.4, (-0.9, 0.2), 0.8, 0))
"""What the renders look like, as the branch knows them."""
OTHER = Mixture.of((0.3, (0.0, -1.0), 0.9, 0), (0.7, (0.8, 0.4), 0.7, 0))
TARGET = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
TIMES = torch.tensor([1, 20, 250, 500, 750, 980])
EXACT = RectifierConfig(weight=1.0, clamp="none", estimate="noisy")
"""Eq. 13 as printed, with p(c|x_t) itself."""


def points(n: int = 6, seed: int = 0) -> Tensor:
    return 1.2 * torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def worst(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the larger of 1 and the largest entry."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1.0))


def grad_of(guide: Guide, x: Noised) -> Tensor:
    """Lines 4 and 5 of Algorithm 1, as a step goes through them."""
    answers = guide.ask(x, generator())
    grad = distillation_grad(guide, x, answers)
    guide.observe(x, answers.log_probs)
    return grad


def as_method(guide: Guide, method: Method) -> Guide:
    """Another method with the same networks and prompt."""
    return Guide(method, guide.denoiser, guide.prompts, guide.config)


def guide(method: Method, q: Mixture | None = Q, scale: float = 1.0, **settings: float) -> Guide:
    """Of P, with Q as the branch, OTHER as the branch without a camera and OTHER as the empty prompt."""
    denoiser = MixtureDenoiser(P, OTHER, q=q and q.eps, q_free=OTHER.eps)
    return Guide(method, denoiser, words(2, empty=1), GuidanceConfig(guidance_scale=scale, **settings))


def usd_guide(
    config: RectifierConfig, t: Tensor, target: Tensor | None = TARGET, prior: Mixture = P
) -> Guide:
    """With the marginal fixed at the true p(c)."""
    classifier = ExactClassifier(prior)
    classifier.t = t if config.estimate == "noisy" else None
    rectifier = rectifier_of(classifier, target, prior.class_probs)
    denoiser = MixtureDenoiser(prior, q=Q.eps)
    return Guide("usd", denoiser, words(1), GuidanceConfig(guidance_scale=1.0), [rectifier], config)
