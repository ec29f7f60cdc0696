"""Random samples out of those of all of a step's views, whichever process has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recdreamer.parallel import team
from recdreamer.parallel.view_shares import Share


@dataclass(frozen=True)
class Picked:
    """Points that were drawn. Processes draw the same ones, and each has those of its own views."""

    xyz: Float[Tensor, "draws 3"]
    is_own: Bool[Tensor, "draws"]
    """The others stand at any place, and count elsewhere."""
    is_any: Bool[Tensor, ""]
    """There was something to draw from, in any process."""

    def mean(self, values: Float[Tensor, "draws"], share: Share) -> Float[Tensor, ""]:
        """The mean over all draws, as this process's part of it; see `team.part_of_mean`."""
        return (values * self.is_own).sum() / (len(values) * share.weight)


def picked(
    draws: Float[Tensor, "draws"],
    xyz: Float[Tensor, "samples 3"],
    share: Share,
    weights: Float[Tensor, "samples"] | None = None,
    rays: Int[Tensor, "samples"] | None = None,
    count: Int[Tensor, ""] | None = None,
) -> Picked:
    """For each of `draws` in [0, 1) a sample, by weight; all equally likely without weights.

    Samples are counted ray by ray; `rays` has the ray of each where they are in another order. Only the first
    `count` of them are samples; None: all are.

    >>> xyz = torch.tensor([[0.0] * 3, [1.0] * 3, [2.0] * 3])
    >>> found = picked(torch.tensor([0.1, 0.9]), xyz, Share(0, 1, 1), torch.tensor([1.0, 0.0, 3.0]))
    >>> found.xyz[:, 0].tolist(), found.is_own.tolist()
    ([0.0, 2.0], [True, True])
    """
    order = None if rays is None else rays.argsort(stable=True)
    # In double precision, so that the same sample is drawn however they are divided.
    draws, sums = draws.double(), None
    if weights is not None:
        sums = (weights if order is None else weights[order]).detach().double().cumsum(0)
        own = sums[-1] if len(sums) else draws.new_zeros(())
    else:
        own = draws.new_full((), float(len(xyz))) if count is None else count.double()
    before, total = torch.zeros_like(own), own
    if share.is_split:
        each = own.new_zeros(team.count())
        each[team.rank()] = own
        ends = team.added(each, share).cumsum(0)
        before, total = ends[team.rank()] - own, ends[-1]
    places = draws * total - before
    if sums is None:
        places = (draws * total).floor() - before
    is_own = (places >= 0) & (places < own)
    if not len(xyz):
        return Picked(xyz.new_zeros(len(draws), 3), is_own, total > 0)
    chosen = places.long() if sums is None else torch.searchsorted(sums, places, right=True)
    chosen = chosen.clamp(0, len(xyz) - 1)
    return Picked(xyz[chosen if order is None else order[chosen]], is_own, total > 0)
