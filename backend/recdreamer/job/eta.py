"""Remaining time of a whole job, from its speed in the last half minute."""

from __future__ import annotations

from collections import deque

WINDOW_S = 30.0
"""Long enough to average over steps with a checkpoint or preview, short enough to follow changes of speed."""


class RemainingTime:
    """Speed of the running stage and remaining time of the job. Times are seconds of one monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self.it_per_s = 0.0
        """Steps per second within the window; 0 while unknown."""
        self._span = (0.0, 1.0)
        self._ticks: deque[tuple[float, int]] = deque()
        self._eta_s: float | None = None
        self._eta_at_s = now_s

    def start_stage(self, now_s: float, span: tuple[float, float]) -> None:
        """A stage begins that spans `span[0]` to `span[1]` of the job's time, as fractions."""
        if not 0.0 <= span[0] <= span[1] <= 1.0:
            raise ValueError(f"span must be two rising fractions in [0, 1], got {span}")
        self._span = span
        self._ticks.clear()
        self.it_per_s = 0.0

    def tick(self, now_s: float, step: int, total: int) -> None:
        """`step` of `total` of the running stage is done."""
        if self._ticks and step < self._ticks[-1][1]:
            self._ticks.clear()
        self._ticks.append((now_s, step))
        while len(self._ticks) > 2 and now_s - self._ticks[1][0] >= WINDOW_S:
            self._ticks.popleft()
        first_s, first_step = self._ticks[0]
        if step > first_step and now_s > first_s:
            self.it_per_s = (step - first_step) / (now_s - first_s)
            start, end = self._span
            stage_s = total / self.it_per_s
            later_s = stage_s * (1.0 - end) / (end - start) if end > start else 0.0
            self._eta_s = (total - step) / self.it_per_s + later_s
            self._eta_at_s = now_s

    def eta_s(self, now_s: float) -> float | None:
        """Remaining seconds of the job, counted down between ticks. None until the speed is known."""
        if self._eta_s is None:
            return None
        return max(0.0, self._eta_s - (now_s - self._eta_at_s))
