"""The guidance on mixtures of Gaussians, where every answer is known: Tweedie, Theorems 1 and 2, each method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recdreamer.cameras import orbit_cameras
from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.distillation.noised import Noised
from recdreamer.prior.diffusion import guided

from .mixture import (
    DOUBLE,
    EXACT,
    NO_NOISE,
    OTHER,
    SCHEDULE,
    TARGET,
    TIMES,
    ExactClassifier,
    Mixture,
    MixtureDenoiser,
    P,
    Q,
    as_method,
    difference_quotient,
    generator,
    grad_of,
    guide,
    noised,
    points,
    rates,
    rectifier_of,
    stable_diffusion_schedule,
    usd_guide,
    words,
    worst,
)

# The closed forms themselves, and the noise schedule


def test_the_schedule_is_stable_diffusions() -> None:
    """First and last alphas_cumprod of the scaled-linear betas; SD's last is 0.0047."""
    alpha, sigma = rates(torch.tensor([0, 999]))
    assert alpha.flatten().square().tolist() == pytest.approx([0.99915, 0.0046601], abs=1e-6)
    t = torch.arange(1000)
    assert worst(SCHEDULE.alpha_t(t), rates(t)[0]) < 1e-14
    assert worst(SCHEDULE.sigma_t(t), rates(t)[1]) < 1e-12
    assert worst(alpha**2 + sigma**2, torch.ones_like(alpha)) < 1e-15


def test_the_score_is_the_slope_of_the_density() -> None:
    x = noised(points(), TIMES)
    alpha, sigma = rates(x.t)
    slope = difference_quotient(lambda y: P.log_p(y, alpha, sigma), x.latents_t)
    # Fourth-order differences with steps of 5e-4: about 1e-11 of truncation and rounding each.
    assert worst(P.score(x.latents_t, alpha, sigma), slope) < 1e-10


def test_tweedie_gives_the_posterior_mean() -> None:
    x = noised(points(), TIMES)
    assert (
        worst(SCHEDULE.x0_hat(x.latents_t, P.eps(x.latents_t, x.t), x.t), P.x0_mean(x.latents_t, x.t)) < 1e-12
    )


def test_noise_and_velocity_convert_both_ways() -> None:
    """v* = alpha E[eps|x_t] - sigma E[x_0|x_t]; and the true eps and x_0 of a draw give their own v."""
    schedule = stable_diffusion_schedule("v_prediction")
    x = noised(points(), TIMES)
    alpha, sigma = rates(x.t)
    eps, mean = P.eps(x.latents_t, x.t), P.x0_mean(x.latents_t, x.t)
    velocity = alpha * eps - sigma * mean
    assert worst(schedule.target_of(mean, eps, x.t), velocity) < 1e-12
    assert worst(schedule.eps_of(velocity, x.latents_t, x.t), eps) < 1e-12
    assert worst(schedule.eps_of(schedule.target_of(x.latents, x.eps, x.t), x.latents_t, x.t), x.eps) < 1e-12
    assert torch.equal(SCHEDULE.eps_of(eps, x.latents_t, x.t), eps)
    assert torch.equal(SCHEDULE.target_of(mean, eps, x.t), eps)


def test_guidance_of_nought_and_one() -> None:
    x = noised(points(), TIMES)
    cond, uncond = P.eps(x.latents_t, x.t), OTHER.eps(x.latents_t, x.t)
    assert torch.equal(guided(cond, uncond, 0.0), uncond)
    assert worst(guided(cond, uncond, 1.0), cond) < 1e-15
    assert worst(guided(cond, uncond, 7.5), 7.5 * cond - 6.5 * uncond) < 1e-14


# Theorems 1 and 2


def test_theorem_1() -> None:
    """p̃ = p Σ f/p(c) p(c|x) is Σ f(c) p(x|c), adds up to 1, and its classes have the shares f(c)."""
    x = points(50)
    ratio, _ = rectifier_of(ExactClassifier(P), TARGET, P.class_probs).log_ratio(
        MixtureDenoiser(P).decode(x), torch.zeros(50, dtype=torch.long), None, generator()
    )
    assert worst((P.log_p(x, *NO_NOISE) + ratio), P.rectified(TARGET).log_p(x, *NO_NOISE)) < 1e-12
    # The trapezoid rule is exact to rounding for smooth densities that vanish at the borders.
    axis = torch.linspace(-7, 7, 281, dtype=DOUBLE)
    grid = torch.cartesian_prod(axis, axis)[..., None, None]
    joint = P.rectified(TARGET).log_joint(grid, *NO_NOISE).exp().sum(0) * (axis[1] - axis[0]) ** 2
    assert worst(joint, TARGET) < 1e-12


