"""The running marginal: rate, intervals, order, and that it follows what it sees."""

from __future__ import annotations

import torch

from recdreamer.pose.marginal import PoseMarginal


def test_rate_gives_the_latest_samples_nine_tenths() -> None:
    for n_ema in (1, 100, 1000):
        marginal = PoseMarginal(4, n_ema=n_ema)
        assert abs((1 - marginal.rate) ** n_ema - 0.1) < 1e-9


def test_intervals_at_the_edges() -> None:
    marginal = PoseMarginal(4)
    assert marginal.interval(torch.tensor([0, 99, 100, 999])).tolist() == [0, 0, 1, 9]


def test_starts_uniform_and_is_not_differentiated() -> None:
    marginal = PoseMarginal(5)
    assert torch.equal(marginal.at(torch.tensor([3, 999])), torch.full((2, 5), 0.2))
    probs = torch.full((1, 5), 0.2, requires_grad=True)
    marginal.update(torch.tensor([5]), probs)
    assert not marginal.probs.requires_grad


def test_one_update_is_equation_19() -> None:
    marginal = PoseMarginal(2, n_ema=10)
    marginal.update(torch.tensor([250]), torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(
        marginal.probs[2], torch.tensor([0.5 + 0.5 * marginal.rate, 0.5 - 0.5 * marginal.rate])
    )
    assert torch.equal(marginal.probs[3], torch.tensor([0.5, 0.5]))


def test_samples_of_a_batch_in_one_interval_are_all_taken_in() -> None:
    together, apart = PoseMarginal(2), PoseMarginal(2)
    t, probs = torch.tensor([10, 20]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    together.update(t, probs)
    apart.update(t[:1], probs[:1])
    apart.update(t[1:], probs[1:])
    assert torch.equal(together.probs, apart.probs)


def test_a_constant_input_is_approached_geometrically() -> None:
    marginal, probs = PoseMarginal(2, n_ema=20), torch.tensor([[0.8, 0.2]])
    for _ in range(20):
        marginal.update(torch.tensor([500]), probs)
    assert torch.allclose(marginal.probs[5], torch.tensor([0.8 - 0.03, 0.2 + 0.03]), atol=1e-6)
