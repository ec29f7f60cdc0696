"""Gradient flow of particles in the plane: where each method takes them, against the mixture it should."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recdreamer.distillation.guidance_config import GuidanceConfig, RectifierConfig
from recdreamer.distillation.methods import Guide
from recdreamer.pose.rectifier import Rectifier
from recdreamer.shared.protocol import Method

from .mixture import (
    DOUBLE,
    NO_NOISE,
    ExactClassifier,
    Mixture,
    MixtureDenoiser,
    grad_of,
    noised,
    rectifier_of,
    words,
)

DEVIATION = 0.35
P = Mixture.of(
    (0.7, (0.0, 1.6), DEVIATION, 0), (0.2, (1.4, -0.8), DEVIATION, 1), (0.1, (-1.4, -0.8), DEVIATION, 2)
)
"""One component for each class, seven deviations apart."""
PRIOR = P.class_probs
UNIFORM = torch.full((3,), 1 / 3, dtype=DOUBLE)
N = 200
STEPS = 500
RATE = 1.0
"""Of the first step, going linearly to zero."""
Z = 3.0
"""Standard errors of an interval: a particle in the right class is a draw of a binomial distribution."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """More of them cost more than they save on so few points."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flow(
    method: Method,
    rectifier: Rectifier | None = None,
    start: Tensor | None = None,
    times: tuple[int, int] = (20, 980),
    seed: int = 0,
    **settings: float | str,
) -> Tensor:
    """Where lines 4 and 5 of Algorithm 1 take N particles, each step at a timestep of its own for each.

    The branch is the exact density of the particles with noise on them: (1/n) Σ N(alpha_t x_i, sigma_t²).
    """
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(N, 2, 1, 1, generator=generator, dtype=DOUBLE) if start is None else start
    denoiser = MixtureDenoiser(P)
    config = RectifierConfig(estimate="noisy", **settings)
    guide = Guide(
        method,
        denoiser,
        words(1),
        GuidanceConfig(guidance_scale=1.0),
        [rectifier] if rectifier else [],
        config,
    )
    for step in range(STEPS):
        t = torch.randint(*times, (N,), generator=generator)
        denoiser.q = Mixture.around(x).eps
        if rectifier is not None:
            rectifier.classifier.t = t
        latents = noised(x, t, seed=1000 * seed + step, step=step, num_steps=STEPS)
        x = x - RATE * (1 - step / STEPS) * grad_of(guide, latents)
    return x


def classes(x: Tensor) -> Tensor:
    return P.log_posterior(x, *NO_NOISE).argmax(1)


def shares(x: Tensor) -> Tensor:
    return torch.bincount(classes(x), minlength=3) / N


def interval(probs: Tensor) -> Tensor:
    return Z * (probs * (1 - probs) / N).sqrt()


def assert_shares(x: Tensor, wanted: Tensor) -> None:
    found = shares(x)
    assert ((found - wanted).abs() < interval(wanted)).all(), f"{found.tolist()} for {wanted.tolist()}"


def assert_spread_as_the_prior(x: Tensor) -> None:
    """Root mean square about each class's centre; of 2n values it has a deviation of s / √(4n)."""
    for c in range(3):
        own = x[classes(x) == c].flatten(1)
        spread = float((own - P.means[c]).square().mean().sqrt())
        assert abs(spread - DEVIATION) < Z * DEVIATION / math.sqrt(4 * len(own)), f"{spread} in class {c}"


def test_vsd_particles_follow_the_prior() -> None:
    x = flow("vsd")
    assert_shares(x, PRIOR)
    assert_spread_as_the_prior(x)


@pytest.mark.parametrize("times", [(20, 980), (20, 200)])
def test_sds_particles_collapse(times: tuple[int, int]) -> None:
    """With all of the noise onto one mode, with little onto one of each class. Started as the prior itself."""
    x = flow("sds", start=P.sample(N, torch.Generator().manual_seed(5)), times=times)
    found = shares(x)
    if times[1] == 980:
        assert found.tolist() == [1.0, 0.0, 0.0]
    else:
        assert (found > 0).all()
    for c in found.nonzero().flatten():
        own = x[classes(x) == c].flatten(1)
        # A ninth of the prior's variance at most; what is left is the noise of the last steps.
        assert (own - own.mean(0)).square().mean().sqrt() < DEVIATION / 3


@pytest.mark.parametrize("target", [(1 / 3, 1 / 3, 1 / 3), (0.15, 0.25, 0.6)])
def test_usd_particles_meet_the_wanted_classes(target: tuple[float, ...]) -> None:
    """Eq. 13 with the true p(c) and p(c|x_t): Theorem 2 says p̃, in its shares and within each class."""
    wanted = torch.tensor(target, dtype=DOUBLE)
    x = flow("usd", rectifier_of(ExactClassifier(P), wanted, PRIOR), weight=1.0, clamp="none")
    assert_shares(x, wanted)
    assert_spread_as_the_prior(x)
    assert (shares(x)[0] - PRIOR[0]).abs() > interval(PRIOR)[0]


def test_the_running_marginal_drives_itself_to_uniform() -> None:
    """With the default weight and cap the particles are uniform, and so is what the marginal sees of them."""
    rectifier = rectifier_of(ExactClassifier(P), n_ema=1000)
    x = flow("usd", rectifier)
    assert_shares(x, UNIFORM)
    # Below t = 100 the classes do not overlap. The average itself adds rate/2 · p (1 - p) of variance.
    rate = rectifier.marginal.rate
    allowed = Z * (2 / 9 * (1 / N + rate / 2)) ** 0.5
    assert ((rectifier.marginal.probs[0] - UNIFORM).abs() < allowed).all()


def test_a_running_marginal_of_weight_one_rests_at_the_geometric_mean() -> None:
    """Where renders follow p f / p̄ and p̄ follows the renders, p̄ = √(p f) up to scale: not at f.

    A property of the running marginal on renders (paper, B.2), not of Theorem 2, which has p(c) there. Here the
    renders are drawn from that density itself, without noise, so the classes do not overlap.
    """
    rectifier = rectifier_of(ExactClassifier(P), n_ema=2000)
    generator = torch.Generator().manual_seed(3)
    for _ in range(300):
        weights = PRIOR * rectifier.target / rectifier.marginal.probs[0]
        x = P.rectified(weights / weights.sum()).sample(40, generator)
        images = MixtureDenoiser(P).decode(x)
        t = torch.zeros(40, dtype=torch.long)
        rectifier.observe(rectifier.log_ratio(images, t, None, generator)[1], t, None)
    rest = PRIOR.sqrt() / PRIOR.sqrt().sum()
    allowed = Z * (rest * (1 - rest) * rectifier.marginal.rate / 2).sqrt()
    assert ((rectifier.marginal.probs[0] - rest).abs() < allowed).all()
    assert (rest - UNIFORM).abs().max() > 3 * allowed.max()


def test_particles_of_weight_one_rest_between_the_geometric_mean_and_the_target() -> None:
    """Where noise makes the classes overlap the marginal sees p(c) itself, which leads on to f."""
    x = flow("usd", rectifier_of(ExactClassifier(P), n_ema=1000), weight=1.0, clamp="none")
    found, rest = shares(x), PRIOR.sqrt() / PRIOR.sqrt().sum()
    low, high = torch.minimum(rest, UNIFORM), torch.maximum(rest, UNIFORM)
    assert (found > low - interval(low)).all() and (found < high + interval(high)).all()
    assert (found - PRIOR).abs()[0] > interval(PRIOR)[0]
