"""Moves in a space: drawing a point, changing one a little, crossing two.

A setting's values are seen as places from 0 to 1: evenly apart when there are finitely many,
along its own scale (linear or logarithmic) otherwise. Points are drawn and changed there, so that
a step is as large in one setting as in another.
"""

import math
from typing import Any

import numpy as np

from mlflow_compress.search.dimensions import Choice, Dimension
from mlflow_compress.search.encoding import is_ordered
from mlflow_compress.search.space import ALTERNATIVE, Point, Space

__all__ = ["cross", "distance", "draw", "mutate", "place_of", "value_at"]

_STEP = 0.15
"""Standard deviation of a change of one setting, as a share of its range."""

_TOGETHER = 0.2
"""How often a change moves all settings of one name together, such as every layer's sparsity."""

_ANEW = 0.05
"""How often a change goes to another alternative."""


def place_of(dimension: Dimension, value: Any) -> float:
    """Return where a value lies in its dimension, 0 to 1."""
    values = dimension.expand()
    if values is not None:
        return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.0
    assert not isinstance(dimension, Choice)
    low, high = _scaled(dimension.low, dimension.log), _scaled(dimension.high, dimension.log)
    place = (_scaled(value, dimension.log) - low) / (high - low) if high > low else 0.0
    return float(min(max(place, 0.0), 1.0))


def value_at(dimension: Dimension, place: float) -> Any:
    """Return the value at a place; places outside 0 to 1 stand for the ends."""
    place = min(max(place, 0.0), 1.0)
    values = dimension.expand()
    if values is not None:
        return values[round(place * (len(values) - 1))]
    assert not isinstance(dimension, Choice)
    low, high = _scaled(dimension.low, dimension.log), _scaled(dimension.high, dimension.log)
    value = low + place * (high - low)
    value = math.exp(value) if dimension.log else value
    if dimension.integer:
        return round(value)
    return min(max(round(value, 12), dimension.low), dimension.high)


def draw(
    space: Space, rng: np.random.Generator, index: int | None = None, *, alike: bool = False
) -> Point:
    """Draw a point uniformly.

    Args:
        space: where from.
        rng: the source of chance.
        index: the alternative; any by default.
        alike: give the settings of one name about the same place. Drawn independently, hundreds
            of layers always come to the same mean, and neither strong nor weak compression is
            ever seen.
    """
    if index is None:
        index = int(rng.integers(len(space.alternatives)))
    point: Point = {ALTERNATIVE: index}
    levels: dict[str, float] = {}
    for name, dimension in space.dimensions_of(index).items():
        place = float(rng.random())
        if alike and is_ordered(dimension):
            level = levels.setdefault(_kind(name), place)
            place = level + float(rng.normal(scale=_STEP))
            point[name] = value_at(dimension, place)
        else:
            point[name] = _uniform(dimension, place)
    return point


def mutate(space: Space, point: Point, rng: np.random.Generator, *, changes: float = 1.5) -> Point:
    """Return a point near another; it may be the same point when nothing can change.

    Args:
        space: where both are from.
        point: where to begin.
        rng: the source of chance.
        changes: how many settings change on average; at least one does.
    """
    if len(space.alternatives) > 1 and rng.random() < _ANEW:
        return draw(space, rng)
    index = point[ALTERNATIVE]
    dimensions = {
        n: d for n, d in space.dimensions_of(index).items() if d.expand() is None or d.count > 1
    }
    if not dimensions:
        return draw(space, rng)
    names = list(dimensions)
    made = dict(point)
    chosen = [name for name in names if rng.random() < changes / len(names)]
    chosen = chosen or [names[int(rng.integers(len(names)))]]
    if len(names) > 1 and rng.random() < _TOGETHER:
        kind, shift = _kind(chosen[0]), float(rng.normal(scale=_STEP))
        chosen = [name for name in names if _kind(name) == kind]
        for name in chosen:
            made[name] = _moved(dimensions[name], point[name], shift, rng)
        return made
    for name in chosen:
        shift = float(rng.normal(scale=_STEP))
        made[name] = _moved(dimensions[name], point[name], shift, rng)
    return made


def cross(one: Point, other: Point, rng: np.random.Generator) -> Point:
    """Return a point with each setting from one of two parents.

    Parents of different alternatives have no settings in common: the first is returned.
    """
    if one[ALTERNATIVE] != other[ALTERNATIVE]:
        return dict(one)
    return {name: (one if rng.random() < 0.5 else other)[name] for name in one}


def distance(space: Space, one: Point, other: Point) -> float:
    """Return how far two points are apart: the sum over their settings, of 1 at the most each."""
    if one[ALTERNATIVE] != other[ALTERNATIVE]:
        return 1.0 + max(len(one), len(other))
    total = 0.0
    for name, dimension in space.dimensions_of(one[ALTERNATIVE]).items():
        if one[name] != other[name]:
            places = place_of(dimension, one[name]) - place_of(dimension, other[name])
            total += abs(places) if is_ordered(dimension) else 1.0
    return total


def _kind(name: str) -> str:
    """Return what a dimension sets, without the step or the layer that it is for."""
    return ".".join(name.partition("[")[0].rsplit(".", 2)[-2:])


def _scaled(value: float, log: bool) -> float:
    return math.log(value) if log else float(value)


def _uniform(dimension: Dimension, place: float) -> Any:
    """Return a value, each as likely as any other, from a number drawn from [0, 1)."""
    values = dimension.expand()
    if values is None:
        return value_at(dimension, place)
    return values[min(int(place * len(values)), len(values) - 1)]


def _moved(dimension: Dimension, value: Any, shift: float, rng: np.random.Generator) -> Any:
    values = dimension.expand()
    if values is None:
        return value_at(dimension, place_of(dimension, value) + shift)
    position = values.index(value)
    if not is_ordered(dimension):
        return values[(position + 1 + int(rng.integers(len(values) - 1))) % len(values)]
    steps = max(1, round(abs(shift) * (len(values) - 1)))
    target = position + (steps if shift > 0 else -steps)
    if not 0 <= target < len(values):  # a wall turns the step around
        target = position - (target - position)
    return values[min(max(target, 0), len(values) - 1)]
