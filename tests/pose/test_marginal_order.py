"""The running marginal inside the rectifier: when it is used, when it is changed, and what it leads to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recdreamer.pose.marginal import PoseMarginal
from recdreamer.pose.rectifier import Rectifier


class Given(nn.Module):
    """Answers with logits that the test sets, whatever the picture."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.labels = logits, tuple("abcd"[: logits.shape[1]])

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.logits.log_softmax(-1)


PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])


def rectifier_of(logits: Tensor, n_ema: int = 10, **options: object) -> Rectifier:
    return Rectifier(Given(logits), "marginal", None, 10, n_ema, **options)


def asked(rectifier: Rectifier, *t: int) -> Tensor:
    """log r, after which the rectifier takes in what it saw."""
    images, times = torch.zeros(len(t), 3, 1, 1), torch.tensor(t)
    ratio, log_probs = rectifier.log_ratio(images, times, None, torch.Generator())
    rectifier.observe(log_probs, times, None)
    return ratio


@pytest.mark.parametrize(("n_ema", "rate"), [(100, 0.0227628), (1000, 0.00229994), (10_000, 0.000230232)])
def test_the_rate_in_numbers(n_ema: int, rate: float) -> None:
    """1 - 0.1^(1/n), by hand -expm1(-ln 10 / n)."""
    assert PoseMarginal(3, n_ema=n_ema).rate == pytest.approx(-math.expm1(-math.log(10) / n_ema), rel=1e-12)
    assert PoseMarginal(3, n_ema=n_ema).rate == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("num_intervals", [1, 2, 3, 7, 10, 15, 30, 60, 100, 1000])
def test_each_timestep_is_in_the_interval_of_whole_numbers(num_intervals: int) -> None:
    """⌊t n_t / T⌋ without a float: no border is lost to rounding."""
    t = torch.arange(1000)
    interval = PoseMarginal(3, num_intervals).interval(t)
    assert torch.equal(interval, t * num_intervals // 1000)


def test_the_marginal_is_used_before_it_is_changed() -> None:
    """At first uniform to uniform, so the ratio is 1 whatever was seen; at the second time the first counts."""
    rectifier = rectifier_of(PROBS[:1].log(), n_ema=1)
    first = asked(rectifier, 250)
    assert first.abs().max() < 1e-6
    after_one = rectifier.marginal.probs[2].clone()
    assert torch.allclose(after_one, 0.9 * PROBS[0] + 0.1 / 3, atol=1e-6)
    unseen, _ = rectifier.log_ratio(torch.zeros(1, 3, 1, 1), torch.tensor([250]), None, torch.Generator())
    second = asked(rectifier, 250)
    assert torch.equal(second, unseen), "asking alone changes nothing"
    assert torch.allclose(second, (PROBS[0] / 3 / after_one).sum().log(), atol=1e-6)
    # Had it been changed first, the ratio would be this:
    late = (PROBS[0] / 3 / rectifier.marginal.probs[2]).sum().log()
    assert (second - late).abs() > 0.01


def test_samples_of_a_batch_see_the_marginal_of_before_the_batch() -> None:
    """Also the later ones of the same interval."""
    rectifier = rectifier_of(PROBS.log(), n_ema=1)
    rectifier.marginal.probs[2] = torch.tensor([0.5, 0.3, 0.2])
    ratio = asked(rectifier, 210, 290)
    wanted = (PROBS / 3 / torch.tensor([0.5, 0.3, 0.2])).sum(1).log()
    assert torch.allclose(ratio, wanted, atol=1e-6)


def test_a_batch_counts_as_so_many_samples() -> None:
    """b equal samples leave (1 - α)^b of what was, here 1 - 0.9."""
    rectifier = rectifier_of(PROBS[:1].expand(10, -1).log(), n_ema=10)
    asked(rectifier, *[500] * 10)
    assert torch.allclose(rectifier.marginal.probs[5], 0.9 * PROBS[0] + 0.1 / 3, atol=1e-6)
    others = [i for i in range(10) if i != 5]
    assert (rectifier.marginal.probs[others] == rectifier.marginal.probs[others[0]]).all()


def test_the_marginal_stays_a_distribution() -> None:
    logits = 3 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    rectifier = rectifier_of(logits)
    asked(rectifier, *[int(t) for t in torch.arange(500) * 2])
    assert torch.allclose(rectifier.marginal.probs.sum(1), torch.ones(10), atol=1e-5)
    assert (rectifier.marginal.probs > 0).all()


def test_no_gradient_goes_through_the_marginal() -> None:
    """Neither into earlier answers, nor into this one by way of what it leaves behind."""
    earlier, later = (logits.clone().requires_grad_() for logits in (PROBS[:1].log(), PROBS[1:].log()))
    rectifier = rectifier_of(earlier, n_ema=1)
    asked(rectifier, 250)
    known = rectifier.marginal.probs[2].clone()
    assert not rectifier.marginal.probs.requires_grad and rectifier.marginal.probs.grad_fn is None
    rectifier.classifier = Given(later)
    ratio = asked(rectifier, 250)
    grad, none = torch.autograd.grad(ratio.sum(), (later, earlier), allow_unused=True)
    assert none is None
    wanted = later.softmax(-1) * (1 / 3 / known) / (later.softmax(-1) / 3 / known).sum() - later.softmax(-1)
    assert torch.allclose(grad, wanted, atol=1e-6)


def test_a_constant_answer_is_approached_by_the_same_factor_each_time() -> None:
    rectifier = rectifier_of(PROBS[:1].log(), n_ema=20)
    gaps = []
    for _ in range(60):
        gaps.append((rectifier.marginal.probs[9] - PROBS[0]).clone())
        asked(rectifier, 999)
    gaps = torch.stack(gaps)
    factor = 0.1 ** (1 / 20)
    # Each step rounds to float32, about 6e-8 of the probability.
    assert torch.allclose(gaps[1:], factor * gaps[:-1], atol=3e-7)
    assert torch.allclose(gaps[40], 0.01 * gaps[0], atol=1e-5)


def test_a_fixed_marginal_is_the_mean_answer_and_stays() -> None:
    rectifier = rectifier_of(PROBS.log())
    times: list[int] = []

    def estimates(t: Tensor) -> Tensor:
        times.append(int(t))
        return torch.zeros(2, 3, 1, 1)

    rectifier.fix_marginal(estimates, torch.Generator())
    assert times == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    assert torch.allclose(rectifier.marginal.probs, PROBS.mean(0).expand(10, -1))
    before = rectifier.marginal.probs.clone()
    asked(rectifier, 0, 999)
    assert torch.equal(rectifier.marginal.probs, before)
