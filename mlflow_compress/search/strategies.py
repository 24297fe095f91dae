"""How points of a space are chosen: each strategy is a class, found by entry point.

The study owns one Optuna ask/tell loop. A strategy gives it either a list of points to go
through, or a sampler that draws them.
"""

import difflib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from mlflow_compress.errors import ConfigError
from mlflow_compress.search.space import Point, Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["Grid", "Manual", "Random", "Strategy", "get_strategy", "strategy_names"]

GROUP = "mlflow_compress.strategies"


class Strategy(Protocol):
    """Chooses points; one instance serves one search."""

    def points(self, space: Space) -> Iterable[Point] | None:
        """Return the points to try in order, or None when the sampler draws them."""

    def sampler(self, seed: int) -> "BaseSampler":
        """Return the Optuna sampler that draws what :meth:`points` leaves open."""


class Random:
    """Draws every open setting independently and uniformly."""

    def points(self, space: Space) -> Iterable[Point] | None:
        """Leave the choice to the sampler."""
        return None

    def sampler(self, seed: int) -> "BaseSampler":
        """Return Optuna's random sampler."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class Grid(Random):
    """Goes through every point of a finite space."""

    def points(self, space: Space) -> Iterable[Point] | None:
        """Return every point; a range without a step is refused."""
        return space.points()


class Manual(Random):
    """Goes through a list of recipes that has no open setting."""

    def points(self, space: Space) -> Iterable[Point] | None:
        """Return one point per recipe.

        Raises:
            ConfigError: a setting has choices or a range.
        """
        if not space.is_fixed:
            name = next(n for a in space.alternatives for n in a.dimensions)
            raise ConfigError(
                f"search.strategy manual: {name} has a range; give it one value, or choose "
                "the strategy grid or random"
            )
        return space.points()


def strategy_names() -> list[str]:
    """Return the names of all installed strategies, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def get_strategy(name: str) -> Strategy:
    """Return a new strategy by its name.

    Raises:
        ConfigError: there is none of that name; the message lists what there is.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry.load()()
    names = strategy_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"search.strategy: must be one of {', '.join(names)}, got {name!r}{hint}")
