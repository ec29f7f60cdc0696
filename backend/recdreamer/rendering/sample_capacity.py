"""How many samples the buffers of a step hold."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from recdreamer.parallel.team import largest
from recdreamer.parallel.view_shares import ALL_VIEWS, Share
from recdreamer.report import Warn, no_warn

START_SAMPLES = 144
"""Samples per ray before any were counted, where there is no limit: those of a start blob that fills the view."""
MARGIN = 1.15
"""Capacity relative to the most samples of the latest steps. Cameras near the object want about that much more."""
SHRINK_BELOW = 0.6
"""Buffers shrink only if that share of them would do, because what was recorded with them has to be recorded again."""


class SampleCapacity:
    """A capacity that follows the number of samples, which is known on the device only.

    It is chosen at steps that do not depend on the speed of the machine, and from numbers in the checkpoint: a resumed
    run is the run that was interrupted.

    >>> capacity = SampleCapacity(1000, torch.device("cpu"))
    >>> capacity.size
    155904
    >>> capacity.note(torch.tensor(20_000, dtype=torch.int32))
    >>> capacity.choose()
    >>> capacity.size  # the next power of 2^(1/4) above 1.15 · 20,000
    23296
    """

    def __init__(self, num_rays: int, device: torch.device, warn: Warn = no_warn, per_ray: int = 0) -> None:
        """`per_ray` limits the mean over the rays; 0: no limit. `warn` is told once if below it more samples were wanted
        than there was room for."""
        self.limit = per_ray * num_rays or math.inf
        self.size = self._within(rounded_up(START_SAMPLES * num_rays))
        self.most: Int[Tensor, ""] = torch.zeros((), dtype=torch.int32, device=device)
        """The most samples that a step wanted since the latest choice."""
        self.warn = warn
        self._sent: tuple[Tensor, torch.cuda.Event] | None = None
        self._is_sent = False

    def of(self, share: Share) -> int:
        """The size for the views of a process."""
        return 256 * math.ceil(self.size * share.weight / 256)

    def note(self, wanted: Int[Tensor, ""], share: Share = ALL_VIEWS) -> None:
        """Take a step into account; a CUDA graph may record this.

        Where the views are divided, those of all processes have as many samples as they would in the fullest one.
        """
        if share.is_split:
            wanted = largest((wanted / share.weight).ceil().int(), share)
        self.most.copy_(torch.maximum(self.most, wanted))

    def send(self) -> None:
        """Begin to copy the number to the host; after a step's rendering, so that the copy waits for nothing else."""
        if self.most.is_cuda:
            if self._sent is None:
                self._sent = torch.zeros((), dtype=torch.int32, pin_memory=True), torch.cuda.Event()
            seen, event = self._sent
            seen.copy_(self.most, non_blocking=True)
            event.record()
            self._is_sent = True

    def choose(self) -> None:
        """Set `size` for the next steps. The number was sent a step ago, so that this has nothing to wait for."""
        most = self._read()
        if self.size < most and self.size < self.limit:
            self.warn(
                f"A view took {most} samples, for which there was no room; its picture is coarser. There is room now."
            )
            self.warn = no_warn
        needed = self._within(rounded_up(MARGIN * most))
        if most and not SHRINK_BELOW * self.size < needed <= self.size:
            self.size = needed
        self.most.zero_()
        self._is_sent = False

    def _within(self, size: int) -> int:
        return int(min(size, self.limit))

    def _read(self) -> int:
        if self._sent is None or not self._is_sent:
            return int(self.most)
        seen, event = self._sent
        event.synchronize()
        return int(seen)

    def tensor(self) -> Int[Tensor, "2"]:
        """What a checkpoint must hold."""
        return torch.stack([torch.tensor(self.size, dtype=torch.int32), self.most.cpu()])

    def load(self, tensor: Int[Tensor, "2"]) -> None:
        size, most = tensor.tolist()
        self.size = self._within(size)
        self.most.fill_(most)
        self._is_sent = False


def rounded_up(count: int | float) -> int:
    """The next power of 2^(1/4), as a multiple of 256: few different sizes, which suit matrix products.

    >>> [rounded_up(count) for count in (0, 1024, 1025, 70_000)]
    [1024, 1024, 1280, 78080]
    """
    exponent = math.ceil(4 * math.log2(max(count, 1024) / 1024) - 1e-9)
    return 256 * math.ceil(4 * 2 ** (exponent / 4) - 1e-9)
