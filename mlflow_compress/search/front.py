"""The front: the variants that no other beats on all objectives (Pareto)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_compress.records import Latency, Trial, Variant
from mlflow_compress.targets import Target, latency_for

__all__ = ["OBJECTIVES", "Objective", "Reward", "front", "hypervolume", "objective_values"]


def _accuracy(variant: Variant) -> float:
    accuracy = variant.report.accuracy
    return math.nan if accuracy is None else accuracy.score


def _fidelity(variant: Variant) -> float:
    fidelity = variant.report.fidelity
    return math.nan if fidelity is None else fidelity.quality


def _speed(variant: Variant) -> float:
    latency = variant.report.latency
    return -latency[0].ratio if latency else math.nan


OBJECTIVES: Mapping[str, Callable[[Variant], float]] = {
    "rate": lambda variant: variant.report.rate,
    "accuracy": _accuracy,
    "fidelity": _fidelity,
    "agreement": _fidelity,
    "latency": _speed,
}
"""What a search can go for, each as a number of which more is better. ``agreement`` is what
``fidelity`` was called when outputs were classes only."""


@dataclass(frozen=True)
class Reward:
    """A target's reward as what a search goes for: MnasNet's accuracy * (latency / T) ** w.

    Attributes:
        target: says T, w, and where latency is measured.
    """

    target: Target

    def __call__(self, variant: Variant) -> float:
        """Return a variant's reward, NaN when accuracy or that latency is missing."""
        latency = self.latency(variant)
        return math.nan if latency is None else self.of(_quality(variant), latency.p50)

    def of(self, quality: float, ms: float) -> float:
        """Return the reward of a quality and a latency."""
        assert self.target.reward is not None
        return self.target.reward.value(quality, ms)

    def latency(self, variant: Variant) -> Latency | None:
        """Return a variant's latency where the target is measured, or None."""
        return latency_for(variant.report, self.target)


Objective = str | Reward
"""A name in :data:`OBJECTIVES`, or a target's reward."""


def _quality(variant: Variant) -> float:
    value = _accuracy(variant)
    return _fidelity(variant) if math.isnan(value) else value


def objective_values(variant: Variant, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return a variant's numbers for ``objectives``; more is better, NaN is missing."""
    return tuple(
        goal(variant) if isinstance(goal, Reward) else OBJECTIVES[goal](variant)
        for goal in objectives
    )


def front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[Trial, ...]:
    """Return the trials whose variant no other beats or equals on every objective.

    Of trials with the same numbers the first stands for all. A variant that lacks an objective
    (NaN) is never on the front.
    """
    scored = [(t, objective_values(t.variant, objectives)) for t in trials if t.variant is not None]
    scored = [(t, values) for t, values in scored if not any(map(math.isnan, values))]
    chosen = []
    for index, (trial, values) in enumerate(scored):
        beaten = any(
            all(o >= v for o, v in zip(other, values, strict=True))
            and (other != values or position < index)
            for position, (_, other) in enumerate(scored)
            if position != index
        )
        if not beaten:
            chosen.append(trial)
    return tuple(chosen)


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Return the volume that points dominate above the origin; more is better on every axis.

    Exact, by slicing along the last axis (Knowles, 2002, "hypervolume by slicing objectives").
    Coordinates below 0 count as 0; made for fronts of some hundred points and two to four axes.

    Args:
        points: coordinates, all of the same number, none of them NaN.
    """
    inside = {tuple(p) for p in points if all(x > 0 for x in p)}
    return _sliced(sorted(inside, key=lambda point: -point[-1]))


def _sliced(points: Sequence[tuple[float, ...]]) -> float:
    """Return the volume of points sorted by their last coordinate, the largest first."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return points[0][0]
    total, kept = 0.0, list[tuple[float, ...]]()
    for index, point in enumerate(points):
        kept = _undominated(kept, point[:-1])
        depth = point[-1] - (points[index + 1][-1] if index + 1 < len(points) else 0.0)
        if depth > 0:
            total += depth * _sliced(sorted(kept, key=lambda p: -p[-1]))
    return total


def _undominated(
    kept: list[tuple[float, ...]], point: tuple[float, ...]
) -> list[tuple[float, ...]]:
    if any(all(a >= b for a, b in zip(other, point, strict=True)) for other in kept):
        return kept
    rest = [o for o in kept if not all(b >= a for a, b in zip(o, point, strict=True))]
    return [*rest, point]
