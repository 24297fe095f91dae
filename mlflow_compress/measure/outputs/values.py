"""Values: the error's power over the variance of the source's output, per channel.

Channels of one scale are pooled: a small one among them is noise of the large ones. Where scales
differ, as in a head that gives a price and an age, or in a detector's raw output of pixels and
scores, each group of like channels is judged by itself, and the worst one counts.
"""

from dataclasses import dataclass

import numpy as np

from mlflow_compress.measure.outputs.pairs import broken_rows, cleaned, pairs
from mlflow_compress.records import Output
from mlflow_compress.rows import Array

__all__ = ["ValueRows", "channel_axis", "compare_values"]

_APART = 10.0
"""Standard deviations that differ by so much are of different scales."""

_FEW = 0.02
"""A group with a smaller share of the channels is no scale of its own: dead units have many."""

_MANY = 64
"""Channels; of fewer, in an output of [rows, channels], each is judged by itself."""

_CONSTANT = 1e-6
"""Least variance of a channel, as a share of its power: errors of a constant are relative to it."""

_STILL = 1e-9
"""Least variance of all of an output's values, as a share of their power: rounding of floats."""

_TINY = 1e-30


@dataclass(frozen=True)
class ValueRows:
    """What each row says.

    Attributes:
        errors: power of the error summed over a row's places, [rows, groups].
        powers: power of the source's deviation from its channels' means, [rows, groups]; what
            hardly varies beside its size counts as if it varied a little.
        broken: rows that are not finite, [rows] of bool.
        deviations: power of the source's deviation from the mean of all its values, [rows].
    """

    errors: np.ndarray
    powers: np.ndarray
    broken: np.ndarray
    deviations: np.ndarray

    @property
    def error(self) -> float:
        """The normalised error of the group that is furthest off; infinite when a row is broken."""
        if self.broken.any() or not np.isfinite(self.errors).all():
            return float("inf")
        with np.errstate(invalid="ignore"):  # the source itself may be none: NaN passes no gate
            shares = self.errors.sum(axis=0) / self.powers.sum(axis=0)
        return float(shares.max(initial=0.0))

    @property
    def is_still(self) -> bool:
        """Whether the error is larger beside all that the output varies than in any group.

        So it is where every channel hardly varies beside its size, as 900 ± 0.1 does.
        """
        varied = float(self.deviations.sum())
        return bool(np.isfinite(self.error)) and float(self.errors.sum()) > self.error * varied

    @property
    def whole(self) -> "ValueRows":
        """The same with all values as one group, beside all that they vary."""
        together = self.deviations[:, None]
        return ValueRows(
            self.errors.sum(axis=1, keepdims=True), together, self.broken, self.deviations
        )

    @property
    def worst(self) -> int:
        """Which group that is."""
        with np.errstate(invalid="ignore"):
            return int((self.errors.sum(axis=0) / self.powers.sum(axis=0)).argmax())


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of an output of [rows, ...] that channels are likely along, or None."""
    if len(shape) < 3:
        return 1 if len(shape) == 2 else None
    candidates = [axis for axis in (1, len(shape) - 1) if shape[axis] > 1]
    return min(candidates, key=lambda axis: shape[axis], default=None)


@np.errstate(over="ignore", invalid="ignore")
def compare_values(spec: Output, variant: Array, source: Array) -> ValueRows:
    """Compare values row by row; a row of another shape is infinitely wrong.

    So are all rows where the squares of doubles are beyond doubles: an infinite error is of no
    group, and counts for all.
    """
    blocks, left = [], 0
    for pair in pairs(variant, source):
        if pair is None:
            left += 1
        else:
            blocks.append(_block(spec, *pair))
    if not blocks:
        infinite, one = np.full((left, 1), np.inf), np.ones((left, 1))
        return ValueRows(infinite, one, np.zeros(left, bool), one[:, 0])
    sums = [np.concatenate([block[index] for block in blocks]) for index in range(5)]
    errors, counts, totals, squares, broken = sums
    size = np.maximum(counts.sum(axis=0), 1)
    means = totals.sum(axis=0) / size
    mean_power = squares.sum(axis=0) / size
    variances = np.maximum(mean_power - means**2, 0)
    # sum over a row's places of (x - mean)^2, from its sums
    powers = squares - 2 * means * totals + counts * means**2
    silent = mean_power == 0
    floor = np.where(silent, _usual(variances[~silent]), _CONSTANT * mean_power) + _TINY
    powers = np.maximum(powers, 0) + counts * np.maximum(floor - variances, 0)
    deviations = _deviations(counts, totals, squares)
    bounds = np.stack([block[5] for block in blocks])
    probable = (bounds[..., 0].min(axis=0) >= 0) & (bounds[..., 1].max(axis=0) <= 1)
    groups = _groups(np.sqrt(np.maximum(variances, floor)), probable, spec)
    if groups.shape[1] < len(floor):  # by themselves, they would make little of errors in others
        groups = _apart(groups, silent)
    errors, powers = errors @ groups, powers @ groups
    if left:
        errors = np.concatenate([errors, np.full((left, errors.shape[1]), np.inf)])
        powers = np.concatenate([powers, np.ones((left, powers.shape[1]))])
        broken = np.concatenate([broken, np.zeros(left, bool)])
        deviations = np.concatenate([deviations, np.ones(left)])
    return ValueRows(errors, powers, broken, deviations)


def _apart(groups: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Put the channels that give nothing but zeros into a group of their own."""
    split = np.concatenate([groups * ~silent[:, None], silent[:, None]], axis=1, dtype=float)
    return split[:, split.any(axis=0)]


