"""The preview pictures of a running stage: as large as its time allows, and no more than an artist looks through."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recdreamer.cameras import CameraConfig, orbit
from recdreamer.images import write_sheet
from recdreamer.models.model import Pictured

LARGE_PX, SMALL_PX = 256, 96
"""Side of a view. On a CPU four large ones take as long as three steps of the built-in model, seven times as long as
four small ones: drawn every 25 steps, 15 and 2 % of the time of a draft."""
SHARE = 0.02
"""Of a stage's time at most for large pictures before its end, at which there is always one; the others are small. Where
a picture costs nothing beside the steps, all but the first are large."""
NUM_VIEWS = 4
MAX_KEPT = 100
"""Pictures of a stage, which take some megabytes: of more, fewer are kept between the first and the newest."""


class Previews:
    """Writes the pictures of a stage, or of its run for one particle."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        every: int,
        ranges: CameraConfig,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`every`: steps between two of them."""
        self.folder, self.stage, self.every, self.device, self.clock = folder, stage, every, device, clock
        self.cameras = orbit(NUM_VIEWS, ranges, device).singly()
        self.began_s = clock()
        self.spent_s, self.large_s = 0.0, math.inf
        """Seconds that large pictures have taken, and those that the next one will take, as far as is known."""
        self.largest_px = LARGE_PX

    def write(self, shown: Sequence[Pictured], step: int, *, is_last: bool = False) -> Path:
        """Write front, right, back and left side by side, in a row for each particle; returns the file.

        Raises OSError.
        """
        self._wait_for_device()
        started = self.clock()
        is_large = is_last or self.spent_s + self.large_s <= SHARE * (started - self.began_s)
        size_px = self.largest_px if is_large else SMALL_PX
        try:
            pictures = self._drawn(shown, size_px)
        except torch.OutOfMemoryError:
            if size_px == SMALL_PX:
                raise
            self.largest_px = size_px = SMALL_PX  # A picture is no reason to end a job.
            pictures = self._drawn(shown, size_px)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self.stage}-{step:06d}.jpg"
        write_sheet(path, pictures, NUM_VIEWS)
        took_s = self.clock() - started
        self.large_s = took_s * (LARGE_PX / size_px) ** 2
        self.spent_s += took_s if size_px == LARGE_PX else 0.0
        self._thin_out()
        return path

    def _drawn(self, shown: Sequence[Pictured], size_px: int) -> Float[Tensor, "views 3 size_px size_px"]:
        """View by view, so that a large picture needs no more memory than a step."""
        return torch.cat([one.picture(camera, size_px) for one in shown for camera in self.cameras])

    def _wait_for_device(self) -> None:
        """So that the time of a picture is not that of the steps before it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _thin_out(self) -> None:
        """Keep the first and the newest picture, and of those between them so many that they are evenly spread."""
        with suppress(OSError):
            of_step = {
                int(path.stem.rpartition("-")[2]): path
                for path in self.folder.glob(f"{self.stage}-[0-9]*.jpg")
                if path.stem.rpartition("-")[2].isdecimal()
            }
            kept, apart = sorted(of_step), self.every
            while len(kept) > MAX_KEPT:
                apart *= 2
                kept = [kept[0], *(step for step in kept[1:-1] if step % apart == 0), kept[-1]]
            for step in of_step.keys() - set(kept):
                of_step[step].unlink(missing_ok=True)
