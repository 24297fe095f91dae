"""The best that a number may still turn out, from what a look at some rows has shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mlflow_compress.records import Accuracy, Fidelity

__all__ = ["Look", "best_accuracy", "best_agreement", "best_drop", "upper"]


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


def upper(share: float, rows: int, level: float) -> float:
    """Return the upper end of a share's interval at a confidence level (Wilson, 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * rows)
    spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return (middle + spread) / (1 + z * z / rows)


def best_accuracy(look: Look) -> float | None:
    """Return the highest accuracy that a look leaves room for, None when it says nothing."""
    accuracy = look.accuracy
    if accuracy is None or not accuracy.higher_is_better:
        return None
    if math.isfinite(look.source):
        return look.source - accuracy.drop_interval.low
    return upper(accuracy.value, accuracy.dataset.rows, look.level)


def best_drop(look: Look) -> float | None:
    """Return the least drop that a look leaves room for, None when it says nothing."""
    return None if look.accuracy is None else look.accuracy.drop_interval.low


def best_agreement(look: Look) -> float | None:
    """Return the highest agreement that a look leaves room for, None when it says nothing."""
    fidelity = look.fidelity
    if fidelity is None or fidelity.agreement is None:
        return None
    return upper(fidelity.agreement, fidelity.dataset.rows, look.level)
