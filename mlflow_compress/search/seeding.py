"""What each layer bears, put to use: values that are hopeless go, and the first points are chosen.

Both act on the dimensions of a space that are for layers by name or pattern. Where a pattern
stands for several layers, a value is as bad as it is on the layer that bears it least.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_compress.records import Accuracy, DatasetRef, Interval
from mlflow_compress.search.dimensions import Choice, Dimension
from mlflow_compress.search.effects import Effect, allocation
from mlflow_compress.search.moves import place_of, value_at
from mlflow_compress.search.per_layer import layers_by_pattern
from mlflow_compress.search.screen import LEVEL
from mlflow_compress.search.space import ALTERNATIVE, LayerDimension, Point, Space
from mlflow_compress.targets import Look, Target, is_out_of_reach

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Bound", "bind", "levels_of", "seed_points", "shrink"]

_SPACED = 5
"""So many values of a range are measured."""

_BUDGETS = 4
"""So many points are proposed per alternative."""

_GENTLEST_FIRST = {"prune": True, "share": False, "weight_only": False}
"""Whether small values are the gentle ones."""


@dataclass(frozen=True)
class Bound:
    """A dimension of a space with the layers of a model that it is for.

    Attributes:
        of: the dimension and where it is from.
        layers: names of the weights that its pattern is the first to fit.
    """

    of: LayerDimension
    layers: tuple[str, ...]

    @property
    def tried(self) -> tuple[Any, ...]:
        """The values to measure, the gentlest first."""
        values = self.of.dimension.expand()
        if values is None or (len(values) > _SPACED and not isinstance(self.of.dimension, Choice)):
            places = np.linspace(0, 1, _SPACED)
            values = tuple(dict.fromkeys(value_at(self.of.dimension, p) for p in places))
        return tuple(sorted(values, reverse=not _GENTLEST_FIRST[self.of.technique]))


def bind(space: Space, model: "ModelProto") -> tuple[Bound, ...]:
    """Find the layers that each dimension is for.

    Raises:
        TechniqueError: a pattern fits no layer.
    """
    found = []
    for one in space.layer_dimensions():
        layers = layers_by_pattern(model, one.technique, one.patterns)
        found.append(Bound(one, tuple(k for k, v in layers.items() if v == one.pattern)))
    return tuple(found)


def levels_of(bounds: Sequence[Bound]) -> Mapping[str, Mapping[str, tuple[Any, ...]]]:
    """Return the levels to measure by layer and technique."""
    levels: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for bound in bounds:
        for layer in bound.layers:
            known = levels[layer].get(bound.of.technique, ())
            levels[layer][bound.of.technique] = tuple(dict.fromkeys((*known, *bound.tried)))
    return levels


def shrink(
    space: Space,
    bounds: Sequence[Bound],
    effects: Sequence[Effect],
    targets: Sequence[Target],
    rows: int,
    metric: str = "accuracy",
    read_by: Sequence[str] | None = None,
) -> tuple[Space, tuple[str, ...]]:
    """Take out what breaks every target's limits on one layer alone; the gentlest value stays.

    Of a range only what is as strong as the gentlest hopeless value, or stronger, goes.

    Args:
        space: what to shrink.
        bounds: its dimensions, from :func:`bind`.
        effects: what their values do, from ``sensitivity``.
        targets: a value goes only when no target can take it.
        rows: how many rows the effects were measured on.
        metric: the accuracy metric of the effects.
        read_by: the outputs that it reads on labelled rows; None when variants have no labels.

    Returns:
        The smaller space, and per dimension what was cut.
    """
    found = {(e.layer, e.technique, e.level): e for e in effects}
    sources = {e.layer: e.accuracy for e in effects if not e.technique}
    changes: dict[str, Dimension] = {}
    notes = []
    for bound in bounds:
        hopeless = [
            any(
                _breaks_all(found[key], sources[layer], targets, rows, metric, read_by)
                for layer in bound.layers
                if (key := (layer, bound.of.technique, value)) in found
            )
            for value in bound.tried
        ]
        hopeless[0] = False
        smaller = _without(bound, hopeless)
        if smaller != bound.of.dimension:
            changes[bound.of.name] = smaller
            notes.append(f"{bound.of.technique} {bound.of.pattern} {_text(smaller)}")
    return space.narrowed(changes), tuple(notes)


def _breaks_all(
    effect: Effect,
    source: float,
    targets: Sequence[Target],
    rows: int,
    metric: str,
    read_by: Sequence[str] | None,
) -> bool:
    """Whether an effect at its best breaks a limit of every target; with no target, never."""
    dataset = DatasetRef("", "", rows)
    accuracy = None
    if not math.isnan(effect.accuracy) and (metric == "accuracy" or metric.startswith("top-")):
        drop = source - effect.accuracy
        # A row counts in a paired drop only where the two answers differ.
        differ = 1 - effect.agreement if metric == "accuracy" else 1.0
        spread = math.sqrt(max(differ - drop * drop, 0) / rows)
        spread *= NormalDist().inv_cdf((1 + LEVEL) / 2)
        interval = Interval(drop - spread, drop + spread, LEVEL)
        accuracy = Accuracy(metric, effect.accuracy, source, drop, interval, dataset)
    look = Look(accuracy, effect.fidelity, LEVEL, read_by=read_by)
    return bool(targets) and all(is_out_of_reach(target, look) for target in targets)


def _without(bound: Bound, hopeless: Sequence[bool]) -> Dimension:
    """Return the dimension without hopeless values."""
    dimension, tried = bound.of.dimension, bound.tried
    gone = [value for value, bad in zip(tried, hopeless, strict=True) if bad]
    if isinstance(dimension, Choice):
        return Choice(tuple(value for value in dimension.values if value not in gone))
    first = len(tried)
    while hopeless[first - 1]:
        first -= 1
    if first == len(tried):
        return dimension
    return dimension.up_to(tried[first], below=_GENTLEST_FIRST[bound.of.technique])


def _text(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        return "to " + ", ".join(map(str, dimension.values))
    return f"to {dimension.low:g}…{dimension.high:g}"


def seed_points(space: Space, bounds: Sequence[Bound], effects: Sequence[Effect]) -> list[Point]:
    """Return points that share a few byte budgets out among the layers with the least loss.

    The budgets lie between the gentlest and the strongest values, evenly on a logarithmic scale.
    Settings that are for no layer are at the first of their values.

    Raises:
        ConfigError: the model has no classes to compare.
    """
    points: list[Point] = []
    for index in range(len(space.alternatives)):
        own = [bound for bound in bounds if bound.of.alternative == index and bound.layers]
        usable = [e for e in effects if any(_is_of(e, bound) for bound in own)]
        if not usable:
            continue
        base: Point = {ALTERNATIVE: index}
        base |= {name: d.end(0) for name, d in space.dimensions_of(index).items()}
        for budget in _budgets(usable):
            chosen = allocation(usable, budget)
            point = base | dict(_values(own, chosen))
            if point not in points:
                points.append(point)
    return points


def _is_of(effect: Effect, bound: Bound) -> bool:
    """Whether an effect is of a layer and of a value of a dimension."""
    if effect.layer not in bound.layers or effect.technique != bound.of.technique:
        return False
    dimension = bound.of.dimension
    if isinstance(dimension, Choice):
        return effect.level in dimension.values
    return dimension.low <= effect.level <= dimension.high


def _budgets(effects: Sequence[Effect]) -> list[int]:
    sizes: dict[str, list[int]] = defaultdict(list)
    for effect in effects:
        sizes[effect.layer].append(effect.bytes)
    least, most = (sum(end(of) for of in sizes.values()) for end in (min, max))
    return [math.ceil(size) for size in np.geomspace(max(least, 1), max(most, 1), _BUDGETS)]


def _values(bounds: Sequence[Bound], chosen: Mapping[str, Effect]) -> Iterator[tuple[str, Any]]:
    """Yield each dimension's value: the gentlest of its layers' levels, or of all its values."""
    for bound in bounds:
        levels = [
            chosen[layer].level
            for layer in bound.layers
            if layer in chosen and chosen[layer].technique == bound.of.technique
        ]
        gentlest = min if _GENTLEST_FIRST[bound.of.technique] else max
        yield bound.of.name, _nearest(bound, gentlest(levels) if levels else bound.tried[0])


def _nearest(bound: Bound, level: float) -> Any:
    """Return the value of a dimension that is nearest to a level."""
    values = bound.of.dimension.expand()
    if values is None:
        return value_at(bound.of.dimension, place_of(bound.of.dimension, level))
    return min(values, key=lambda value: abs(value - level))
