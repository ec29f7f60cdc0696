"""SDI, USD on SDI and ConsDreamer's embedding against what can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recdreamer.distillation.inversion import inverted
from recdreamer.distillation.noised import Noised, add_noise
from recdreamer.distillation.view_embedding import disentangled, projection
from recdreamer.optimize import distillation_grad
from recdreamer.prior.denoiser import Question
from recdreamer.prior.prompts import Prompts, ViewConfig
from recdreamer.prior.schedule import NoiseSchedule

from .recorded import SCHEDULE, cameras
from .test_questions import SpyRectifier, generator, guide_of, noised

T = torch.tensor([150, 620])


def clean_schedule() -> NoiseSchedule:
    """No noise at all at t = 0."""
    return NoiseSchedule(torch.cos(torch.linspace(0, 1.5, 1001, dtype=torch.float64)).square(), "epsilon")


def test_inversion_of_a_gaussian_is_the_product_of_its_steps() -> None:
    """Of data with unit variance eps = sigma_t x_t, and a step from angle a to b multiplies by cos(b - a)."""
    schedule, t = clean_schedule(), torch.tensor([800])
    x_0 = torch.randn(1, 2, 3, 3, generator=generator(), dtype=torch.float64)
    x = add_noise(x_0, t, None, 0, 1, schedule, generator())
    found = inverted(x, lambda latents_t, now: schedule.sigma_t(now) * latents_t, schedule, 4)
    assert torch.allclose(found.latents_t, math.cos(1.5 * 0.8 / 4) ** 4 * x_0)
    assert torch.allclose(schedule.add_noise(x_0, found.eps, t), found.latents_t)
    # Many steps are the exact flow, in which a Gaussian stays as it is.
    many = inverted(x, lambda latents_t, now: schedule.sigma_t(now) * latents_t, schedule, 800)
    assert torch.allclose(many.latents_t, x_0, atol=1e-3 * float(x_0.abs().max()))


def test_inversion_of_any_gaussian_is_its_probability_flow() -> None:
    """Of data N(m, s²): eps = sigma (x - alpha m) / (alpha² s² + sigma²), and the flow takes x_0 to
    alpha m + √(alpha² s² + sigma²) (x_0 - m) / s. The steps' error falls as their number."""
    schedule, t, m, s = clean_schedule(), torch.tensor([700]), 0.6, 0.4
    x_0 = torch.randn(1, 2, 3, 3, generator=generator(), dtype=torch.float64)
    x = add_noise(x_0, t, None, 0, 1, schedule, generator())

    def variance(now: Tensor) -> Tensor:
        return (schedule.alpha_t(now) * s) ** 2 + schedule.sigma_t(now) ** 2

    def eps_of(latents_t: Tensor, now: Tensor) -> Tensor:
        return schedule.sigma_t(now) * (latents_t - schedule.alpha_t(now) * m) / variance(now)

    exact = schedule.alpha_t(t) * m + variance(t).sqrt() * (x_0 - m) / s
    errors = [(inverted(x, eps_of, schedule, n).latents_t - exact).abs().max().item() for n in (70, 140, 700)]
    assert errors[2] < 0.01 * exact.abs().max().item() and errors[0] / errors[1] == pytest.approx(2, rel=0.15)


def test_every_view_is_inverted_to_its_own_timestep() -> None:
    x, seen = noised(), []

    def eps_of(latents_t: Tensor, now: Tensor) -> Tensor:
        seen.append(now.tolist())
        return torch.zeros_like(latents_t)

    found = inverted(x, eps_of, SCHEDULE, 2)
    assert seen == [[0, 0], [75, 310]]
    expected = SCHEDULE.alpha_t(T) / SCHEDULE.alpha_t(torch.tensor([0, 0])) * x.latents
    assert torch.allclose(found.latents_t, expected, atol=1e-5)
    assert found.w_t is x.w_t and found.cameras is x.cameras


