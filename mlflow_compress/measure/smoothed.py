"""Bounds of agreement, divergence and accuracy that say more than counting rows can.

Of 16 rows that all agree, counting says no more than that at least 83 % of all rows do. But the
rows also show how far the variant's scores are from the source's, and the source's own scores say
how often a difference of that size changes a class. Every row's margins are therefore paired with
every confirming row's differences, as if the differences of one row could have befallen another.
What that says is then corrected by what was counted, the more the more rows there are: a gamma
prior and a Poisson count (Gelman et al., "Bayesian data analysis", section 2.6).

All scores are on the scale of logits, classes along the last axis (:func:`log_scores`).
"""

import math
from dataclasses import replace

import numpy as np
from scipy import optimize, stats

from mlflow_compress.measure.bounds import Bound, gamma_bound, mean_bound, share_bound
from mlflow_compress.measure.intervals import paired_proportions_interval
from mlflow_compress.measure.pairs import (
    Pairs,
    extrapolated,
    log_softmax,
    margins_of,
    pair_up,
    take,
)
from mlflow_compress.records import Interval

__all__ = ["drop_bound", "flip_bound", "flip_interval", "kl_bound", "log_scores"]

_LABELS = 1 << 21
"""Scores of at most so many labels times classes set the temperature."""

_PAIRS_OF_KL = 1 << 19
"""At most so many pairs for the divergence, which takes exponentials."""

_STEEPEST = 1.3
"""The drop grows with the differences' size to the power of 1 to 2, as slight margins are toss-ups;
only a part of what is found beyond 1 is taken on trust. The share of changes is taken to grow
with the power of 1: where small margins are rare that is too much, which errs to the safe side."""

_MISCALIBRATED = 0.05
"""What the source's probabilities of two classes that are close may be off on average."""

_MISFIT_KL = 2.0
"""Relative error of a smoothed divergence beside that of sampling: it goes with the square of the
differences, and with those of the few rows where they are large."""

_SMALLEST = 1e-12
"""Probabilities are taken to be at least this; float32 tells smaller ones from 0, but not well."""


def log_scores(output: np.ndarray, *, is_probability: bool) -> np.ndarray:
    """Return scores on the scale of logits, in float64, of [..., classes].

    Args:
        output: probabilities or logits of [..., classes]; one column stands for two classes.
        is_probability: whether to take the logarithm.
    """
    values = np.asarray(output, np.float64)
    if values.shape[-1] == 1:
        rest = 1 - values if is_probability else np.zeros_like(values)
        values = np.concatenate([rest, values], axis=-1)
    if not is_probability:
        return values
    return np.log(np.maximum(values, _SMALLEST))  # NaN stays NaN


