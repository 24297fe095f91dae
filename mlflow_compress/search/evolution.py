"""Evolution for large spaces, such as a setting per layer of a deep network.

A (mu + lambda) scheme without generations: each new point comes from two of the best so far, which
are told apart as in NSGA-II (Deb et al., 2002): what breaks fewer limits first, then the rank of
the front, then the crowding distance. One mutation in five moves all layers together, and the first
points give all layers about the same level, so that the whole range of rates is seen however many
layers there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlflow_compress.search.moves import cross, draw, mutate
from mlflow_compress.search.space import Point, Space

__all__ = ["Tried", "best", "breed"]

_START = 12
"""Points that are drawn before any is bred."""

_PARENTS = 16
"""The best so many are parents."""

_FEWEST = 4
"""A fifth of what was tried are parents, but no fewer."""

_CROSSED = 0.5
"""How often a child has two parents."""


@dataclass(frozen=True)
class Tried:
    """A point that was tried.

    Attributes:
        point: the point.
        values: what came of it, more is better on each; None when the trial failed.
        violations: by how much it breaks limits, each within at 0 and below.
    """

    point: Point
    values: tuple[float, ...] | None
    violations: Mapping[str, float] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        """The sum of what it breaks, 0 when it is within all limits."""
        return sum(max(value, 0.0) for value in self.violations.values())


def breed(space: Space, history: Sequence[Tried], rng: np.random.Generator) -> Point:
    """Return the next point to try.

    Args:
        space: where from.
        history: every point tried so far with its outcome, in order.
        rng: the source of chance.
    """
    if len(history) < _START:
        return draw(space, rng, alike=True)
    parents = best(history, min(_PARENTS, max(_FEWEST, len(history) // 5)))
    if not parents:
        return draw(space, rng, alike=True)
    point = _tournament(parents, rng).point
    if rng.random() < _CROSSED:
        point = cross(point, _tournament(parents, rng).point, rng)
    return mutate(space, point, rng)


def best(history: Sequence[Tried], count: int) -> list[Tried]:
    """Return the best so many of what was tried with an outcome, in order."""
    within = [one for one in history if one.values is not None and one.excess == 0]
    without = [one for one in history if one.values is not None and one.excess > 0]
    order: list[Tried] = []
    while within and len(order) < count:
        first = _undominated(within)
        crowding = _crowding(first)
        order += [first[i] for i in sorted(range(len(first)), key=lambda i: -crowding[i])]
        chosen = set(map(id, first))
        within = [one for one in within if id(one) not in chosen]
    return (order + sorted(without, key=lambda one: one.excess))[:count]


def _tournament(parents: Sequence[Tried], rng: np.random.Generator) -> Tried:
    """Return the better of two drawn at random; the parents are in order."""
    return parents[int(rng.integers(len(parents), size=2).min())]


def _undominated(tried: Sequence[Tried]) -> list[Tried]:
    values = np.array([one.values for one in tried], float)
    keep = []
    for one, row in zip(tried, values, strict=True):
        beaten = (values >= row).all(axis=1) & (values > row).any(axis=1)
        if not beaten.any():
            keep.append(one)
    return keep


def _crowding(front: Sequence[Tried]) -> list[float]:
    """Return the crowding distance of each point of a front."""
    distances = [0.0] * len(front)
    values = np.array([one.values for one in front], float)
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = float(column[order[-1]] - column[order[0]])
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distances[here] += float(column[after] - column[before]) / span if span else 0.0
    return distances
