"""Timestep ranges over the course of a run."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Schedule = Literal["uniform", "annealed", "back_and_forth", "late"]


def timestep_range(
    schedule: Schedule,
    step: int,
    num_steps: int,
    num_timesteps: int = 1000,
    num_intervals: int = 2,
    anneal_at: float = 0.2,
    late_until: float = 0.5,
) -> tuple[int, int]:
    """Lowest and highest timestep (exclusive) at `step` of `num_steps`.

    `uniform`: 2 % to 98 % throughout. `annealed`: the upper end falls to 50 % once the share
    `anneal_at` of the steps is done (ProlificDreamer: 5,000 of 25,000). `late`: 2 % to `late_until` throughout, for
    refinement (ProlificDreamer, stages 2 and 3: 50 %).
    `back_and_forth`: paper B.3 with n_i = `num_intervals`; the lower end falls from T - T/n_i to 2 %, then the
    upper end falls from 98 % to T/n_i.

    >>> [timestep_range("back_and_forth", step, 100) for step in (0, 25, 50, 75)]
    [(500, 980), (20, 980), (20, 980), (20, 500)]
    >>> [timestep_range("annealed", step, 100) for step in (19, 20)]
    [(20, 980), (20, 500)]
    """
    low, high = round(0.02 * num_timesteps), round(0.98 * num_timesteps)
    if schedule == "annealed":
        return (low, high) if step < anneal_at * num_steps else (low, num_timesteps // 2)
    if schedule == "late":
        return low, round(late_until * num_timesteps)
    if schedule == "back_and_forth":
        phase = min(step * 2 * num_intervals // num_steps, 2 * num_intervals - 1)
        part = num_timesteps // num_intervals
        if phase < num_intervals:
            return max(low, num_timesteps - (phase + 1) * part), high
        return low, min(high, (2 * num_intervals - phase) * part)
    return low, high


def sample_timesteps(bounds: tuple[int, int], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Uniform in [low, high).

    >>> sample_timesteps((500, 501), 2, torch.Generator()).tolist()
    [500, 500]
    """
    return torch.randint(*bounds, (count,), generator=generator, device=generator.device)
