"""Groups histograms so that each group is cheap to code with one table of its own."""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Histograms = npt.NDArray[np.uint32] | Counts
Costs = npt.NDArray[np.float64]
CLUSTERS = 4
_ROUNDS = 3


def train(histograms: Histograms) -> Costs:
    """Find four groups of histograms (shape (m, 256)) and what a symbol costs in each.

    Lloyd's algorithm with the code length as the distance. Costs are whole sixteenths of a bit, so
    that all sums are whole numbers below 2^53 and the outcome does not depend on the BLAS.

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


def assign(histograms: Histograms, costs: Costs) -> tuple[npt.NDArray[np.uint8], Counts]:
    """Put each histogram into its cheapest group.

    Returns:
        Group numbers, from 0 without holes, and each group's sum: shape (groups, 256).
    """
    weights = histograms.astype(np.float64)
    groups = np.argmin(weights @ costs, axis=1)
    used = np.bincount(groups, minlength=CLUSTERS) > 0
    sums = np.rint(_sums(weights, groups)).astype(np.int64)
    return (np.cumsum(used) - 1).astype(np.uint8)[groups], sums[used]


def _sums(
    weights: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    return (groups == np.arange(CLUSTERS)[:, None]).astype(np.float64) @ weights


def _costs(weights: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]) -> Costs:
    sums = _sums(weights, groups)
    # a quarter of a count stands in for what a group has not seen
    shares = (sums + 0.25) / (sums.sum(axis=1, keepdims=True) + 64)
    return np.minimum(np.round(-16 * np.log2(shares)), 255).T
