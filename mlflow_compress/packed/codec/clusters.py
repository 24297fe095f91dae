"""Groups histograms so that each group is cheap to code with one table of its own.

All numbers are whole and below 2^53, so the outcome depends neither on the BLAS nor on libm;
``cluster.c`` computes the same for rows of bytes.
"""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Histograms = npt.NDArray[np.uint32] | Counts
Costs = npt.NDArray[np.float64]
CLUSTERS = 4
_ROUNDS = 3
# the fraction of a logarithm reaches k sixteenths from here on, in 256ths of the mantissa
_STEPS = (6, 18, 30, 42, 56, 69, 84, 99, 114, 131, 148, 166, 184, 204, 224, 246)


def train(histograms: Histograms) -> Costs:
    """Find four groups of histograms (shape (m, 256)) and what a symbol costs in each.

    Lloyd's algorithm with the code length as the distance.

    Returns:
        Sixteenths of a bit per symbol and group: shape (256, 4).
    """
    weights = histograms.astype(np.float64)
    # a first guess: by the share of each histogram's most frequent symbol
    peak = weights.max(axis=1) / np.maximum(weights.sum(axis=1), 1)
    order = np.argsort(np.argsort(peak, kind="stable"), kind="stable")
    costs = _costs(weights, order * CLUSTERS // len(weights))
    for _ in range(_ROUNDS):
        costs = _costs(weights, np.argmin(weights @ costs, axis=1))
    return costs


def assign(
    histograms: Histograms, costs: Costs
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Put each histogram into its cheapest group.

    Returns:
        Group numbers, and each group's sum: shape (4, 256).
    """
    weights = histograms.astype(np.float64)
    groups = np.argmin(weights @ costs, axis=1)
    return groups.astype(np.uint8), np.rint(_sums(weights, groups)).astype(np.int64)


def without_holes(
    groups: npt.NDArray[np.uint8], sums: Counts
) -> tuple[npt.NDArray[np.uint8], Counts]:
    """Number the groups that occur from 0, and drop the sums of the others."""
    used = np.bincount(groups, minlength=CLUSTERS) > 0
    if used.all():
        return groups, sums
    return (np.cumsum(used) - 1).astype(np.uint8)[groups], sums[used]


def runs(classes: npt.NDArray[np.uint8]) -> bytes:
    """Classes as pairs of class and run length - 1."""
    ends = np.append(np.flatnonzero(np.diff(classes)), len(classes) - 1)
    lengths = np.diff(ends, prepend=-1)
    return np.stack([classes[ends], (lengths - 1).astype(np.uint8)], axis=1).tobytes()


def _sums(
    weights: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    return (groups == np.arange(CLUSTERS)[:, None]).astype(np.float64) @ weights


def _costs(weights: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]) -> Costs:
    sums = _sums(weights, groups)
    # a quarter of a count stands in for what a group has not seen
    whole = _log16(4 * sums.sum(axis=1, keepdims=True) + 256)
    return np.minimum(whole - _log16(4 * sums + 1), 255).T


def _log16(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """16 log2(x) of whole numbers; of the fraction, the first eight bits count."""
    mantissa, exponent = np.frexp(x)
    fraction = np.floor(mantissa * 512 - 256)
    return 16.0 * (exponent - 1) + np.searchsorted(_STEPS, fraction, side="right")
