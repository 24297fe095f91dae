"""The range of an activation that loses least information when it is rounded to a few levels.

Migacz, "8-bit Inference with TensorRT", GTC 2017: of all ranges around zero the one with the least
KL divergence from the values' distribution to the rounded one's, what lies outside being cut to the
ends. Unlike there, both are shares of all values: as shares of what is inside, a range that holds a
single value, on its end, would lose nothing.
"""

import numpy as np

__all__ = ["kl_range"]

_SMOOTH = 1e-4
"""What a bin without values is taken to hold, as a share of one value."""
_ROUNDING = 1e-12
"""Divergences this close are equal, and the narrower range is taken."""


def kl_range(counts: np.ndarray, levels: int) -> int:
    """Return how many bins on either side of the middle the best range has.

    Args:
        counts: how many values each bin holds, [bins], the middle one being around zero.
        levels: to how many values the range is rounded, at most the number of bins.
    """
    middle, half = len(counts) // 2, max(1, levels // 2)
    widths = np.arange(half, middle + 1)
    if not len(widths):
        return middle
    divergences = _divergences(counts, widths, levels)
    return int(widths[np.argmax(divergences <= divergences.min() + _ROUNDING)])


def _divergences(counts: np.ndarray, widths: np.ndarray, levels: int) -> np.ndarray:
    """Return the KL divergence for each half width, from sums over the bins of each level."""
    middle = len(counts) // 2
    first, end = middle - widths, np.minimum(middle + widths + 1, len(counts))
    size, values = end - first, counts.astype(np.float64)

    below = _running(values)[first]
    above = values.sum() - _running(values)[end]
    outside = np.zeros((len(widths), levels))  # what each level holds of what was cut
    outside[:, 0], outside[:, -1] = below, above
    edges = first[:, None] + -(-np.arange(levels + 1) * size[:, None] // levels)
    inside, filled = (np.diff(_running(of)[edges]) for of in (values, values > 0))
    filled[:, 0] += (below > 0) & (values[first] == 0)
    filled[:, -1] += (above > 0) & (values[end - 1] == 0)
    empty = np.diff(edges) - filled
    mean = inside / np.maximum(filled, 1)

    own = _running(_x_log_x(values + _SMOOTH))
    own = own[end] - own[first]
    for bin_, cut in ((values[first], below), (values[end - 1], above)):
        own += _x_log_x(bin_ + cut + _SMOOTH) - _x_log_x(bin_ + _SMOOTH)
    crossed = (inside + outside + _SMOOTH * filled) * np.log(mean + _SMOOTH)
    crossed += _SMOOTH * empty * np.log(_SMOOTH)
    return np.asarray((own - crossed.sum(1)) / (values.sum() + _SMOOTH * size))


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return values * np.log(values)
