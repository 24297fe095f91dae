"""k-means of plain numbers: exact for few clusters, Lloyd's from several starts for many.

In one dimension clusters are intervals of the sorted values, so that means come from prefix
sums and one round of Lloyd's costs O(k log n). Grønlund et al., "Fast Exact k-Means, k-Medians
and Bregman Divergence Clustering in 1D", 2017, section 2, for the dynamic programme.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["cluster", "codebook"]

_EXACT_CLUSTERS = 32
_EXACT_POINTS = 1024
"""The dynamic programme works on at most so many points (bins of the values when there are more);
Lloyd's method then finishes on all values."""

_ROUNDS = 300


def cluster(
    values: np.ndarray, k: int, start: str = "auto", weights: np.ndarray | None = None
) -> np.ndarray:
    """Return each value's cluster mean.

    Args:
        values: numbers, of shape [n].
        k: how many clusters at most, at least 1.
        start: ``auto``, ``linear``, ``density`` or ``quantile``.
        weights: importance of each value, of shape [n]; None counts all alike.
    """
    centers = codebook(values, k, start, weights)
    edges = (centers[1:] + centers[:-1]) / 2
    return centers[np.searchsorted(edges, values, side="right")]


def codebook(
    values: np.ndarray, k: int, start: str = "auto", weights: np.ndarray | None = None
) -> np.ndarray:
    """Return at most ``k`` sorted centers that make the (weighted) squared error small.

    Arguments are those of :func:`cluster`.
    """
    points, inverse = np.unique(np.asarray(values, np.float64), return_inverse=True)
    mass = np.bincount(inverse.ravel(), weights=weights, minlength=points.size).astype(np.float64)
    if points.size <= k:
        return points
    sums = _Sums(points, mass)
    if start != "auto":
        return _lloyd(sums, _STARTS[start](points, mass, k))
    if k <= _EXACT_CLUSTERS:
        return _lloyd(sums, _exact(*_binned(points, mass), k))
    tries = [_lloyd(sums, begin(points, mass, k)) for begin in _STARTS.values()]
    return min(tries, key=sums.error)


