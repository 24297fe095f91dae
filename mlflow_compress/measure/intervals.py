"""Confidence intervals of paired differences, honest on few rows."""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from mlflow_compress.records import Interval

__all__ = [
    "median_interval",
    "paired_proportions_interval",
    "percentile_interval",
    "resampled",
]


def paired_proportions_interval(lost: int, won: int, rows: int, level: float = 0.95) -> Interval:
    """Return the score interval of the drop ``(lost - won) / rows`` of a 0/1 score.

    Never of zero width: when both models score every row alike, the rows still only rule out
    drops larger than about ``z^2 / rows``. Tango, "Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design", 1998, equations 4 to 6.

    Args:
        lost: rows that only the source has right.
        won: rows that only the variant has right.
        rows: all rows, at least 1.
        level: the confidence level.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    drop = (lost - won) / rows

    def score(delta: float) -> float:
        a = 2.0 * rows
        b = -lost - won + (2.0 * rows - lost + won) * delta
        c = -won * delta * (1.0 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = rows * (2 * q + delta * (1 - delta))
        if variance <= 0:
            return math.inf if lost - won > rows * delta else -math.inf
        return (lost - won - rows * delta) / math.sqrt(variance)

    low = _cross(score, z, -1.0, drop)
    high = _cross(score, -z, drop, 1.0)
    return Interval(low, high, level)


def resampled(rows: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the indices of rows drawn with replacement, [rows], as often as ``draws``."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield rng.integers(0, rows, rows)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the interval between the percentiles of a statistic's values on resamples.

    Draws on which the statistic is not defined (NaN) do not count. Where it is defined on fewer
    than half of them, or an end is not finite, the interval is open: it bounds nothing.

    Args:
        values: [draws].
        level: the confidence level.
    """
    found = values[~np.isnan(values)]
    if 2 * len(found) < len(values):
        return Interval(-math.inf, math.inf, level)
    ends = [(1 - level) / 2, (1 + level) / 2]
    if not np.isfinite(found).all():
        # between a number and infinity there is none: take the outer of the two draws
        low, high = (np.quantile(found, ends[i], method=("lower", "higher")[i]) for i in (0, 1))
    else:
        low, high = np.quantile(found, ends)
    return Interval(float(low), float(high), level)


def median_interval(
    values: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the bootstrap interval of the median, all resamples at once.

    Args:
        values: [n], few enough that ``draws`` times as many fit into memory.
        level: the confidence level.
        draws: number of resamples.
        seed: seeds the resampling.
    """
    chosen = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    medians = np.median(values[chosen], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def _cross(score: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Find where the falling function ``score`` crosses ``level``, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
