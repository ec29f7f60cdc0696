"""What each method asks of the networks, and how the settings weigh the answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.optimize import distillation_grad, timesteps_of
from recdreamer.shared.protocol import Method

from .recorded import SCHEDULE, RecordingDenoiser, answer, cameras, prompts

SCALE = 5.0
T = torch.tensor([150, 620])
CAMERAS = cameras(5.0, 95.0)
WORDS = ("front", "right")
SOURCES = tuple(f"source, {word}" for word in WORDS)


def noised(step: int = 0, num_steps: int = 10) -> Noised:
    """Two views, each at a timestep of its own."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 3, generator=generator)
    return add_noise(latents, T, CAMERAS, step, num_steps, SCHEDULE, generator)


class SpyRectifier:
    """log r is `slope` times the sum of the picture; remembers what it was given."""

    def __init__(self, slope: float = 1.0) -> None:
        self.slope, self.given, self.observed = slope, [], []
        self.log_probs = torch.log(torch.tensor([[0.7, 0.3], [0.2, 0.8]])) - slope

    def log_ratio(
        self, images: Tensor, t: Tensor, azimuth_deg: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.given.append((images.detach(), t, azimuth_deg, generator))
        return self.slope * images.sum((1, 2, 3)), self.log_probs

    def observe(self, log_probs: Tensor, t: Tensor, azimuth_deg: Tensor | None) -> None:
        self.observed.append((log_probs, t, azimuth_deg))


def guide_of(
    method: Method, *rectifiers: SpyRectifier, config: RectifierConfig | None = None, **settings: object
) -> Guide:
    guidance = GuidanceConfig(**{"guidance_scale": SCALE} | settings)
    guide = Guide(method, RecordingDenoiser(), prompts(), guidance, (), config)
    guide.rectifiers = rectifiers
    return guide


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("sds", [(WORDS, False, None), (("empty",) * 2, False, None)]),
        ("debiased_sds", [(WORDS, False, None), (("empty",) * 2, False, None)]),
        ("vsd", [(WORDS, False, None), (("empty",) * 2, False, None), (("plain",) * 2, True, "its own")]),
        ("usd", [(("empty",) * 2, False, None), (("plain",) * 2, True, "its own"), (WORDS, False, None)]),
        (
            "esd",
            [
                (WORDS, False, None),
                (("empty",) * 2, False, None),
                (("plain",) * 2, True, "its own"),
                (("plain",) * 2, True, "nowhere"),
            ],
        ),
        ("sds_bridge", [(WORDS, False, None), (SOURCES, False, None)]),
    ],
)
def test_each_network_is_asked_with_its_text_its_camera_and_the_noise_of_its_view(
    method: Method, wanted: list
) -> None:
    """The branch gets the prompt without words for the view, and the camera instead of them."""
    rectifiers = (SpyRectifier(),) if method == "usd" else ()
    guide, x = guide_of(method, *rectifiers, bridge_from=0.0), noised()
    guide.ask(x, generator())
    asked = guide.denoiser.asked
    assert [(one.texts, one.of_branch) for one in asked] == [entry[:2] for entry in wanted]
    for one, (_, _, camera) in zip(asked, wanted, strict=True):
        assert torch.equal(one.latents_t, x.latents_t) and torch.equal(one.t, T)
        if camera is None:
            assert one.c2w is None
        else:
            assert torch.equal(one.c2w, CAMERAS.c2w if camera == "its own" else torch.zeros(2, 4, 4))


def test_pictures_without_a_camera_are_asked_with_the_prompt_alone() -> None:
    x = noised()
    guide = guide_of("vsd")
    guide.ask(Noised(x.latents, x.latents_t, x.eps, x.t, x.sigma_t, x.w_t, None, 0, 0.0), generator())
    assert [one.texts[0] for one in guide.denoiser.asked] == ["plain", "empty", "plain"]
    assert guide.denoiser.asked[2].c2w is None


@pytest.mark.parametrize("method", ["sds", "vsd", "usd", "esd"])
def test_the_guidance_scale_is_the_pretrained_models_and_not_the_branchs(method: Method) -> None:
    guide = guide_of(method, *((SpyRectifier(),) if method == "usd" else ()))
    x = noised()
    answers = guide.ask(x, generator())
    text = torch.tensor([answer(name) for name in WORDS])
    guided = answer("empty") + SCALE * (text - answer("empty"))
    assert torch.allclose(answers.eps_pretrained[:, 0, 0, 0], guided)
    assert torch.allclose(answers.eps_text[:, 0, 0, 0], text)
    if method == "sds":
        assert torch.equal(answers.eps_phi, x.eps)
    else:
        assert torch.allclose(answers.eps_phi, torch.tensor(answer("plain", of_branch=True)))
    assert torch.allclose(answers.w_t, x.sigma_t.square())


def test_the_second_stage_of_sds_bridge_goes_from_its_source_to_the_prompt() -> None:
    for weight in (1.0, 3.0):
        guide = guide_of("sds_bridge", bridge_from=0.5, bridge_weight=weight)
        x = noised(step=5)
        grad = distillation_grad(guide, x, guide.ask(x, generator()))
        target, source = (torch.tensor([answer(name) for name in names]) for names in (WORDS, SOURCES))
        wanted = weight * (target - source)
        assert torch.allclose(grad, wanted[:, None, None, None].expand_as(grad))
    earlier = guide_of("sds_bridge", bridge_from=0.6)
    assert torch.equal(earlier.ask(noised(step=5), generator()).eps_phi, noised(step=5).eps)


