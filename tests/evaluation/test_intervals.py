"""Intervals whose answers have closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from recdreamer.evaluation.intervals import Estimate, described, mean_over_prompts


def test_one_prompt_is_an_ordinary_bootstrap() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    half = norm.ppf(0.975) * values.std() / 20
    found = mean_over_prompts({"a bear": list(values)})
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)


def test_prompts_that_differ_widen_the_interval() -> None:
    """Seeds that agree are no new prompts: the variance of the mean is that of the prompts' means over their number."""
    means = np.random.default_rng(2).normal(0.0, 1.0, 60)
    found = mean_over_prompts({str(k): [float(mean)] * 5 for k, mean in enumerate(means)})
    half = norm.ppf(0.975) * means.std() / math.sqrt(60)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    pooled = mean_over_prompts({"all": [float(mean) for mean in means for _ in range(5)]})
    assert pooled.high - pooled.low < 0.6 * (found.high - found.low)


def test_seeds_count_within_their_prompts() -> None:
    """Equal means of prompts, but seeds that differ: the variance is that of the seeds over their number."""
    found = mean_over_prompts({str(k): [0.0, 1.0] for k in range(50)})
    assert found.high - found.low == pytest.approx(2 * norm.ppf(0.975) * 0.5 / 10, rel=0.1)


def test_one_value_has_no_interval_and_no_values_have_no_mean() -> None:
    alone = mean_over_prompts({"a bear": [0.5], "a bird": []})
    assert alone.mean == 0.5 and math.isnan(alone.low) and not alone.apart_from(alone)
    with pytest.raises(ValueError, match="no value"):
        mean_over_prompts({"a bear": []})


def test_intervals_that_touch_are_not_apart() -> None:
    low, high = Estimate(0.2, 0.1, 0.3, 4), Estimate(0.4, 0.3, 0.5, 4)
    assert not low.apart_from(high) and low.apart_from(Estimate(0.4, 0.31, 0.5, 4))


def test_the_statistics_of_table_5() -> None:
    """The "kangaroo" row as the printed numbers would come from ten runs: mean 0.65, median and mode 0.5, 0 to 1.5."""
    found = described([0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.5, 1.5])
    assert (found["mean"], found["median"], found["mode"]) == pytest.approx((0.65, 0.5, 0.5))
    assert (found["min"], found["max"], found["range"]) == (0.0, 1.5, 1.5)
    assert found["std"] == pytest.approx(0.5296, abs=1e-4)
    assert described([0.5])["std"] == 0
