"""The best that a number may still turn out, from what a look at some rows has shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_compress.records import Accuracy, Fidelity, Interval

__all__ = ["Look", "best_agreement", "best_drop", "best_metric"]


@dataclass(frozen=True)
class Look:
    """What is known of a variant from some rows only.

    Attributes:
        accuracy: on these rows, with its drop's interval at ``level``; None when not scored.
        fidelity: on the same rows, or None.
        level: of the intervals whose better ends count.
        source: the source's metric on all rows, NaN when it is not known.
        read_by: the outputs that the metric reads; None when there are no labels.
    """

    accuracy: Accuracy | None
    fidelity: Fidelity | None
    level: float
    source: float = math.nan
    read_by: Sequence[str] | None = None


def best_metric(look: Look) -> float | None:
    """Return the best of the metric that a look leaves room for, None when it says nothing."""
    accuracy = look.accuracy
    if accuracy is None:
        return None
    is_better = accuracy.higher_is_better
    if math.isfinite(look.source):
        least = accuracy.drop_interval.low
        return look.source - least if is_better else look.source + least
    interval = accuracy.interval
    if interval is None and is_better and accuracy.unit == "share":
        interval = Interval.of_share(accuracy.value, accuracy.dataset.rows, look.level)
    if interval is None:
        return None
    return interval.high if is_better else interval.low


def best_drop(look: Look) -> float | None:
    """Return the least drop that a look leaves room for, None when it says nothing."""
    return None if look.accuracy is None else look.accuracy.drop_interval.low


def best_agreement(look: Look) -> float | None:
    """Return the highest agreement that a look leaves room for, None when it says nothing."""
    fidelity = look.fidelity
    if fidelity is None or fidelity.agreement is None:
        return None
    return Interval.of_share(fidelity.agreement, fidelity.dataset.rows, look.level).high
