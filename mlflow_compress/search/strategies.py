"""How points of a space are chosen: each strategy is a class, found by entry point.

The search owns one ask/tell loop. A strategy gives it a list of points to go through, or an Optuna
sampler that draws them, or draws them itself.
"""

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_compress.base.modules import require_modules
from mlflow_compress.base.plugins import Group
from mlflow_compress.errors import ConfigError
from mlflow_compress.search.evolution import Tried, breed
from mlflow_compress.search.observer import WINDOW
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
    "as_strategy",
    "get_strategy",
    "strategy_names",
]

_GROUP = Group("mlflow_compress.strategies", "search.strategy")


class Strategy:
    """Chooses points; one instance serves one search.

    One whose :meth:`points` leaves the choice open overrides :meth:`sampler` or :meth:`propose`. A
    class of another package need not inherit: what it has when the search begins counts, what it
    has not is as here (:func:`as_strategy`).

    Attributes:
        whole: ask every parameter in every trial.
        plain: parameters that a point leaves unused are told at their lowest, so that equal recipes
            are equal points.
        blind: a repeated point is replaced by any new one, not by one near it.
        breeds: the sampler keeps generations.
        window: so many trials may be on their way when it is asked: 1 for a strategy that ends at
            the first success.
    """

    whole: bool = False
    plain: bool = False
    blind: bool = False
    breeds: bool = False
    window: int = WINDOW

    def points(self, space: Space) -> Iterable[Point] | None:
        """Return the points to try in order, or None to choose them one by one."""
        return None

    def sampler(self, seed: int) -> "BaseSampler":
        """Return an Optuna sampler that draws them."""
        raise NotImplementedError

    def propose(
        self, space: Space, history: Sequence[Tried], rng: np.random.Generator
    ) -> Point | None:
        """Return a point, or None to end the search.

        See :func:`~mlflow_compress.search.evolution.breed`.
        """
        raise NotImplementedError

    @property
    def proposes(self) -> bool:
        """Whether it chooses by :meth:`propose`."""
        return type(self).propose is not Strategy.propose

    @property
    def samples(self) -> bool:
        """Whether it chooses by :meth:`sampler`."""
        return type(self).sampler is not Strategy.sampler

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self).__name__


class _Adopted(Strategy):
    """A strategy of a class that does not inherit ours."""

    def __init__(self, one: Any) -> None:
        self._one = one
        for name in ("whole", "plain", "blind", "breeds", "window"):
            setattr(self, name, getattr(one, name, getattr(Strategy, name)))

    def points(self, space: Space) -> Iterable[Point] | None:
        if not hasattr(self._one, "points"):
            return super().points(space)
        found: Iterable[Point] | None = self._one.points(space)
        return found

    def sampler(self, seed: int) -> "BaseSampler":
        return self._one.sampler(seed)

    def propose(
        self, space: Space, history: Sequence[Tried], rng: np.random.Generator
    ) -> Point | None:
        found: Point | None = self._one.propose(space, history, rng)
        return found

    @property
    def proposes(self) -> bool:
        return hasattr(self._one, "propose")

    @property
    def samples(self) -> bool:
        return hasattr(self._one, "sampler")

    @property
    def label(self) -> str:
        return type(self._one).__name__


def as_strategy(one: Any) -> Strategy:
    """Return a strategy as ours, whatever class it is of."""
    return one if isinstance(one, Strategy) else _Adopted(one)


class Random(Strategy):
    """Draws every open setting independently and uniformly."""

    blind = True

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


class Gp(Strategy):
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


class Tpe(Strategy):
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


class Nsga2(Strategy):
    """Genetic algorithm with generations of 20 and a front in each."""

    whole = True
    breeds = True

    def sampler(self, seed: int) -> "BaseSampler":
        """Return Optuna's NSGA-II sampler."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=20)


class Evolution(Strategy):
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
    return as_strategy(_GROUP.load(name)())