def flip_bound(
    source: np.ndarray,
    variant: np.ndarray,
    others: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Bound:
    """Return the upper bound of the share of positions whose class changes.

    Args:
        source: the source's scores on the confirming rows, [rows, ..., classes].
        variant: the variant's on the same rows.
        others: the source's scores on other rows, [rows, ..., classes]; those that techniques
            have seen will do, as the variant is not asked.
        level: confidence, 0.5 to 1.

    Returns:
        A bound of 1 when a score of the variant is not finite where the source's is, a score of
        the source is NaN, or there are fewer than two rows.
    """
    cleaned = _cleaned(source, variant, others)
    if cleaned is None or len(source) < 2:
        return Bound(math.nan, 1.0, level, len(source))
    before, after, rest = cleaned
    changed, independent = _counted(before, after)
    pairs = pair_up(before, after, rest)
    if not pairs.losses.any() and not changed:
        return Bound(0.0, 0.0, level, len(source))  # the same scores throughout
    share, events, scale = extrapolated(lambda scale: _changes(pairs, scale), pairs)
    trials = events / share if share > 0 else float(pairs.rows * scale)
    events, trials = events + changed, trials + independent
    bound = float(stats.chi2.ppf(level, 2 * events + 2)) / (2 * trials)
    surely = share_bound(changed, independent, level=level, side="lower").bound
    return Bound(events / trials, min(max(bound, surely), 1.0), level, len(source))


def flip_interval(
    source: np.ndarray,
    variant: np.ndarray,
    others: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Return the two-sided interval of the share of positions whose class changes, for print.

    Its upper end is that of :func:`flip_bound`, its lower end that of the plain count.
    """
    each = (1 + level) / 2
    high = flip_bound(source, variant, others, level=each).bound
    cleaned = _cleaned(source, variant, None)
    if cleaned is None:
        return Interval(0.0, 1.0, level)
    changed, independent = _counted(cleaned[0], cleaned[1])
    low = share_bound(changed, independent, level=each, side="lower").bound
    return Interval(min(low, high), high, level)


def drop_bound(
    source: np.ndarray,
    variant: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray | None = None,
    other_labels: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Bound:
    """Return the upper bound of the drop of accuracy.

    Where a class changes, the source's own probabilities say how much less often the new class is
    right; the labels of all rows set their temperature (Guo et al., "On calibration of modern
    neural networks", 2017). That is averaged with what was counted, by their variances.

    Args:
        source: the source's scores on the confirming rows, [rows, ..., classes].
        variant: the variant's on the same rows.
        labels: class numbers, [rows, ...].
        others: the source's scores on other rows, [rows, ..., classes].
        other_labels: their labels, [rows, ...].
        level: confidence, above 0.5.

    Returns:
        A bound of 1 for the inputs for which :func:`flip_bound` has one.
    """
    cleaned = _cleaned(source, variant, others)
    if cleaned is None or len(source) < 2:
        return Bound(math.nan, 1.0, level, len(source))
    before, after, rest = cleaned
    rows = len(source)
    wanted = labels.reshape(before.shape[:-1])
    lost = (before.argmax(axis=-1) == wanted) & (after.argmax(axis=-1) != wanted)
    won = (before.argmax(axis=-1) != wanted) & (after.argmax(axis=-1) == wanted)
    each = (lost.astype(np.float64) - won).reshape(rows, -1).mean(axis=1)
    counted = float(each.mean())
    spread = (float(each @ each) + 1) / rows**2
    normal = float(stats.norm.ppf(level))
    pairs = pair_up(before, after, rest)
    truth, known = wanted.reshape(-1), None
    if rest is not None and other_labels is not None:
        truth, known = np.concatenate([truth, other_labels.reshape(-1)]), rest
    temperature = _temperature(before, known, truth)
    scores = take(before, rest, pairs.position_a)
    smooth, smooth_spread = _smooth_drop(pairs, scores, temperature, level, normal)
    weight = spread / (spread + smooth_spread)
    estimate = weight * smooth + (1 - weight) * counted
    bound = estimate + normal * math.sqrt(weight * smooth_spread)
    if before.ndim == 2:
        tango = paired_proportions_interval(
            int(lost.sum()), int(won.sum()), rows, level=2 * level - 1
        )
        bound = max(bound, tango.low)
    return Bound(estimate, min(bound, 1.0), level, rows)


def kl_bound(
    source: np.ndarray,
    variant: np.ndarray,
    others: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Bound:
    """Return the upper bound of the mean KL divergence from the source's distributions, nats.

    A few unsure rows make up most of a mean divergence, so that the mean of few rows says little.

    Args:
        source: the source's scores on the confirming rows, [rows, ..., classes].
        variant: the variant's on the same rows.
        others: the source's scores on other rows, [rows, ..., classes].
        level: confidence, above 0.5.

    Returns:
        A bound that is infinite for the inputs for which :func:`flip_bound` has 1.
    """
    cleaned = _cleaned(source, variant, others)
    if cleaned is None or len(source) < 2:
        return Bound(math.nan, math.inf, level, len(source))
    before, after, rest = cleaned
    rows = len(source)
    p, q = log_softmax(before), log_softmax(after)
    each = (np.exp(p) * (p - q)).sum(axis=-1)
    by_row = np.maximum(each.reshape(rows, -1).mean(axis=1), 0)
    plain = mean_bound(by_row, level=level)
    pairs = _fewer(pair_up(before, after, rest))
    table = _divergences(pairs, pairs.margins, pairs.losses)
    same = _divergences_of_own(pairs, before)
    if not same.mean() > 0 or not plain.estimate > 0:
        return plain
    table = table * max(float(each.reshape(-1)[pairs.position_b].mean() / same.mean()), 1.0)
    smooth, variance = pairs.mean(table)
    variance += (_MISFIT_KL * smooth) ** 2
    spread = max(float(by_row.var(ddof=1)), _between_rows(pairs, table)) / rows
    weight = spread / max(spread + variance, math.ulp(0.0))
    estimate = weight * smooth + (1 - weight) * plain.estimate
    if not min(weight * variance, estimate**2) > 0:
        return plain  # so small that it is no number any more
    bound = gamma_bound(estimate, estimate**2 / (weight * variance), level)
    lower = mean_bound(by_row, level=level, side="lower").bound
    return replace(plain, estimate=estimate, bound=max(bound, lower))


def _cleaned(
    source: np.ndarray, variant: np.ndarray, others: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Return the scores in float64 without infinities, or None when they can't be compared.

    A class that both models rule out by minus infinity gets a low score of both.
    """
    before, after = np.asarray(source, np.float64), np.asarray(variant, np.float64)
    rest = None if others is None or not len(others) else np.asarray(others, np.float64)
    arrays = [before, after] if rest is None else [before, after, rest]
    if all(np.isfinite(array).all() for array in arrays):
        return before, after, rest
    usable = all((np.isfinite(a) | np.isneginf(a)).all() for a in arrays)
    if not usable or (np.isneginf(after) & ~np.isneginf(before)).any():
        return None
    if any((~np.isfinite(array)).all(axis=-1).any() for array in arrays):
        return None
    low = min(float(array[np.isfinite(array)].min()) for array in arrays) + math.log(_SMALLEST)
    ruled_out = np.isneginf(before)
    after = np.where(ruled_out, low, after)
    before = np.where(ruled_out, low, before)
    return before, after, None if rest is None else np.where(np.isneginf(rest), low, rest)


def _counted(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return how many positions changed their class, out of how many independent ones."""
    rows = len(before)
    changed = (before.argmax(axis=-1) != after.argmax(axis=-1)).reshape(rows, -1).mean(axis=1)
    share = float(changed.mean())
    if before.ndim == 2 or not 0 < share < 1:
        return share * rows, float(rows)
    variance = float(changed.var(ddof=1)) / rows
    positions = math.prod(before.shape[:-1])
    independent = min(share * (1 - share) / max(variance, 1e-300), positions)
    return share * independent, independent


def _changes(pairs: Pairs, scale: float) -> np.ndarray:
    """Return whether the class changes, for every pair, [a, b]."""
    changed = np.zeros((len(pairs.margins), len(pairs.losses)), bool)
    for margins, losses in zip(pairs.margins.T, pairs.losses.T, strict=True):
        changed |= scale * losses > margins[:, None]
    return changed


def _temperature(before: np.ndarray, rest: np.ndarray | None, labels: np.ndarray) -> float:
    """Return the factor of the logits at which the labels are likeliest, drawn towards 1."""
    most = min(len(labels), max(_LABELS // before.shape[-1], 32))
    few = np.sort(np.random.default_rng(0).choice(len(labels), most, replace=False))
    flat, wanted = take(before, rest, few), labels[few].astype(np.int64)

    def loss(log_factor: float) -> float:
        logs = log_softmax(flat * math.exp(log_factor))
        return -float(logs[np.arange(len(wanted)), wanted].sum()) + 2 * log_factor**2

    return math.exp(optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)


def _smooth_drop(
    pairs: Pairs, scores: np.ndarray, temperature: float, level: float, normal: float
) -> tuple[float, float]:
    """Return the drop by the source's own probabilities, and its variance."""
    logs = log_softmax(scores * temperature)
    best = np.exp(logs.max(axis=-1))
    shares = np.exp(-np.concatenate([np.zeros((len(best), 1)), pairs.margins], 1) * temperature)
    losing = best[:, None] * (1 - shares)  # [a, ranks], the drop when a rank becomes the best

    def dropped(scale: int) -> np.ndarray:
        left = np.zeros((len(pairs.margins), len(pairs.losses)))
        drop = np.zeros_like(left)
        for rank, (margins, losses) in enumerate(
            zip(pairs.margins.T, pairs.losses.T, strict=True), start=1
        ):
            now = margins[:, None] - scale * losses
            drop = np.where(now < left, losing[:, rank, None], drop)
            left = np.minimum(left, now)
        return drop

    mean, events, scale = extrapolated(dropped, pairs, _STEEPEST)
    if not mean > 0:
        return 0.0, (1 / (pairs.rows * scale)) ** 2 if pairs.losses.any() else 1e-300
    share = extrapolated(lambda scale: _changes(pairs, scale), pairs)[0]
    spread = ((gamma_bound(mean, events, level) - mean) / normal) ** 2
    return mean, spread + (_MISCALIBRATED * share) ** 2


def _fewer(pairs: Pairs) -> Pairs:
    """Return fewer positions, so that their pairs are few enough to take exponentials of."""
    differences = min(len(pairs.losses), 128)
    b = np.linspace(0, len(pairs.losses) - 1, differences).astype(np.int64)
    count = min(len(pairs.margins), _PAIRS_OF_KL // differences)
    a = np.linspace(0, len(pairs.margins) - 1, count).astype(np.int64)
    return replace(
        pairs,
        margins=pairs.margins[a],
        losses=pairs.losses[b],
        row_a=pairs.row_a[a],
        row_b=pairs.row_b[b],
        position_a=pairs.position_a[a],
        position_b=pairs.position_b[b],
    )


def _divergences(pairs: Pairs, margins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the KL divergence of every pair over the ranks, [a, b]."""
    p = log_softmax(-np.concatenate([np.zeros((len(margins), 1)), margins], axis=1))
    log_sum = np.zeros((len(margins), len(losses)))
    expected = np.zeros_like(log_sum)
    for rank in range(1, p.shape[1]):
        moved = -pairs.kept * (margins[:, None, rank - 1] - losses[None, :, rank - 1])
        log_sum = np.logaddexp(log_sum, moved)
        expected += np.exp(p[:, rank, None]) * moved
    entropy = (np.exp(p) * p).sum(axis=1)
    return np.maximum(entropy[:, None] - expected + log_sum, 0)


def _divergences_of_own(pairs: Pairs, before: np.ndarray) -> np.ndarray:
    """Return the KL divergence over the ranks of the confirming positions themselves, [b]."""
    own, _ = margins_of(before.reshape(-1, before.shape[-1])[pairs.position_b])
    found = [
        _divergences(pairs, margins[None], losses[None])[0, 0]
        for margins, losses in zip(own, pairs.losses, strict=True)
    ]
    return np.array(found)


def _between_rows(pairs: Pairs, table: np.ndarray) -> float:
    """Return the variance between rows of a value that all pairs have."""
    counts = np.bincount(pairs.row_a, minlength=pairs.rows)
    sums = np.zeros((pairs.rows, table.shape[1]))
    np.add.at(sums, pairs.row_a, table)
    means = sums[counts > 0] / counts[counts > 0, None]
    return float(means.var())
