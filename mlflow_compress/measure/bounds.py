"""One-sided confidence bounds of means and ratios over rows, honest on few and skewed rows.

A gate asks for the bound, not for the estimate, so that what is promised holds on new rows. What
can be said with more certainty than by counting rows is in :mod:`mlflow_compress.measure.smoothed`.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from mlflow_compress.records import Bound, Interval, Side

__all__ = [
    "Bound",
    "Side",
    "gamma_bound",
    "jackknife_interval",
    "mean_bound",
    "mean_interval",
    "ratio_bound",
    "ratio_interval",
    "rows_needed",
    "share_bound",
]


_CLOSE = 1e-9
"""Relative error at which a bisection ends."""

_FAR = 1e6
"""A ratio that may be so many times larger than what was seen is unknown."""

_GROUPS = 20

_MOST_ROWS = 10_000_000
"""A variant that would need more rows than this is not worth telling of."""


def mean_bound(values: np.ndarray, *, level: float = 0.95, side: Side = "upper") -> Bound:
    """Return the confidence bound of the mean of per-row values that may be skewed.

    The cubic transformation of the t statistic by Hall, "On the removal of skewness by
    transformation", 1992, which unlike that of Johnson, "Modified t tests and confidence intervals
    for asymmetrical populations", 1978, is monotone, with Student's quantiles and the skewness G1
    of Joanes and Gill, "Comparing measures of sample skewness and kurtosis", 1998, which comes out
    less low than the plain one on few rows. Where no value is negative the upper bound is at least
    that of a gamma distribution of the same variance (:func:`gamma_bound`).

    Args:
        values: [rows].
        level: confidence, 0.5 to 1.
        side: which bound.

    Returns:
        A bound that is infinite when a value is not finite or there are fewer than two rows.
    """
    values = np.asarray(values, np.float64).ravel()
    rows = len(values)
    if rows < 2 or not np.isfinite(values).all():
        return _unknown(values, level, side)
    mean = float(values.mean())
    bound = mean + _hall(values, _quantile(level if side == "upper" else 1 - level, rows))
    spread = float(values.std(ddof=1))
    if side == "upper" and values.min() >= 0 and mean > 0 and spread > 0:
        bound = max(bound, gamma_bound(mean, rows * (mean / spread) ** 2, level))
    return Bound(mean, bound, level, rows, side)


def mean_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the two-sided interval of a mean: both bounds of :func:`mean_bound`."""
    return _interval(lambda side, each: mean_bound(values, level=each, side=side), level)


def ratio_bound(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    level: float = 0.95,
    side: Side = "upper",
    unit: float = 0.0,
) -> Bound:
    """Return the confidence bound of ``sum(numerators) / sum(denominators)`` over rows.

    Normalised error is error's power over the source's variance, an edit rate edits over
    characters, F1 is ``2 TP / (2 TP + FP + FN)``. The bound is the ratio R at which the mean of
    ``numerators - R * denominators`` may just be zero: Fieller, "Some problems in interval
    estimation", 1954, with the skew taken off as in :func:`mean_bound`. It is at least the bound
    that Korn and Graubard give for few events ("Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", 1998).

    Args:
        numerators: [rows].
        denominators: [rows], not negative.
        level: confidence, 0.5 to 1.
        side: which bound.
        unit: the smallest numerator that is not zero, such as one edit. Rows without any then
            have the bound of no event in so many; 0 says that zero is zero.

    Returns:
        A bound that is infinite when a value is not finite, there are fewer than two rows or the
        denominators are all zero.
    """
    top = np.asarray(numerators, np.float64).ravel()
    base = np.asarray(denominators, np.float64).ravel()
    rows, total = len(top), float(base.sum())
    if rows < 2 or not np.isfinite(top).all() or not 0 < total < math.inf:
        return _unknown(np.full(rows, math.nan), level, side)
    ratio = float(top.sum()) / total
    rest = top - ratio * base
    error = float(np.linalg.norm(rest)) / total * math.sqrt(rows / (rows - 1))
    if side == "lower":
        bound = _fieller(top, base, ratio, 1 - level)
        return Bound(ratio, bound, level, rows, side)
    bound = _fieller(top, base, ratio, level)
    if top.min() >= 0 and (ratio > 0 or unit > 0):
        most = ratio * total / unit if unit > 0 else math.inf
        events = min((ratio / max(error, math.ulp(ratio))) ** 2, most) if ratio else 0.0
        smallest = ratio / events if events else unit / total
        bound = max(bound, smallest * float(stats.chi2.ppf(level, 2 * events + 2)) / 2)
    return Bound(ratio, bound, level, rows, side)


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, level: float = 0.95, unit: float = 0.0
) -> Interval:
    """Return the two-sided interval of a ratio: both bounds of :func:`ratio_bound`."""
    return _interval(
        lambda side, each: ratio_bound(numerators, denominators, level=each, side=side, unit=unit),
        level,
    )


def share_bound(
    events: float, trials: float, *, level: float = 0.95, side: Side = "upper"
) -> Bound:
    """Return the exact bound of a share from counts: Clopper and Pearson, 1934.

    Args:
        events: how many of the trials count; a fraction where rows were weighted.
        trials: independent trials, above 0.
        level: confidence, 0.5 to 1.
        side: which bound.
    """
    if side == "lower":
        bound = float(stats.beta.ppf(1 - level, events, trials - events + 1)) if events else 0.0
    else:
        full = events >= trials
        bound = 1.0 if full else float(stats.beta.ppf(level, events + 1, trials - events))
    return Bound(events / trials, bound, level, math.floor(trials), side)