@pytest.mark.parametrize("t", TIMES.tolist())
def test_theorem_2(t: int) -> None:
    """p(x_t) r(x_t) == Σ f(c) p_t(x_t|c), with p_t(c) = p(c) at every t."""
    x = noised(P.sample(50, generator(1)), t)
    classifier = ExactClassifier(P)
    classifier.t = x.t
    images = MixtureDenoiser(P).decode(x.latents_t)
    ratio, _ = rectifier_of(classifier, TARGET, P.class_probs).log_ratio(images, x.t, None, generator())
    density = (P.log_p(x.latents_t, *rates(x.t)) + ratio).exp()
    wanted = (P.log_joint(x.latents_t, *rates(x.t)).exp() / P.class_probs * TARGET).sum(1)
    assert ((density / wanted - 1).abs() < 1e-12).all()


def test_the_rectified_score_is_the_sum_of_both() -> None:
    """∇ log p̃ = ∇ log p + ∇ log r, where log r comes from the rectifier and both sides from differences, too."""
    x = noised(points(), TIMES)
    rectified = P.rectified(TARGET)
    classifier = ExactClassifier(P)
    classifier.t = x.t
    rectifier = rectifier_of(classifier, TARGET, P.class_probs)

    def log_ratio(latents_t: Tensor) -> Tensor:
        return rectifier.log_ratio(MixtureDenoiser(P).decode(latents_t), x.t, None, generator())[0]

    latents_t = x.latents_t.clone().requires_grad_()
    (towards,) = torch.autograd.grad(log_ratio(latents_t).sum(), latents_t)
    both = P.score(x.latents_t, *rates(x.t)) + towards
    assert worst(both, rectified.score(x.latents_t, *rates(x.t))) < 1e-12
    slope = difference_quotient(lambda y: rectified.log_p(y, *rates(x.t)), x.latents_t)
    assert worst(both, slope) < 1e-10


# SDS, VSD, ESD