def test_the_rectifier_reads_the_clean_estimate_of_each_view() -> None:
    """Tweedie's, of the prompt's own estimate: at the view's timestep and azimuth, with the step's random numbers."""
    spy, x, drawn = SpyRectifier(), noised(), generator()
    guide = guide_of("usd", spy)
    guide.ask(x, drawn)
    ((images, t, azimuth_deg, passed),) = spy.given
    signal = SCHEDULE.alphas_cumprod[T][:, None, None, None]
    eps = torch.tensor([answer(name) for name in WORDS])[:, None, None, None]
    wanted = (x.latents_t - (1 - signal).sqrt() * eps) / signal.sqrt()
    assert torch.allclose(images, wanted[:, :3], atol=1e-6)
    assert torch.equal(t, T) and torch.equal(azimuth_deg, CAMERAS.azimuth_deg)
    assert passed is drawn, "without a generator the classifier would not perturb the picture"


def test_the_noisy_view_itself_is_read_if_that_is_asked_for() -> None:
    spy, x = SpyRectifier(), noised()
    guide_of("usd", spy, config=RectifierConfig(estimate="noisy")).ask(x, generator())
    assert torch.equal(spy.given[0][0], x.latents_t[:, :3])


def test_all_rectifiers_count_and_each_observes_its_own_views() -> None:
    """∂ log r/∂x_t of a sum over the clean estimate is 1/α_t, here for the sum of both slopes."""
    spies, x = (SpyRectifier(2.0), SpyRectifier(-0.5)), noised()
    guide = guide_of("usd", *spies)
    answers = guide.ask(x, generator())
    slope = 1.5 / SCHEDULE.alphas_cumprod[T].sqrt()
    assert answers.grad_log_r is not None
    assert torch.allclose(answers.grad_log_r[:, 0, 0, 0], slope)
    guide.observe(x, answers.log_probs)
    for spy in spies:
        ((log_probs, t, azimuth_deg),) = spy.observed
        assert torch.equal(log_probs, spy.log_probs)
        assert torch.equal(t, T) and torch.equal(azimuth_deg, CAMERAS.azimuth_deg)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_weight_multiplies_the_rectifiers_term(weight: float) -> None:
    """-ω σ_t ∇ log r, on top of VSD."""
    spy, x = SpyRectifier(), noised()
    guide = guide_of("usd", spy, config=RectifierConfig(weight=weight, clamp="none"))
    answers = guide.ask(x, generator())
    vsd = guide_of("vsd")
    term = distillation_grad(guide, x, answers) - distillation_grad(vsd, x, vsd.ask(x, generator()))
    wanted = -weight * (x.w_t * x.sigma_t / SCHEDULE.alpha_t(T)).expand(2, 3, 3, 3)
    assert torch.allclose(term[:, :3], wanted, rtol=1e-4) and term[:, 3].abs().max() < 1e-6


@pytest.mark.parametrize("limit", [0.25, 2.0])
def test_clamp_limit_is_the_largest_share_of_the_denoisers_norm(limit: float) -> None:
    spy, x = SpyRectifier(), noised()
    guide = guide_of("usd", spy, config=RectifierConfig(weight=1e6, clamp_limit=limit))
    vsd = guide_of("vsd")
    denoising = distillation_grad(vsd, x, vsd.ask(x, generator()))
    term = distillation_grad(guide, x, guide.ask(x, generator())) - denoising
    share = term.flatten(1).norm(dim=1) / denoising.flatten(1).norm(dim=1)
    assert share.tolist() == pytest.approx([limit, limit], rel=1e-4)


@pytest.mark.parametrize(("step", "bound"), [(0, 0.01), (5, 0.03), (10, 0.05)])
def test_clip_limits_bound_debiased_sds_from_the_first_step_to_the_last(step: int, bound: float) -> None:
    limits, x = (0.01, 0.05), noised(step)
    guide, plain = guide_of("debiased_sds", clip_limits=limits), guide_of("sds")
    grad = distillation_grad(guide, x, guide.ask(x, generator()))
    free = distillation_grad(plain, x, plain.ask(x, generator()))
    assert grad.abs().max().item() == pytest.approx(bound) and free.abs().max() > 0.1
    assert torch.allclose(grad, free.clamp(-bound, bound))


@pytest.mark.parametrize(
    ("settings", "step", "wanted"),
    [
        # T - T/n_i, and T/n_i at the end (paper, B.3).
        ({"schedule": "back_and_forth", "num_intervals": 2}, 0, (500, 980)),
        ({"schedule": "back_and_forth", "num_intervals": 5}, 0, (800, 980)),
        ({"schedule": "back_and_forth", "num_intervals": 5}, 99, (20, 200)),
        ({"schedule": "back_and_forth", "num_intervals": 1}, 0, (20, 980)),
        ({"schedule": "annealed", "anneal_at": 0.7}, 69, (20, 980)),
        ({"schedule": "annealed", "anneal_at": 0.7}, 70, (20, 500)),
        ({"schedule": "late", "late_until": 0.3}, 0, (20, 300)),
        ({"schedule": "uniform"}, 0, (20, 980)),
    ],
)
def test_a_step_draws_from_the_timesteps_that_the_settings_say(
    settings: dict, step: int, wanted: tuple[int, int]
) -> None:
    assert timesteps_of(GuidanceConfig(**settings), SCHEDULE, step, 100) == wanted
