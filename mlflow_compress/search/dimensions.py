"""What a setting may be: one of some choices, or a number of a range."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mlflow_compress.errors import ConfigError

__all__ = ["Choice", "Dimension", "Range", "parse_choice", "parse_range"]


_MOST_VALUES = 100_000


@dataclass(frozen=True)
class Choice:
    """An open setting that takes one of a few values."""

    values: tuple[Any, ...]

    def expand(self) -> tuple[Any, ...] | None:
        """Return all values."""
        return self.values

    @property
    def count(self) -> float:
        """How many values there are."""
        return len(self.values)

    def end(self, which: int) -> Any:
        """Return the first (0) or last (-1) value."""
        return self.values[which]


@dataclass(frozen=True)
class Range:
    """An open setting that takes a number from ``low`` to ``high``, both included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def integer(self) -> bool:
        """Whether only whole numbers are drawn (both ends, and the step, are whole)."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 1))

    def expand(self) -> tuple[Any, ...] | None:
        """Return all values, or None when there are infinitely many."""
        return _values(self.low, self.high, self.step, self.log)

    @property
    def count(self) -> float:
        """How many values there are, perhaps infinitely many."""
        values = self.expand()
        if values is not None:
            return len(values)
        return (
            self.high - self.low + 1 if self.integer else 1 if self.low == self.high else math.inf
        )

    def end(self, which: int) -> Any:
        """Return the lowest (0) or highest (-1) value."""
        return (self.low, self.high)[which]

    def up_to(self, bound: float, *, below: bool) -> "Range":
        """Return the part below (or above) a value of the range that is not its own end.

        Without a step the bound of a range of fractions stays in: it has no neighbour.
        """
        values = self.expand()
        if values is not None:
            rest = [v for v in values if (v < bound if below else v > bound)]
            return replace(self, low=rest[0], high=rest[-1])
        end = bound + (0 if not self.integer else -1 if below else 1)
        return replace(self, high=end) if below else replace(self, low=end)


@lru_cache(typed=True)
def _values(low: float, high: float, step: float | None, log: bool) -> tuple[Any, ...] | None:
    integer = Range(low, high, step, log).integer
    if step is None and integer and not log:
        step = 1
    if step is None:
        return None
    count = math.floor((high - low) / step + 1e-9) + 1
    values = (low + index * step for index in range(count))
    return tuple(int(v) if integer else round(v, 12) for v in values)


Dimension = Choice | Range


def parse_choice(value: Mapping[str, Any], where: str) -> Choice:
    """Read ``{choices: […]}``.

    Raises:
        ConfigError: it has another form; ``where`` is named.
    """
    choices = value["choices"]
    if len(value) != 1 or not isinstance(choices, list | tuple) or not choices:
        raise ConfigError(f"{where}: choices must be a list that is not empty, got {value!r}")
    return Choice(tuple(choices))


def parse_range(value: Mapping[str, Any], where: str) -> Range:
    """Read ``{low: …, high: …}`` with ``step`` or ``log``.

    Raises:
        ConfigError: it has another form; ``where`` is named.
    """
    unknown = set(value) - {"low", "high", "step", "log"}
    if unknown or "low" not in value or "high" not in value:
        raise ConfigError(f"{where}: a range has low, high and perhaps step or log, got {value!r}")
    low, high, step = value["low"], value["high"], value.get("step")
    log = value.get("log", False)
    numbers = [low, high] + ([] if step is None else [step])
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ConfigError(f"{where}: low, high and step must be numbers, got {value!r}")
    if not all(math.isfinite(n) for n in numbers) or low > high or (step is not None and step <= 0):
        raise ConfigError(f"{where}: needs low <= high and step > 0, got {value!r}")
    if step is not None or (not log and all(isinstance(n, int) for n in numbers)):
        count = (high - low) / (step or 1)
        if count > _MOST_VALUES:
            raise ConfigError(
                f"{where}: a range has at most {_MOST_VALUES:,} values, this one {count:,.0f}: "
                "give it a larger step"
            )
    if not isinstance(log, bool) or (log and (step is not None or low <= 0)):
        raise ConfigError(f"{where}: a log range needs low > 0 and no step, got {value!r}")
    return Range(low, high, step, log)