def _usual(variances: np.ndarray) -> float:
    """Return the variance that a channel counts with which gives nothing but zeros.

    A dead unit has no scale of its own: an error in it counts as in a usual channel.
    """
    return float(np.median(variances)) if variances.size else 0.0


def _deviations(counts: np.ndarray, totals: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return how far each row's values are from the mean of all, squared and summed, [rows].

    Args:
        counts: of values, [rows, channels].
        totals: their sums.
        squares: the sums of their squares.
    """
    count, total, square = (sums.sum(axis=1) for sums in (counts, totals, squares))
    size = max(float(count.sum()), 1.0)
    mean, power = float(total.sum()) / size, float(square.sum()) / size
    around = np.maximum(square - 2 * mean * total + count * (mean * mean), 0)
    missing = _STILL * power + _TINY - float(around.sum()) / size
    return np.asarray(around + count * max(missing, 0.0))


def _block(
    spec: Output, given: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return per row and channel: error, count, sum and sum of squares; broken rows; the bounds."""
    broken = broken_rows(given, wanted)
    one, other, left_out = cleaned(given, wanted)
    one, other = _channels_last(spec, one), _channels_last(spec, other)
    present = 1.0 - _channels_last(spec, left_out.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        errors = ((one - other) ** 2).sum(axis=1)
    errors = np.where(np.isnan(errors), np.inf, errors)
    flat = other.reshape(-1, other.shape[-1])
    low = flat.min(axis=0, initial=0.0)
    high = flat.max(axis=0, initial=0.0)
    return (
        errors,
        present.sum(axis=1),
        other.sum(axis=1),
        (other**2).sum(axis=1),
        broken,
        np.stack([low, high], axis=-1),
    )


def _channels_last(spec: Output, array: np.ndarray) -> np.ndarray:
    """Return [rows, places, channels]."""
    if spec.axis is None or array.ndim < 2:
        return array.reshape(len(array), -1, 1)
    moved = np.moveaxis(array, spec.axis, -1)
    return moved.reshape(len(array), -1, moved.shape[-1])


def _groups(spreads: np.ndarray, probable: np.ndarray, spec: Output) -> np.ndarray:
    """Return which group each channel is in, [channels, groups] of 0 and 1.

    Args:
        spreads: standard deviations, [channels].
        probable: which channels lie between 0 and 1, as probabilities do, [channels].
        spec: the output; its setting ``each`` judges every channel by itself.
    """
    channels = len(spreads)
    if spec.settings.get("each") and channels <= _MANY:
        return np.eye(channels)
    numbers = np.zeros(channels, np.int64)
    rest = np.flatnonzero(~probable)
    if len(rest):
        order = rest[np.argsort(-spreads[rest], kind="stable")]
        scales = np.log(np.maximum(spreads[order], _TINY))
        begins = np.concatenate([[True], -np.diff(scales) > np.log(_APART)])
        group = np.cumsum(begins)
        for number in range(2, int(group[-1]) + 1):
            if (group == number).sum() < _FEW * channels:
                group[group == number] = number - 1
        numbers[order] = group
    kept, numbers = np.unique(numbers, return_inverse=True)
    return np.eye(len(kept))[numbers]
