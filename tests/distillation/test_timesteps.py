"""The timestep schedules at their edges."""

from __future__ import annotations

import pytest
import torch

from recdreamer.distillation.timesteps import sample_timesteps, timestep_range


def test_back_and_forth_with_two_intervals_is_as_published() -> None:
    ranges = [timestep_range("back_and_forth", step, 400) for step in (0, 99, 100, 200, 299, 300, 399)]
    assert ranges == [(500, 980), (500, 980), (20, 980), (20, 980), (20, 980), (20, 500), (20, 500)]


def test_back_and_forth_with_ten_intervals_ends_at_the_finest() -> None:
    assert timestep_range("back_and_forth", 0, 1000, num_intervals=10) == (900, 980)
    assert timestep_range("back_and_forth", 999, 1000, num_intervals=10) == (20, 100)


@pytest.mark.parametrize("num_steps", [1, 3, 7, 401])
def test_every_step_has_a_range_even_if_steps_do_not_divide(num_steps: int) -> None:
    for step in range(num_steps):
        low, high = timestep_range("back_and_forth", step, num_steps)
        assert 20 <= low < high <= 980


def test_annealed_halves_the_upper_end_once() -> None:
    assert timestep_range("annealed", 4_999, 25_000) == (20, 980)
    assert timestep_range("annealed", 5_000, 25_000) == (20, 500), "as ProlificDreamer"
    assert timestep_range("annealed", 49, 100, anneal_at=0.5) == (20, 980)
    assert timestep_range("annealed", 50, 100, anneal_at=0.5) == (20, 500)


def test_samples_fill_the_range() -> None:
    t = sample_timesteps((20, 25), 500, torch.Generator().manual_seed(0))
    assert sorted(t.unique().tolist()) == [20, 21, 22, 23, 24]


def test_late_timesteps_end_at_late_until():
    assert timestep_range("late", 7, 100) == (20, 500)
    assert timestep_range("late", 7, 100, late_until=0.3) == (20, 300)