def smoothed_score(mixture: Mixture, x: Tensor, t: int) -> Tensor:
    """E_eps ∇ log p_t(alpha x + sigma eps) of one point, by Gauss-Hermite quadrature in both directions."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(80))
    eps = torch.cartesian_prod(nodes, nodes)[..., None, None]
    share = torch.outer(weights, weights).flatten() / weights.sum() ** 2
    alpha, sigma = rates(torch.tensor([t]))
    return (share[:, None, None, None] * mixture.score(alpha * x + sigma * eps, alpha, sigma)).sum(0)


def test_quadrature_of_a_single_gaussian_is_its_closed_form() -> None:
    """E_eps ∇ log p_t = -alpha (x - m) / (alpha² s² + sigma²)."""
    gaussian, x, t = Mixture.of((1.0, (0.4, -0.3), 0.7, 0)), points(1), 400
    alpha, sigma = rates(torch.tensor([t]))
    wanted = -alpha * (x - gaussian.means.view_as(x)) / (alpha**2 * 0.49 + sigma**2)
    assert worst(smoothed_score(gaussian, x, t)[None], wanted) < 1e-12


@pytest.mark.parametrize("t", [50, 400, 800])
def test_sds_over_noise_has_its_closed_expectation(t: int) -> None:
    """E_eps ω (eps* - eps) = -ω sigma_t E_eps ∇ log p_t(alpha x + sigma eps), as E eps = 0."""
    n, x = 40_000, points(1, seed=3)
    draws = grad_of(guide("sds"), noised(x.expand(n, -1, -1, -1), t, seed=t))
    sigma = rates(torch.tensor([t]))[1]
    wanted = -(sigma**2) * sigma * smoothed_score(P, x, t)
    # 4 standard errors: exceeded by chance by one entry in 16,000.
    interval = 4 * draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - wanted[0]).abs() < interval).all()
    assert (interval < 0.02).all()


def test_sds_is_the_weighted_difference_of_prior_and_drawn_noise() -> None:
    x = noised(points(), TIMES)
    sigma = rates(x.t)[1]
    grad = grad_of(guide("sds", scale=7.5), x)
    prior = 7.5 * P.eps(x.latents_t, x.t) - 6.5 * OTHER.eps(x.latents_t, x.t)
    assert worst(grad, sigma**2 * (prior - x.eps)) < 1e-13


def test_vsd_is_the_difference_of_both_scores() -> None:
    """-ω sigma_t (∇ log p_t - ∇ log q_t), the scores from differences of the densities."""
    x = noised(points(), TIMES)
    alpha, sigma = rates(x.t)
    slope = difference_quotient(lambda y: P.log_p(y, alpha, sigma) - Q.log_p(y, alpha, sigma), x.latents_t)
    assert worst(grad_of(guide("vsd"), x), -(sigma**3) * slope) < 1e-10


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
def test_vsd_is_exactly_zero_where_the_renders_are_the_prior(scale: float) -> None:
    x = noised(points(), TIMES)
    denoiser = MixtureDenoiser(P, q=P.eps)
    grad = grad_of(Guide("vsd", denoiser, words(1), GuidanceConfig(guidance_scale=scale)), x)
    assert (grad == 0).all()
    assert grad_of(guide("vsd"), x).abs().min() > 0


def test_vsd_is_sds_where_the_branch_answers_the_drawn_noise() -> None:
    x = noised(points(), TIMES)
    vsd, sds = guide("vsd", scale=7.5), guide("sds", scale=7.5)
    vsd.denoiser.q = lambda latents_t, t: x.eps
    assert torch.equal(grad_of(vsd, x), grad_of(sds, x))


def seen(n: int = 6) -> Noised:
    """From cameras all around."""
    azimuth_deg = torch.linspace(-150, 180, n, dtype=DOUBLE)
    return noised(
        points(n), TIMES[:n], cameras=orbit_cameras(azimuth_deg, torch.full_like(azimuth_deg, 10), 4.0, 30.0)
    )


def test_esd_without_entropy_is_vsd() -> None:
    x = seen()
    esd = grad_of(guide("esd", scale=7.5, entropy_weight=0.0), x)
    assert torch.equal(esd, grad_of(guide("vsd", scale=7.5), x))


def test_esd_of_one_knows_no_camera() -> None:
    """Whatever the branch answers with a camera; and it is VSD against the branch without one."""
    x = seen()
    grads = [grad_of(guide("esd", q, entropy_weight=1.0), x) for q in (Q, P)]
    assert torch.equal(grads[0], grads[1])
    sigma = rates(x.t)[1]
    assert worst(grads[0], sigma**2 * (P.eps(x.latents_t, x.t) - OTHER.eps(x.latents_t, x.t))) < 1e-14


def test_esd_is_linear_in_its_weight() -> None:
    x = seen()
    none, half, all_ = (grad_of(guide("esd", entropy_weight=w), x) for w in (0.0, 0.3, 1.0))
    assert worst(half, 0.7 * none + 0.3 * all_) < 1e-14
    assert (none - all_).abs().max() > 0.1


# USD


def test_usd_with_the_true_posterior_is_vsd_towards_the_rectified_prior() -> None:
    """Corollary 1 by way of Theorem 2: ω (eps of p̃ - eps of q)."""
    x = noised(points(), TIMES)
    sigma = rates(x.t)[1]
    wanted = sigma**2 * (P.rectified(TARGET).eps(x.latents_t, x.t) - Q.eps(x.latents_t, x.t))
    assert worst(grad_of(usd_guide(EXACT, x.t), x), wanted) < 1e-12


def test_usd_towards_the_priors_own_classes_is_vsd() -> None:
    x = noised(points(), TIMES)
    usd = usd_guide(EXACT, x.t, target=P.class_probs)
    # log Σ p(c|x) is 0 up to rounding, and so is its slope.
    assert worst(grad_of(usd, x), grad_of(as_method(usd, "vsd"), x)) < 1e-14


@pytest.mark.parametrize("clamp", ["none", "cap", "released"])
def test_usd_of_one_class_is_vsd(clamp: str) -> None:
    x = noised(points(), TIMES)
    single = replace(P, classes=torch.zeros_like(P.classes))
    config = RectifierConfig(clamp=clamp)
    usd = usd_guide(config, x.t, torch.ones(1, dtype=DOUBLE), single)
    assert torch.equal(grad_of(usd, x), grad_of(as_method(usd, "vsd"), x))


def ratio_of(
    x: Noised, estimate: str, jacobian: bool, apart: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """x_t where USD's second term is taken, and log r there, written out from the mixture alone."""
    alpha, sigma = rates(x.t)
    latents_t = x.latents_t
    if apart:
        latents_t = alpha * x.latents + sigma * torch.randn(x.eps.shape, generator=generator(), dtype=DOUBLE)
    frozen = P.eps(latents_t, x.t)

    def log_ratio(y: Tensor) -> Tensor:
        if estimate == "noisy":
            posterior = P.log_posterior(y, alpha, sigma)
        else:
            clean = P.x0_mean(y, x.t) if jacobian else (y - sigma * frozen) / alpha
            posterior = P.log_posterior(clean, *NO_NOISE)
        return (posterior.exp() * TARGET / P.class_probs).sum(1).log()

    return latents_t, log_ratio


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("estimate", ["clean", "noisy"])
def test_the_second_term_of_usd_is_the_slope_of_the_ratio(estimate: str, jacobian: bool, apart: bool) -> None:
    """-ω (sigma/alpha) · alpha ∇_{x_t} log r, by autograd of another formula and by central differences."""
    t = torch.tensor([100, 250, 400, 500, 600, 750])
    x = noised(0.5 * points(), t)
    config = RectifierConfig(
        weight=1.0, clamp="none", estimate=estimate, jacobian=jacobian, separate_pass=apart
    )
    usd = usd_guide(config, t)
    term = grad_of(usd, x) - grad_of(as_method(usd, "vsd"), x)
    alpha, sigma = rates(t)
    latents_t, log_ratio = ratio_of(x, estimate, jacobian, apart)

    leaf = latents_t.clone().requires_grad_()
    (towards,) = torch.autograd.grad(log_ratio(leaf).sum(), leaf)
    assert term.abs().max() > 0.1
    assert worst(term, -(sigma**2) * (sigma / alpha) * alpha * towards) < 1e-11
    slope = difference_quotient(log_ratio, latents_t, step=1e-4)
    assert worst(term, -(sigma**3) * slope) < 1e-10


