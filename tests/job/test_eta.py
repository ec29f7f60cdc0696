"""The remaining time against a job whose pace is known."""

import pytest

from recdreamer.job.eta import WINDOW_S, RemainingTime


def test_a_steady_stage_alone():
    clock = RemainingTime(0.0)
    clock.start_stage(0.0, (0.0, 1.0))
    assert clock.eta_s(0.0) is None
    for step in range(1, 11):
        clock.tick(0.5 * step, step, 100)
    assert clock.it_per_s == pytest.approx(2.0)
    assert clock.eta_s(5.0) == pytest.approx(45.0)
    assert clock.eta_s(7.0) == pytest.approx(43.0), "it counts down between two ticks"
    assert clock.eta_s(1000.0) == 0.0


def test_later_stages_count_by_their_share():
    clock = RemainingTime(0.0)
    clock.start_stage(0.0, (0.0, 0.8))
    for step in range(1, 41):
        clock.tick(1.0 * step, step, 80)
    # 40 s of this stage, and the last fifth of a job of 100 s.
    assert clock.eta_s(40.0) == pytest.approx(60.0)
    clock.start_stage(80.0, (0.8, 1.0))
    assert clock.eta_s(80.0) == pytest.approx(20.0), "the estimate lives on until the stage has a pace"
    clock.tick(81.0, 1, 4)
    clock.tick(86.0, 2, 4)
    assert clock.eta_s(86.0) == pytest.approx(10.0)


def test_a_slow_step_now_and_then_does_not_shake_it():
    """Every tenth step takes 2 s instead of 0.2 s: the estimate stays within 15 % of the truth."""
    clock, now_s, total = RemainingTime(0.0), 0.0, 1000
    clock.start_stage(0.0, (0.0, 1.0))
    costs = [2.0 if step % 10 == 0 else 0.2 for step in range(1, total + 1)]
    for step, cost in enumerate(costs, start=1):
        now_s += cost
        clock.tick(now_s, step, total)
        left_s = sum(costs[step:])
        if now_s > WINDOW_S and left_s > WINDOW_S:
            assert clock.eta_s(now_s) == pytest.approx(left_s, rel=0.15)


def test_it_follows_a_change_of_pace():
    clock, now_s = RemainingTime(0.0), 0.0
    clock.start_stage(0.0, (0.0, 1.0))
    for step in range(1, 201):
        now_s += 0.1 if step <= 100 else 1.0
        clock.tick(now_s, step, 300)
    assert clock.it_per_s == pytest.approx(1.0)


def test_a_resumed_stage_starts_at_its_step():
    clock = RemainingTime(0.0)
    clock.start_stage(0.0, (0.0, 1.0))
    clock.tick(10.0, 500, 600)
    assert clock.eta_s(10.0) is None, "the steps of the earlier run say nothing about the pace of this one"
    clock.tick(12.0, 501, 600)
    assert clock.eta_s(12.0) == pytest.approx(198.0)


@pytest.mark.parametrize("span", [(0.5, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_a_span_is_two_rising_fractions(span):
    with pytest.raises(ValueError, match="rising"):
        RemainingTime(0.0).start_stage(0.0, span)
