"""Groups histograms so that each group is cheap to code with one table of its own."""

import numpy as np
import numpy.typing as npt

Histograms = npt.NDArray[np.uint32] | npt.NDArray[np.int64]
CLUSTERS = 4
_ROUNDS = 4
_SAMPLE = 4096


def cluster(histograms: Histograms) -> npt.NDArray[np.uint8]:
    """Assign each histogram (shape (m, 256)) to one of four groups, by the cost of coding it.

    Lloyd's algorithm with the code length as the distance. Costs are whole sixteenths of a bit,
    small enough to add exactly in float32, so the outcome does not depend on the BLAS.

    Returns:
        Group numbers, from 0 without holes.
    """
    sample = histograms[:: -(-len(histograms) // _SAMPLE)]
    # a first guess: by the share of each histogram's most frequent symbol
    total = np.maximum(sample.sum(axis=1), 1)
    peak = sample.max(axis=1) / total
    groups = np.argsort(np.argsort(peak, kind="stable"), kind="stable") * CLUSTERS // len(sample)
    weights = sample.astype(np.float32)
    for _ in range(_ROUNDS):
        costs = _costs(sample, groups)
        groups = np.argmin(weights @ costs, axis=1)
    costs = _costs(sample, groups)
    final = np.argmin(histograms.astype(np.float32) @ costs, axis=1)
    return np.unique(final, return_inverse=True)[1].astype(np.uint8)


def _costs(histograms: Histograms, groups: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Sixteenths of a bit that each symbol costs in each group: shape (256, 4)."""
    sums = np.stack(
        [histograms[groups == group].sum(axis=0, dtype=np.int64) for group in range(CLUSTERS)]
    )
    # a quarter of a count stands in for what a group has not seen
    shares = (sums + 0.25) / (sums.sum(axis=1, keepdims=True) + 64)
    return np.minimum(np.round(-16 * np.log2(shares)), 255).astype(np.float32).T


def entropies(histograms: Histograms, groups: npt.NDArray[np.uint8]) -> float:
    """Bits for everything if each group is coded at its own entropy."""
    bits = 0.0
    for group in range(int(groups.max()) + 1):
        sums = histograms[groups == group].sum(axis=0, dtype=np.int64)
        used = sums[sums > 0].astype(np.float64)
        bits += float(used.sum() * np.log2(used.sum()) - (used * np.log2(used)).sum())
    return bits
