"""The range of an activation that loses least information when it is rounded to a few levels.

Migacz, "8-bit Inference with TensorRT", GTC 2017: of all ranges around zero the one with the least
KL divergence from the values' distribution to the rounded one's, what lies outside being cut to the
ends.
"""

import numpy as np

__all__ = ["kl_range"]

_SMOOTH = 1e-4
"""What a bin without values is taken to hold, as a share of one value."""


def kl_range(counts: np.ndarray, levels: int) -> int:
    """Return how many bins on either side of the middle the best range has.

    Args:
        counts: how many values each bin holds, [bins], the middle one being around zero.
        levels: to how many values the range is rounded, at most the number of bins.
    """
    middle, half = len(counts) // 2, max(1, levels // 2)
    best, least = middle, np.inf
    for width in range(half, middle + 1):
        divergence = _divergence(
            counts, middle - width, min(middle + width + 1, len(counts)), levels
        )
        if divergence < least:
            best, least = width, divergence
    return best


def _divergence(counts: np.ndarray, first: int, end: int, levels: int) -> float:
    inside = counts[first:end].astype(np.float64)
    cut = inside.copy()
    cut[0] += counts[:first].sum()
    cut[-1] += counts[end:].sum()
    level = np.minimum(np.arange(len(inside)) * levels // len(inside), levels - 1)
    used = cut > 0
    mean = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, used, levels), 1)
    rounded = np.where(used, mean[level], 0.0)
    p, q = cut + _SMOOTH, rounded + _SMOOTH
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())
