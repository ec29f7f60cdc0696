"""Which of a step's views this process has, and random numbers that do not depend on it.

The views of a step may be divided among processes. Each of them draws the numbers of all views and keeps its own: so the
views, their noise and everything that follows are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The views from `first` up to `end`, of `total`."""

    first: int
    end: int
    total: int

    @staticmethod
    def of(total: int, rank: int = 0, count: int = 1) -> Share:
        """Of a process among `count`. If there are more processes than views, the first one has all of them.

        >>> [(share.first, share.end) for share in (Share.of(5, rank, 2) for rank in (0, 1))]
        [(0, 3), (3, 5)]
        >>> [Share.of(1, rank, 2).size for rank in (0, 1)]
        [1, 0]
        """
        if total < count:
            return Share(0, 0 if rank else total, total)
        small, larger = divmod(total, count)
        first = rank * small + min(rank, larger)
        return Share(first, first + small + (rank < larger), total)

    @property
    def size(self) -> int:
        return self.end - self.first

    @property
    def is_split(self) -> bool:
        """Other processes have views of the same step."""
        return 0 < self.size < self.total

    @property
    def weight(self) -> float:
        """The weight of a mean over these views in the mean over all."""
        return self.size / self.total

    def parts(self, at_once: int) -> list[Share]:
        """The same views in parts of up to `at_once`; 0: in one.

        >>> [(part.first, part.end) for part in Share(2, 5, 5).parts(2)]
        [(2, 4), (4, 5)]
        """
        starts = range(self.first, self.end, at_once or max(1, self.size))
        return [Share(first, min(first + (at_once or self.size), self.end), self.total) for first in starts]

    def part_of(self, count: int) -> slice:
        """This process's part of so many things that all processes have, and that belong to no view.

        >>> [Share.of(5, rank, 2).part_of(11) for rank in (0, 1)]
        [slice(0, 6, None), slice(6, 11, None)]
        """
        return slice(self.first * count // self.total, self.end * count // self.total)

    def own(self, values: Tensor) -> Tensor:
        """The rows of these views; all views have equally many.

        >>> Share.of(3, rank=1, count=3).own(torch.arange(6)).tolist()
        [2, 3]
        """
        rows = len(values) // self.total
        return values[rows * self.first : rows * self.end]


ALL_VIEWS = Share(0, 1, 1)
"""However many there are."""


class StepGenerator(torch.Generator):
    """The source of a step's random numbers, the same in all processes, and this process's share of its views."""

    share: Share = ALL_VIEWS


def share_of(generator: torch.Generator | None) -> Share:
    """The share that a generator draws for; all views if it knows of none.

    >>> share_of(torch.Generator()).weight
    1.0
    """
    return generator.share if isinstance(generator, StepGenerator) else ALL_VIEWS


def drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:  # fmt: skip
    """`draw(shape)`, such as torch.rand's, whose rows belong to this process's views, in order.

    >>> alone, second = (StepGenerator().manual_seed(0) for _ in range(2))
    >>> second.share = Share.of(3, rank=1, count=2)
    >>> torch.equal(drawn(torch.rand, (3, 2), alone)[2:], drawn(torch.rand, (1, 2), second))
    True
    """
    share = share_of(generator)
    if not share.is_split:
        return draw(shape, generator=generator, device=generator.device, dtype=dtype)
    rows, rest = divmod(shape[0], share.size)
    assert rest == 0, f"{shape[0]} rows cannot be those of {share.size} views"
    whole = (rows * share.total, *shape[1:])
    return share.own(draw(whole, generator=generator, device=generator.device, dtype=dtype))
