"""The records that other records are made of."""

from dataclasses import dataclass

__all__ = ["DatasetRef", "Interval"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class DatasetRef:
    """Named rows of a named dataset; ``digest`` is the project's own full sha256."""

    name: str
    digest: str
    rows: int
