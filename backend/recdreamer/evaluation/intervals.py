"""Bootstrap intervals of a mean over prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import bootstrap

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile interval; both ends are NaN if there is a single value."""

    mean: float
    low: float
    high: float
    count: int

    def apart_from(self, other: Estimate) -> bool:
        """Whether the intervals do not touch.

        >>> Estimate(0.9, 0.8, 1.0, 8).apart_from(Estimate(0.5, 0.4, 0.7, 8))
        True
        """
        return self.low > other.high or other.low > self.high


def mean_over_prompts(values: Mapping[str, Sequence[float]], level: float = LEVEL) -> Estimate:
    """The mean of all runs, each prompt with the values of its seeds.

    Two prompts differ more than two seeds of one, so the resamples draw prompts, and then seeds of each drawn prompt
    (Davison and Hinkley 1997, Sec. 3.8). With one prompt they draw its seeds. Values must be finite.

    >>> mean_over_prompts({"a bear": [0.5, 0.5], "a bird": [0.5]})
    Estimate(mean=0.5, low=0.5, high=0.5, count=3)
    """
    runs = [np.asarray(seeds, dtype=float) for seeds in values.values() if len(seeds)]
    everything = np.concatenate(runs) if runs else np.zeros(0)
    if not len(everything):
        raise ValueError("There is no value to take the mean of.")
    mean = float(everything.mean())
    if len(everything) == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    if np.ptp(everything) == 0:
        return Estimate(mean, mean, mean, len(everything))
    if len(runs) == 1:
        (found,) = runs
        result = bootstrap(
            (found,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile",
            rng=np.random.default_rng(0),
        )  # fmt: skip
    else:
        random = np.random.default_rng(1)

        def mean_of(prompts: Int[np.ndarray, "prompts"]) -> float:
            return float(np.concatenate([_resampled(runs[k], random) for k in prompts]).mean())

        result = bootstrap(
            (np.arange(len(runs)),), mean_of, n_resamples=RESAMPLES, confidence_level=level,
            method="percentile", vectorized=False, rng=np.random.default_rng(0),
        )  # fmt: skip
    interval = result.confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(everything))


def _resampled(values: Float[np.ndarray, "seeds"], random: np.random.Generator) -> Float[np.ndarray, "seeds"]:
    return values[random.integers(len(values), size=len(values))]


def described(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation, median, lowest mode, minimum and maximum, as in the paper's Table 5.

    >>> described([0.5, 0.5, 1.0, 2.0])
    {'mean': 1.0, 'std': 0.7071, 'median': 0.75, 'mode': 0.5, 'min': 0.5, 'max': 2.0, 'range': 1.5}
    """
    array = np.asarray(values, dtype=float)
    distinct, counts = np.unique(array, return_counts=True)
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {
        "mean": fmean(values), "std": round(std, 4), "median": float(np.median(array)),
        "mode": float(distinct[counts.argmax()]), "min": float(array.min()), "max": float(array.max()),
        "range": float(np.ptp(array)),
    }  # fmt: skip
