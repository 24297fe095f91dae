"""How points of a space are chosen: each strategy is a class, found by entry point.

The search owns one ask/tell loop. A strategy gives it a list of points to go through, or an Optuna
sampler that draws them, or draws them itself.
"""

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlflow_compress.base.modules import require_modules
from mlflow_compress.base.plugins import Group
from mlflow_compress.errors import ConfigError
from mlflow_compress.search.evolution import Tried, breed
from mlflow_compress.search.space import Point, Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = [
    "Evolution",
    "Gp",
    "Grid",
    "Manual",
    "Nsga2",
    "Random",
    "Strategy",
    "Tpe",
    "get_strategy",
    "strategy_names",
]

_GROUP = Group("mlflow_compress.strategies", "search.strategy")


class Strategy(Protocol):
    """Chooses points; one instance serves one search.

    One whose :meth:`points` leaves the choice open has a method ``sampler(seed)`` that returns an
    Optuna sampler, or ``propose(space, history, rng)`` that returns a point (see
    :func:`~mlflow_compress.search.evolution.breed`), or None to end the search.
    Attributes that count where they are there: ``whole`` (true: ask every parameter in every
    trial), ``plain`` (true: parameters that a point leaves unused are told at their lowest, so that
    equal recipes are equal points), ``blind`` (true: a repeated point is replaced by any new one,
    not by one near it), ``breeds`` (true: the sampler keeps generations) and ``window`` (so many
    trials may be on their way when it is asked: 1 for a strategy that ends at the first success).
    """

    def points(self, space: Space) -> Iterable[Point] | None:
        """Return the points to try in order, or None to choose them one by one."""


class Random:
    """Draws every open setting independently and uniformly."""

    blind = True

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


class _Model:
    """Leaves every choice to a sampler that learns from the trials before."""

    def points(self, space: Space) -> Iterable[Point] | None:
        """Leave the choice to the sampler."""
        return None


class Gp(_Model):
    """Models each objective and limit by a Gaussian process; the most for the fewest trials."""

    whole = True
    plain = True

    def __init__(self) -> None:
        """Check that what Optuna's sampler needs is installed.

        Raises:
            MissingDependencyError: torch is missing.
        """
        what = "search.strategy gp (tpe does not)"
        require_modules({"torch": "mlflow-compress[torch]"}, what)

    def sampler(self, seed: int) -> "BaseSampler":
        """Return Optuna's Gaussian process sampler."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, warn_independent_sampling=False)


class Tpe(_Model):
    """Tree-structured Parzen estimator of all settings together: many trials, cheaply.

    Modelled apart, as Optuna does by default, good settings are not found together: on the LeNet
    space of benchmarks/search.py that is no better than chance.
    """

    whole = True

    def sampler(self, seed: int) -> "BaseSampler":
        """Return Optuna's TPE sampler."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, n_ei_candidates=100)


class Nsga2(_Model):
    """Genetic algorithm with generations of 20 and a front in each."""

    whole = True
    breeds = True

    def sampler(self, seed: int) -> "BaseSampler":
        """Return Optuna's NSGA-II sampler."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=20)


class Evolution(_Model):
    """Evolution made for large spaces, such as a setting per layer."""

    def propose(self, space: Space, history: Sequence[Tried], rng: np.random.Generator) -> Point:
        """See :func:`~mlflow_compress.search.evolution.breed`."""
        return breed(space, history, rng)


def strategy_names() -> list[str]:
    """Return the names of all installed strategies, sorted."""
    return list(_GROUP.names())


def get_strategy(name: str) -> Strategy:
    """Return a new strategy by its name.

    Raises:
        ConfigError: there is none of that name; the message lists what there is.
    """
    made: Strategy = _GROUP.load(name)()
    return made