class OneImage:
    """The exact denoiser of a prior that knows a single picture, whatever is asked."""

    def __init__(self, picture: Tensor) -> None:
        self.branch, self.schedule, self.picture = None, SCHEDULE, picture

    def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]:
        eps = (latents_t - SCHEDULE.alpha_t(t) * self.picture) / SCHEDULE.sigma_t(t)
        return [eps.clone() for _ in questions]

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3]


@pytest.mark.parametrize("seed", [1, 2])
def test_sdi_pulls_to_the_picture_without_any_randomness(seed: int) -> None:
    """The noise cancels: the gradient is omega alpha/sigma (x_0 - m), where that of SDS varies with its noise."""
    picture = torch.full((1, 4, 3, 3), 0.3)
    guide = guide_of("sdi")
    guide.denoiser = OneImage(picture)
    x = noised()
    x = add_noise(x.latents, T, x.cameras, 0, 10, SCHEDULE, torch.Generator().manual_seed(seed))
    grad = distillation_grad(guide, x, guide.ask(x, generator()))
    wanted = x.w_t * SCHEDULE.alpha_t(T) / x.sigma_t * (x.latents - picture)
    assert torch.allclose(grad, wanted, atol=2e-4)


def test_the_inversion_is_guided_by_its_own_scale() -> None:
    """With answers 0.02 for "front", 0.03 for "right" and 0.01 for nothing, each step's noise is known."""
    guide, x = guide_of("sdi", inversion_scale=-2.0, inversion_steps=1), noised()
    guide.ask(x, generator())
    asked = guide.denoiser.asked
    assert [one.texts for one in asked] == [("front", "right"), ("empty",) * 2] * 2
    assert torch.equal(asked[0].latents_t, x.latents)
    start = torch.tensor([0, 0])
    eps = (
        torch.tensor([0.01 - 2 * (0.02 - 0.01), 0.01 - 2 * (0.03 - 0.01)])
        .view(2, 1, 1, 1)
        .expand_as(x.latents)
    )
    clean = SCHEDULE.x0_hat(x.latents, eps, start)
    assert torch.allclose(asked[2].latents_t, SCHEDULE.add_noise(clean, eps, T), atol=1e-5)


def test_usd_on_sdi_asks_no_branch_and_rectifies() -> None:
    spy = SpyRectifier(0.5)
    guide = guide_of("usd_sdi", spy)
    x = noised()
    answers = guide.ask(x, generator())
    assert not any(one.of_branch for one in guide.denoiser.asked) and answers.branch_grads is None
    # Of a constant estimate the clean one is x_t / alpha_t up to a constant, and the picture its first three channels.
    assert answers.grad_log_r is not None
    assert torch.allclose(
        answers.grad_log_r[:, :3], (0.5 / SCHEDULE.alpha_t(T)).expand(2, 3, 3, 3), atol=1e-5
    )
    plain = guide_of("sdi")
    plain.denoiser = guide.denoiser
    assert torch.allclose(answers.eps_phi, plain.ask(x, generator()).eps_phi)
    guide.observe(x, answers.log_probs)
    assert len(spy.observed) == 1


def test_sdi_without_a_step_of_inversion_is_sds() -> None:
    """The noise stays random: the same questions, answers and gradient, bit by bit."""
    x, sdi, sds = noised(), guide_of("sdi", inversion_steps=0), guide_of("sds")
    grads = [distillation_grad(guide, x, guide.ask(x, generator())) for guide in (sdi, sds)]
    assert torch.equal(*grads) and bool(grads[0].any())
    assert [one.texts for one in sdi.denoiser.asked] == [one.texts for one in sds.denoiser.asked]
    inverted_ones = distillation_grad(guide_of("sdi"), x, guide_of("sdi").ask(x, generator()))
    assert not torch.allclose(inverted_ones, grads[1])