class _Sums:
    """Prefix sums over sorted points, for means and errors of any interval."""

    def __init__(self, points: np.ndarray, mass: np.ndarray) -> None:
        self.points = points
        self.mass = np.concatenate([[0.0], np.cumsum(mass)])
        self.first = np.concatenate([[0.0], np.cumsum(mass * points)])
        self.second = np.concatenate([[0.0], np.cumsum(mass * points**2)])

    def bounds(self, centers: np.ndarray) -> np.ndarray:
        """Index of the first point of each cluster, and the end: shape [k + 1]."""
        edges = np.searchsorted(self.points, (centers[1:] + centers[:-1]) / 2, side="left")
        return np.concatenate([[0], edges, [self.points.size]])

    def means(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Mean of the points low to high - 1 of each cluster; of those without mass, the first."""
        mass = self.mass[high] - self.mass[low]
        means = (self.first[high] - self.first[low]) / np.where(mass > 0, mass, 1)
        return np.where(mass > 0, means, self.points[low])

    def errors(self, cut: np.ndarray) -> np.ndarray:
        """Weighted squared error of each cluster about its own mean: shape [k]."""
        mass, first, second = (np.diff(s[cut]) for s in (self.mass, self.first, self.second))
        return np.maximum(second - first**2 / np.where(mass > 0, mass, 1), 0)

    def error(self, centers: np.ndarray) -> float:
        """Weighted squared error of the best assignment to these centers."""
        cut = self.bounds(centers)
        mass, first, second = (np.diff(s[cut]) for s in (self.mass, self.first, self.second))
        return float(np.sum(second - 2 * centers * first + centers**2 * mass))


def _lloyd(sums: _Sums, centers: np.ndarray) -> np.ndarray:
    """Alternate assignment and means until no point changes its cluster.

    A cluster without points is given half of the one with the largest error: a linear start puts
    most centers where heavy-tailed weights have no values.
    """
    centers = np.unique(centers)
    before: np.ndarray | None = None
    for _ in range(_ROUNDS):
        cut = sums.bounds(centers)
        if before is not None and np.array_equal(cut, before):
            break
        before = cut
        mass, first = np.diff(sums.mass[cut]), np.diff(sums.first[cut])
        filled = mass > 0
        centers = np.sort(np.where(filled, first / np.where(filled, mass, 1), centers))
        if not np.diff(cut).all():
            centers = _refill(sums, cut)
    return centers


def _refill(sums: _Sums, cut: np.ndarray) -> np.ndarray:
    """Halve the clusters with the largest errors until no cluster is empty, or none can be cut."""
    wanted, cut = cut.size - 1, np.unique(cut)
    while cut.size - 1 < wanted:
        several = np.diff(cut) > 1
        order = np.argsort(np.where(several, -sums.errors(cut), 1.0), kind="stable")
        # a few at a time: halves may be worth halving again
        worst = order[: min(wanted - cut.size + 1, int(several.sum()), 1 + several.sum() // 4)]
        if not worst.size:
            break
        low, high = cut[worst], cut[worst + 1]
        means = sums.means(low, high)
        at = np.searchsorted(sums.points, means, side="right")
        cut = np.union1d(cut, np.clip(at, low + 1, high - 1))
    return sums.means(cut[:-1], cut[1:])


def _exact(points: np.ndarray, mass: np.ndarray, k: int) -> np.ndarray:
    """Return the optimal centers by dynamic programming, O(k m^2) for m points."""
    sums = _Sums(points, mass)
    size = points.size
    spans = sums.mass[None, 1:] - sums.mass[:-1, None]
    first = sums.first[None, 1:] - sums.first[:-1, None]
    second = sums.second[None, 1:] - sums.second[:-1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(spans > 0, second - first**2 / spans, 0.0)
    # cost[i, j]: error of one cluster of the points i..j; no such cluster when i > j
    cost[np.tril_indices(size, -1)] = np.inf
    np.maximum(cost, 0, out=cost)
    best = cost[0].copy()
    cuts = []
    for _ in range(1, min(k, size)):
        total = cost.copy()
        total[1:] += best[:-1, None]
        start = np.argmin(total, axis=0)
        best = total[start, np.arange(size)]
        cuts.append(start)
    centers, end = [], size
    for start in [*reversed(cuts), np.zeros(size, np.int64)]:
        if end == 0:
            break
        begin = int(start[end - 1])
        weight = sums.mass[end] - sums.mass[begin]
        if weight > 0:
            centers.append((sums.first[end] - sums.first[begin]) / weight)
        end = begin
    return np.array(sorted(centers))


def _binned(points: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge points into at most ``_EXACT_POINTS`` bins of equal width, by their means."""
    if points.size <= _EXACT_POINTS:
        return points, mass
    scale = (_EXACT_POINTS - 1) / (points[-1] - points[0])
    bins = ((points - points[0]) * scale).astype(np.int64)
    total = np.bincount(bins, weights=mass)
    moment = np.bincount(bins, weights=mass * points)
    held = total > 0
    return moment[held] / total[held], total[held]


def _linear(points: np.ndarray, _mass: np.ndarray, k: int) -> np.ndarray:
    return np.linspace(points[0], points[-1], k)


def _quantile(points: np.ndarray, mass: np.ndarray, k: int) -> np.ndarray:
    share = np.cumsum(mass)
    wanted = (np.arange(k) + 0.5) / k * share[-1]
    return points[np.minimum(np.searchsorted(share, wanted), points.size - 1)]


def _density(points: np.ndarray, mass: np.ndarray, k: int) -> np.ndarray:
    """Spread centers as the cube root of the density, the optimum for many clusters."""
    bins, total = _binned(points, mass)
    gaps = np.gradient(bins) if bins.size > 1 else np.ones(1)
    root = np.cbrt(total / np.maximum(gaps, 1e-30)) * gaps
    return _quantile(bins, root, k)


_STARTS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "linear": _linear,
    "density": _density,
    "quantile": _quantile,
}
