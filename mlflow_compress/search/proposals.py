"""Draws recipes by a strategy, each at most once, and tells the strategy what came of them.

The loop is the same for every strategy: a list of points, a strategy that proposes points itself,
or an Optuna sampler behind ask and tell.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe, Trial, Variant
from mlflow_compress.search.encoding import Encoding
from mlflow_compress.search.evolution import Tried
from mlflow_compress.search.front import Objective
from mlflow_compress.search.goals import told_values
from mlflow_compress.search.moves import distance, draw, mutate
from mlflow_compress.search.space import Alternative, Point, Space
from mlflow_compress.search.strategies import Strategy

if TYPE_CHECKING:
    import optuna

__all__ = ["Proposal", "Proposals"]

_LISTABLE = 4096
"""Spaces of so many points are listed to find one that is new."""

_START = 10
"""So many points are drawn at random before a sampler of Optuna's proposes any."""

_MANY = 1e6

_NEAR_TRIES = 300
"""In larger spaces so many neighbours are looked at before the search ends."""


@dataclass
class Proposal:
    """A recipe to try; hand it back to :meth:`Proposals.tell` with its trial."""

    recipe: Recipe
    point: Point
    asked: "optuna.Trial | None" = field(default=None, repr=False)


class Proposals:
    """Draws recipes. Tell the outcomes in the order of the proposals: strategies learn from it.

    Args:
        space: what recipes there are.
        strategy: chooses among them.
        objectives: names of what is made best.
        seed: the same seed, told the same outcomes, gives the same recipes in the same order.
        violations: by how much a variant breaks the limits that matter, by their names.
        initial: points to try first, unless the strategy has a list of its own.
    """

    def __init__(
        self,
        space: Space,
        strategy: Strategy,
        objectives: Sequence[Objective],
        seed: int = 0,
        violations: Callable[[Variant], Mapping[str, float]] = lambda variant: {},
        initial: Sequence[Point] = (),
    ) -> None:
        self._space, self._strategy = space, strategy
        self._objectives, self._violations = objectives, violations
        self._rng = np.random.default_rng([seed, 0x5EA])
        self._seen: set[str] = set()
        self._history: list[Tried] = []
        self._initial = list(initial)
        self._is_over = False
        self._constraints: tuple[str, ...] = ()
        self._last: tuple[Point, Recipe] | None = None
        self._listing: list[tuple[Point, str]] | None = None
        points = strategy.points(space)
        self._listed: Iterator[Point] | None = None if points is None else iter(points)
        self._encoding = Encoding(space, whole=strategy.whole)
        self._study: optuna.Study | None = None
        if self._listed is None and not strategy.proposes:
            self._study = _new_study(strategy, len(objectives), seed)

    def next(self) -> Proposal | None:
        """Return a recipe that was not proposed before, or None for good when none is left."""
        if not self._is_over:
            made = self._next()
            self._is_over = made is None
            return made
        return None

    def _next(self) -> Proposal | None:
        if self._listed is not None:
            return self._next_of(self._listed)
        while self._initial:
            first = self._initial.pop(0)
            if self._digest(first) not in self._seen:
                return self._proposal(first, self._enqueue(first))
        point, asked = self._draw()
        if point is None:
            return None
        digest = self._digest(point)
        if digest in self._seen:
            if asked is not None:
                self._drop(asked)
            new = self._unseen(point)
            if new is None:
                return None
            point, asked = new, self._enqueue(new)
        return self._proposal(point, asked)

    def tell(self, proposal: Proposal, trial: Trial) -> None:
        """Tell the strategy what came of a proposal."""
        variant, complete = trial.variant, True
        if trial.partial is not None:
            variant, complete = Variant(trial.key, trial.recipe, trial.partial), False
        values: tuple[float, ...] | None = None
        broken: dict[str, float] = {}
        if variant is not None:
            values = told_values(variant, self._objectives, complete=complete)
            # What was dropped lacks measures; samplers want the same constraints every time.
            known = dict(self._violations(variant))
            broken = dict.fromkeys(self._constraints, 0.0) | known
            self._constraints = tuple(broken)
        if values is not None and any(value != value for value in values):
            values = None
        self._history.append(Tried(proposal.point, values, broken))
        if self._study is None or proposal.asked is None:
            return
        if values is None:
            self._drop(proposal.asked)
            return
        for name, value in broken.items():
            proposal.asked.set_constraint(name, value)
        self._study.tell(proposal.asked, list(values))

    def _next_of(self, points: Iterable[Point]) -> Proposal | None:
        for point in points:
            if self._digest(point) not in self._seen:
                return self._proposal(point, None)
        return None

    def _proposal(self, point: Point, asked: "optuna.Trial | None") -> Proposal:
        recipe = self._recipe(point)
        self._seen.add(recipe.digest)
        return Proposal(recipe, point, asked)

    def _digest(self, point: Point) -> str:
        return self._recipe(point).digest

    def _recipe(self, point: Point) -> Recipe:
        """Return a point's recipe; the last one is kept, since validating takes a while."""
        if self._last is None or self._last[0] != point:
            self._last = point, self._space.recipe(point)
        return self._last[1]

    def _draw(self) -> tuple[Point | None, "optuna.Trial | None"]:
        if self._strategy.proposes:
            return self._strategy.propose(self._space, self._history, self._rng), None
        assert self._study is not None
        if len(self._seen) < _START and not self._strategy.blind:
            point = self._first()
            return point, self._enqueue(point)
        asked = self._study.ask()
        point = self._encoding.suggest(asked)
        if self._strategy.plain and (asked.params != self._encoding.parameters(point)):
            self._drop(asked)
            return point, self._enqueue(point)
        return point, asked

    def _first(self) -> Point:
        """Draw a point to begin with; recipes that have more points are drawn more often."""
        sizes = np.sqrt([min(_points(a), _MANY) for a in self._space.alternatives])
        index = int(self._rng.choice(len(sizes), p=sizes / sizes.sum()))
        return draw(self._space, self._rng, index)

    def _enqueue(self, point: Point) -> "optuna.Trial | None":
        """Ask for a point of our own choice."""
        if self._study is None:
            return None
        self._study.enqueue_trial(dict(self._encoding.parameters(point)))
        asked = self._study.ask()
        self._encoding.suggest(asked)
        if self._strategy.breeds:
            _ = asked.relative_params  # marks the trial as one of the generation
        return asked

    def _drop(self, asked: "optuna.Trial") -> None:
        from optuna.trial import TrialState

        assert self._study is not None
        self._study.tell(asked, state=TrialState.FAIL)

    def _unseen(self, point: Point) -> Point | None:
        """Return a new point: any for strategies that draw blindly, else one near ``point``."""
        blind = self._strategy.blind
        if self._space.is_listable and self._space.size <= _LISTABLE:
            if self._listing is None:
                self._listing = [(p, self._digest(p)) for p in self._space.points()]
            self._listing = [one for one in self._listing if one[1] not in self._seen]
            free = [one for one, _ in self._listing]
            if free and not blind:
                far = [distance(self._space, point, other) for other in free]
                least = min(far) + 1e-9
                free = [other for other, d in zip(free, far, strict=True) if d <= least]
            return free[int(self._rng.integers(len(free)))] if free else None
        for number in range(_NEAR_TRIES):
            if blind:
                made = draw(self._space, self._rng)
            else:
                made = mutate(self._space, point, self._rng, changes=1 + number / 10)
            if self._digest(made) not in self._seen:
                return made
        return None


def _points(alternative: Alternative) -> float:
    return math.prod(d.count for d in alternative.dimensions.values())


def _new_study(strategy: Strategy, objectives: int, seed: int) -> "optuna.Study":
    if not strategy.samples:
        raise ConfigError(
            f"strategy {strategy.label} has no way to choose: its points() returned None, "
            "and it has neither propose() nor sampler()"
        )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: Any = ["maximize"] * objectives
    return optuna.create_study(sampler=strategy.sampler(seed), directions=directions)