def test_usd_on_sdi_with_a_flat_rectifier_is_sdi() -> None:
    x, flat, plain = noised(), guide_of("usd_sdi", SpyRectifier(0.0)), guide_of("sdi")
    grads = [distillation_grad(guide, x, guide.ask(x, generator())) for guide in (flat, plain)]
    assert torch.allclose(*grads, atol=1e-6)
    steep = guide_of("usd_sdi", SpyRectifier(0.5))
    assert not torch.allclose(distillation_grad(steep, x, steep.ask(x, generator())), grads[1], atol=1e-3)


def test_usd_on_sdi_without_inversion_is_sds_and_the_rectifier() -> None:
    """What it adds to SDS is the rectifier's term alone, which it takes at the same x_t."""
    x, rectified, plain = noised(), guide_of("usd_sdi", SpyRectifier(0.5), inversion_steps=0), guide_of("sds")
    answers, of_sds = rectified.ask(x, generator()), plain.ask(x, generator())
    assert torch.allclose(answers.eps_pretrained, of_sds.eps_pretrained) and answers.eps_phi is x.eps
    assert answers.grad_log_r is not None and answers.grad_log_r.any()


def embedded(**views: list[float]) -> Prompts:
    rows = torch.tensor(
        [[views.get(name, [2.0, 0.0, 0.0])] for name in ("front", "right", "back", "left", "top")]
    )
    plain = torch.tensor([[[2.0, 0.0, 0.0]]])
    return Prompts(plain, torch.zeros(1, 1, 3), rows, torch.zeros(5, 1, 3), ViewConfig())


def test_the_view_is_mixed_in_as_far_as_the_camera_has_turned() -> None:
    """Words move "right" by (·, 3, 0) and "back" by (·, 0, 4); what they add along the prompt changes nothing."""
    prompts = embedded(right=[5.0, 3.0, 0.0], left=[1.0, -3.0, 0.0], back=[-2.0, 0.0, 4.0])
    azimuth_deg = torch.tensor([0.0, 45.0, 90.0, 135.0, 180.0, 270.0, 330.0])
    found = disentangled(prompts, azimuth_deg, 1.0)[:, 0]
    wanted = [[2, 0, 0], [2, 1.5, 0], [2, 3, 0], [2, 1.5, 2], [2, 0, 4], [2, -3, 0], [2, -1, 0]]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float32))
    half = disentangled(prompts, azimuth_deg, 0.5)[:, 0]
    assert torch.allclose(half - found[:1], (found - found[:1]) / 2)


def test_what_a_view_adds_is_at_right_angles_to_the_prompt() -> None:
    plain, seen = torch.randn(2, 1, 7, 5, generator=generator())
    added = seen - projection(seen, plain)
    assert (added * plain).sum(-1).abs().max() < 1e-5
    assert torch.equal(projection(plain, torch.zeros_like(plain)), torch.zeros_like(plain))


def test_consdreamer_asks_with_the_mixed_embedding() -> None:
    guide, asked = guide_of("consdreamer", view_strength=1.0), []
    prompts = embedded(right=[5.0, 3.0, 0.0])
    guide.prompts = prompts

    class Listening(OneImage):
        def ask(self, latents_t: Tensor, t: Tensor, *questions: Question) -> list[Tensor]:
            asked.extend(question.text for question in questions)
            return super().ask(latents_t, t, *questions)

    guide.denoiser = Listening(torch.zeros(1, 4, 3, 3))
    x = noised()
    answers = guide.ask(x, generator())
    assert torch.allclose(asked[0], disentangled(prompts, cameras(5.0, 95.0).azimuth_deg, 1.0))
    assert torch.equal(asked[1], torch.zeros(2, 1, 3)) and answers.eps_phi is x.eps


def test_a_picture_without_a_camera_has_no_view_to_mix_in() -> None:
    x = noised()
    with pytest.raises(AssertionError, match="azimuth"):
        guide_of("consdreamer").ask(
            Noised(x.latents, x.latents_t, x.eps, x.t, x.sigma_t, x.w_t, None, 0, 0.0), generator()
        )
