"""The records that other records are made of."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

__all__ = ["Bound", "DatasetRef", "Interval", "Side"]

Side = Literal["upper", "lower"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float
    level: float = 0.95

    @classmethod
    def of_share(cls, share: float, rows: int, level: float) -> "Interval":
        """Return the score interval of a share of rows, never of zero width (Wilson, 1927)."""
        z = NormalDist().inv_cdf((1 + level) / 2)
        middle = share + z * z / (2 * rows)
        spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
        whole = 1 + z * z / rows
        return cls(max((middle - spread) / whole, 0.0), min((middle + spread) / whole, 1.0), level)

    def including(self, value: float) -> "Interval":
        """Return the interval, stretched to a value outside it.

        A bound that knows more than the rows at hand may leave out what was counted on these.
        """
        return Interval(min(self.low, value), max(self.high, value), self.level)


@dataclass(frozen=True)
class DatasetRef:
    """Named rows of a named dataset; ``digest`` is the project's own full sha256."""

    name: str
    digest: str
    rows: int


@dataclass(frozen=True)
class Bound:
    """An estimate and its one-sided confidence bound.

    Attributes:
        estimate: the estimate from the rows.
        bound: what the true value does not pass, at the level; infinite when nothing can be said.
        level: confidence of the bound, 0 to 1.
        rows: the independent rows that it comes from.
        side: ``upper`` when the true value is at most ``bound``, ``lower`` when at least.
    """

    estimate: float
    bound: float
    level: float
    rows: int
    side: Side = "upper"
