"""Placeholder until the statistics are merged."""

import numpy as np
from scipy import stats

from mlflow_compress.records import Interval


def mean_interval(values, level, most=np.inf):
    n = len(values)
    if not np.isfinite(values).all():
        return Interval(float(np.min(values)), float(most), level)
    if n < 2:
        return Interval(0.0, float(most), level)
    t = stats.t.ppf((1 + level) / 2, n - 1)
    m = float(values.mean())
    h = float(t * values.std(ddof=1) / np.sqrt(n))
    return Interval(m - h, min(m + h, most), level)


def ratio_interval(num, den, level):
    n = len(num)
    if not np.isfinite(num).all():
        return Interval(0.0, np.inf, level)
    r = num.sum() / max(den.sum(), 1e-30)
    if n < 2:
        return Interval(0.0, np.inf, level)
    d = (num - r * den) / max(den.mean(), 1e-30)
    t = stats.t.ppf((1 + level) / 2, n - 1)
    h = float(t * d.std(ddof=1) / np.sqrt(n))
    return Interval(float(r - h), float(r + h), level)


def flip_interval(source, variant, margins, level):
    a = source.argmax(-1).reshape(len(source), -1) != variant.argmax(-1).reshape(len(source), -1)
    return mean_interval(a.mean(axis=1), level, most=1.0)


def grouped_interval(stat, rows, level):
    v = stat()
    return Interval(v, v, level)
