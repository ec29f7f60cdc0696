"""The running pose marginal: p̄_t(c|y), one moving average for each interval of timesteps (paper, B.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class PoseMarginal(nn.Module):
    """Eq. 19: p̄ ← α p + (1 - α) p̄, starting from uniform; n_t intervals, α = 1 - 0.1^(1/n_ema).

    The latest n_ema samples of an interval thus carry 0.9 of the weight.

    With n_ema = 1 the rate is 0.9, so that one sample (1, 0) moves 0.5 to 0.9 · 1 + 0.1 · 0.5:

    >>> marginal = PoseMarginal(num_classes=2, n_ema=1)
    >>> marginal.update(torch.tensor([250]), torch.tensor([[1.0, 0.0]]))
    >>> [[round(p, 4) for p in probs] for probs in marginal.at(torch.tensor([299, 300])).tolist()]
    [[0.95, 0.05], [0.5, 0.5]]
    >>> round(PoseMarginal(num_classes=2, n_ema=100).rate, 4)
    0.0228
    """

    probs: Tensor

    def __init__(
        self, num_classes: int, num_intervals: int = 10, n_ema: int = 100, num_timesteps: int = 1000
    ) -> None:
        super().__init__()
        self.rate = 1 - 0.1 ** (1 / n_ema)
        self.interval_length = num_timesteps / num_intervals
        self.register_buffer("probs", torch.full((num_intervals, num_classes), 1 / num_classes))

    def interval(self, t: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        return (t / self.interval_length).floor().long().clamp_max(len(self.probs) - 1)

    def at(self, t: Int[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        """The marginal of each sample's interval."""
        return self.probs[self.interval(t)]

    @torch.no_grad()
    def update(self, t: Int[Tensor, "batch"], pose_probs: Float[Tensor, "batch classes"]) -> None:
        """Add the samples one after another, because samples of a batch may share an interval."""
        # Indices stay tensors, so that the host need not wait for a GPU.
        for interval, probs in zip(self.interval(t).split(1), pose_probs.detach().split(1), strict=True):
            self.probs.index_copy_(0, interval, torch.lerp(self.probs[interval], probs, self.rate))

    def overall(self) -> Float[Tensor, "classes"]:
        """Average over the intervals."""
        return self.probs.mean(0)
