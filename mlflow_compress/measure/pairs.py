"""Margins of the source's rows paired with what a variant takes off margins, row with row.

What :mod:`mlflow_compress.measure.smoothed` counts. Scores are on the scale of logits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Pairs", "extrapolated", "log_softmax", "margins_of", "pair_up", "take"]

_RANKS = 8
"""The source's best classes; all others count as one, the best of them."""

_MARGINS, _DIFFERENCES = 4096, 512
"""At most so many positions are paired with so many: about 10^8 operations for a bound."""

_SCORES = 1 << 24
"""Positions times classes that are looked through for either; at least 64 positions are."""

_SCALES = (1, 2, 4, 8, 16, 32)
"""Differences are blown up until enough pairs change their class. The share of changes is nearly
proportional to the differences' size while they are small beside most margins."""

_EVENTS = 4.0
"""Enough changes: more would ask for a blow-up at which the share is no longer proportional."""

_DOUBT = 0.3
"""So much of a power is taken for chance: it is found from two sizes of the differences."""

_MISFIT = 0.25
"""Relative error of a smoothed share beside that of sampling: differences do depend on the row."""


@dataclass(frozen=True)
class Pairs:
    """Margins of positions of all rows, and what the variant takes off margins on confirming rows.

    Attributes:
        margins: [a, ranks - 1], the source's best score less its next ones.
        losses: [b, ranks - 1], by how much more these shrink than all margins do in proportion.
        kept: what is left of margins in proportion, above 0.
        rows: how many rows there are; the confirming ones come first.
        row_a: [a], the row of each position.
        row_b: [b], likewise.
        position_a: [a], the position among those of all rows.
        position_b: [b], the position among those of the confirming rows.
    """

    margins: np.ndarray
    losses: np.ndarray
    kept: float
    rows: int
    row_a: np.ndarray
    row_b: np.ndarray
    position_a: np.ndarray
    position_b: np.ndarray

    def mean(self, table: np.ndarray) -> tuple[float, float]:
        """Return the mean of a value of all pairs and the variance of that mean, by rows."""
        mean = float(table.mean())
        by_a, by_b = table.mean(axis=1) - mean, table.mean(axis=0) - mean
        influence = np.bincount(self.row_a, by_a, self.rows) / len(by_a)
        influence += np.bincount(self.row_b, by_b, self.rows) / len(by_b)
        return mean, float(influence @ influence) * self.rows / max(self.rows - 1, 1)


def take(before: np.ndarray, rest: np.ndarray | None, positions: np.ndarray) -> np.ndarray:
    """Return the scores of some positions of all rows, [positions, classes].

    Args:
        before: scores of the confirming rows, [rows, ..., classes].
        rest: scores of the other rows, likewise.
        positions: counted through the confirming rows first.
    """
    first = before.reshape(-1, before.shape[-1])
    own = positions < len(first)
    if rest is None:
        return np.asarray(first[positions])
    other = rest.reshape(-1, rest.shape[-1])[positions[~own] - len(first)]
    return np.concatenate([first[positions[own]], other])


def pair_up(before: np.ndarray, after: np.ndarray, rest: np.ndarray | None) -> Pairs:
    """Pair positions of all rows with positions of the confirming rows.

    Args:
        before: the source's scores on the confirming rows, [rows, ..., classes].
        after: the variant's on the same rows.
        rest: the source's scores on other rows, likewise, or None.
    """
    rows, total = len(before), len(before) + (0 if rest is None else len(rest))
    each = math.prod(before.shape[1:-1])
    confirming = rows * each
    count = confirming + (0 if rest is None else math.prod(rest.shape[:-1]))
    rng = np.random.default_rng(0)
    most = max(_SCORES // before.shape[-1], 64)
    a = np.sort(rng.choice(count, min(count, _MARGINS, most), replace=False))
    b = np.sort(rng.choice(confirming, min(confirming, _DIFFERENCES, most), replace=False))
    margins, _ = margins_of(take(before, rest, a))
    own, order = margins_of(take(before, None, b))
    losses = own - _left(after.reshape(confirming, -1)[b], order)
    weights = 1 / (np.median(own) + own + 1e-150) ** 2  # whose square is a number yet
    slope = float((weights * own * losses).sum() / max((weights * own * own).sum(), 1e-300))
    slope = min(max(slope, -1.0), 0.9)
    losses = (losses - slope * own) / (1 - slope)
    others = 1 if rest is None else math.prod(rest.shape[1:-1])
    row_a = np.where(a < confirming, a // each, rows + (a - confirming) // others)
    return Pairs(margins, losses, 1 - slope, total, row_a, b // each, a, b)


def margins_of(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best score less the next ones, and the classes from best to worst of them."""
    ranks = min(_RANKS, scores.shape[-1])
    best = np.argpartition(-scores, ranks - 1, axis=-1)[:, :ranks]
    values = np.take_along_axis(scores, best, axis=-1)
    order = np.argsort(-values, axis=-1, kind="stable")
    values = np.take_along_axis(values, order, axis=-1)
    return values[:, :1] - values[:, 1:], np.take_along_axis(best, order, axis=-1)


def _left(scores: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the variant's margins in the source's order; the last is to the best of the rest."""
    first = np.take_along_axis(scores, order[:, :-1], axis=-1)
    rest = scores.copy()
    np.put_along_axis(rest, order[:, :-1], -np.inf, axis=-1)
    return first[:, :1] - np.concatenate([first[:, 1:], rest.max(axis=-1, keepdims=True)], axis=-1)


def extrapolated(
    table: Callable[[int], np.ndarray], pairs: Pairs, steepest: float = 1.0
) -> tuple[float, float, int]:
    """Return a mean over pairs at the differences' own size, from the size at which it is sure.

    Args:
        table: takes a factor of the differences and returns a value per pair, [a, b].
        pairs: the pairs.
        steepest: the largest power of the factor with which the mean may grow.

    Returns:
        The mean, about how many events it comes from, and the factor at which it was found.
    """
    mean, events, scale = 0.0, 0.0, 1
    for scale in _SCALES:
        mean, variance = pairs.mean(table(scale))
        events = mean * mean / max(variance, 1e-300)
        if events >= _EVENTS:
            break
    if not mean > 0:
        return 0.0, 0.0, scale
    power = 1.0
    if scale > 1 and steepest > 1:
        twice = pairs.mean(table(2 * scale))[0]
        power = min(max(math.log2(twice / mean) - _DOUBT, 1.0), steepest)
    return mean * scale**-power, 1 / (1 / events + _MISFIT**2), scale


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