def test_the_jacobian_makes_a_difference() -> None:
    x = noised(points(), 600)
    with_it, without = (
        grad_of(usd_guide(RectifierConfig(weight=1.0, clamp="none", jacobian=jacobian), x.t), x)
        for jacobian in (True, False)
    )
    assert (with_it - without).abs().max() > 1e-3


def test_weight_and_target_only_scale_and_turn_the_second_term() -> None:
    x = noised(points(), TIMES)
    one, three = (usd_guide(replace(EXACT, weight=w), x.t) for w in (1.0, 3.0))
    vsd = grad_of(as_method(one, "vsd"), x)
    assert worst(grad_of(three, x) - vsd, 3 * (grad_of(one, x) - vsd)) < 1e-13


def test_lazy_steps_are_vsd_and_feed_the_marginal() -> None:
    x = noised(points(), TIMES, step=4)
    classifier = ExactClassifier(P)
    rectifier = rectifier_of(classifier)
    denoiser = MixtureDenoiser(P, q=Q.eps)
    config = RectifierConfig(weight=1.0, clamp="none", lazy_steps=5)
    usd = Guide("usd", denoiser, words(1), GuidanceConfig(guidance_scale=1.0), [rectifier], config)
    assert torch.equal(grad_of(usd, x), grad_of(as_method(usd, "vsd"), x))
    changed = (rectifier.marginal.probs != 1 / 3).any(1).nonzero().flatten()
    assert changed.tolist() == sorted(set((TIMES // 100).tolist()))


# SDS-Bridge and Debiased-SDS


def test_bridge_between_equal_prompts_is_zero() -> None:
    x = noised(points(), TIMES, step=900)
    bridge = Guide("sds_bridge", MixtureDenoiser(P, OTHER), words(2, empty=1), GuidanceConfig())
    assert (grad_of(bridge, x) == 0).all()


def test_bridge_goes_from_sds_to_target_less_source() -> None:
    """At 20,000 of 25,000 steps; no ω and no guidance afterwards."""
    config = GuidanceConfig(guidance_scale=7.5, bridge_weight=0.5)
    bridge = Guide("sds_bridge", MixtureDenoiser(P, OTHER, Q), words(3, empty=1, source=2), config)
    before, after = (noised(points(), TIMES, step=step, num_steps=25_000) for step in (19_999, 20_000))
    assert torch.equal(grad_of(bridge, before), grad_of(as_method(bridge, "sds"), before))
    wanted = 0.5 * (P.eps(after.latents_t, after.t) - Q.eps(after.latents_t, after.t))
    assert worst(grad_of(bridge, after), wanted) < 1e-14


@pytest.mark.parametrize(("step", "limit"), [(0, 2.0), (500, 5.0), (1000, 8.0)])
def test_debiased_sds_is_clipped_to_a_growing_limit(step: int, limit: float) -> None:
    x = noised(points(), TIMES, step=step)
    debiased, sds = (grad_of(guide(method, scale=300.0), x) for method in ("debiased_sds", "sds"))
    assert torch.equal(debiased, sds.clamp(-limit, limit))
    assert (sds.abs() > 8).any() and (sds.abs() < 2).any()
    assert debiased.abs().max() == limit