def gamma_bound(estimate: float, events: float, level: float) -> float:
    """Return the upper bound of a rate that was estimated from about so many events.

    Garwood, "Fiducial limits for the Poisson distribution", 1936; for an estimate that is no
    count, ``events`` is its squared mean over its variance (Korn and Graubard, 1998).

    Args:
        estimate: the rate, above 0.
        events: about how many events it comes from, above 0.
        level: confidence, 0.5 to 1.
    """
    return estimate * float(stats.chi2.ppf(level, 2 * events + 2)) / (2 * events)


def jackknife_interval(
    statistic: Callable[[np.ndarray], float], rows: int, *, level: float = 0.95
) -> Interval:
    """Return the interval of a statistic of a set of rows, by leaving groups of them out.

    The delete-a-group jackknife with Student's quantiles: Kott, "The delete-a-group jackknife",
    2001. Rows go to :data:`_GROUPS` groups in turn, or one each where there are fewer.

    Args:
        statistic: takes numbers of rows and returns the statistic of these.
        rows: how many rows there are.
        level: confidence, 0.5 to 1.

    Returns:
        An interval that is infinite with fewer than two rows.
    """
    groups = min(rows, _GROUPS)
    if groups < 2:
        return Interval(-math.inf, math.inf, level)
    numbers = np.arange(rows)
    whole = statistic(numbers)
    left = np.array([statistic(numbers[numbers % groups != group]) for group in range(groups)])
    spread = math.sqrt((groups - 1) / groups * float(((left - left.mean()) ** 2).sum()))
    reach = float(stats.t.ppf((1 + level) / 2, groups - 1)) * spread
    return Interval(whole - reach, whole + reach, level)


def rows_needed(bound: Bound, limit: float) -> int | None:
    """Return about how many more rows would let the bound meet a limit, if nothing else changed.

    The distance between bound and estimate shrinks at first like one over the rows and then like
    one over their root; the root is reckoned with, which errs to too many.

    Args:
        bound: what the rows at hand gave.
        limit: what the bound is to be at most, or at least for a lower bound.

    Returns:
        0 when the bound meets the limit already; None when more rows would not help, as the
        estimate itself misses it, or so many that nobody has them.
    """
    sign = 1 if bound.side == "upper" else -1
    room = sign * (limit - bound.estimate)
    gap = sign * (bound.bound - bound.estimate)
    if gap <= room:
        return 0
    if not room > 0 or not math.isfinite(gap) or bound.rows < 1:
        return None
    needed = bound.rows * (gap / room) ** 2
    return math.ceil(needed) - bound.rows if needed <= _MOST_ROWS else None


def _quantile(level: float, rows: int) -> float:
    """Return Student's quantile of one less the level, over the root of the rows."""
    return float(stats.t.ppf(1 - level, rows - 1)) / math.sqrt(rows)


def _hall(values: np.ndarray, quantile: float) -> float:
    """Return how far above their mean the bound of some values lies; negative below one half."""
    rows = len(values)
    away = values - values.mean()
    largest = float(np.abs(away).max())
    if largest == 0:
        return 0.0
    scaled = away / largest  # whose powers neither overflow nor vanish
    unit = math.sqrt(float(scaled @ scaled) / (rows - 1))
    skew = float(((scaled / unit) ** 3).sum()) * rows / ((rows - 1) * max(rows - 2, 1))
    spread = unit * largest
    if abs(skew) < 1e-6:
        return -spread * quantile
    inner = 1 + skew * (quantile - skew / (6 * rows))
    return -spread * 3 / skew * (math.cbrt(inner) - 1)


def _fieller(top: np.ndarray, base: np.ndarray, ratio: float, level: float) -> float:
    """Find the ratio at which the bound of ``mean(top - ratio * base)`` is zero."""
    sign = 1 if level >= 0.5 else -1
    quantile = _quantile(level, len(top))

    def beyond(value: float) -> bool:
        rest = top - value * base
        return sign * (float(rest.mean()) + _hall(rest, quantile)) <= 0

    scale = max(abs(ratio), float(np.abs(top).max()) / float(base.mean()))
    step = scale * 1e-3
    if step == 0:
        return ratio
    while not beyond(ratio + sign * step):
        step *= 2
        if step > scale * _FAR:
            return sign * math.inf  # the denominators themselves may be zero on average
    near, far = 0.0, step
    while far - near > _CLOSE * (abs(ratio) + far):
        middle = (near + far) / 2
        near, far = (near, middle) if beyond(ratio + sign * middle) else (middle, far)
    return ratio + sign * far


def _interval(bound: Callable[[Side, float], Bound], level: float) -> Interval:
    each = (1 + level) / 2
    return Interval(bound("lower", each).bound, bound("upper", each).bound, level)


def _unknown(values: np.ndarray, level: float, side: Side) -> Bound:
    estimate = float(values.mean()) if len(values) else math.nan
    return Bound(estimate, math.inf if side == "upper" else -math.inf, level, len(values), side)
