"""What samplers are told of a variant: how good it is, and how far it is from the targets' limits.

Samplers see other numbers than the front does: the same order, on scales on which equal steps
matter equally. The rate is counted in powers of ten, the accuracy from the source's; what lies
more than ten points below it is useless, however much more, and is compressed.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from mlflow_compress.records import Variant
from mlflow_compress.search.front import Objective, Reward, hypervolume, objective_values
from mlflow_compress.targets import QUALITY_SCALE, Target, is_limited, judge, lacks

__all__ = [
    "ALLOWANCE",
    "keeps_all",
    "told_quality",
    "told_rate",
    "told_values",
    "violations",
    "volume",
]

ALLOWANCE = QUALITY_SCALE
"""A drop of accuracy or agreement, as a fraction, beyond which a variant counts for nothing."""

_BEYOND = 0.02
"""The share of a drop beyond the allowance that samplers are told, so that less is still more."""

_BROKEN = 1.0
"""Violation of a limit by what is no number, or can't be read: as far off as ten points."""


def told_rate(rate: float) -> float:
    """Return a compression rate as samplers see it."""
    return _compressed(math.log10(rate)) if rate > 0 else math.nan


def told_quality(above: float) -> float:
    """Return an accuracy or agreement as samplers see it.

    Args:
        above: how far it is above the source's, as a fraction; negative when it is worse.
    """
    return _compressed(above + ALLOWANCE)


def _compressed(value: float) -> float:
    return _BEYOND * value if value < 0 else value


def _accuracy(value: float, variant: Variant) -> float:
    accuracy = variant.report.accuracy
    return told_quality(value - (accuracy.source_score if accuracy is not None else 1.0))


def _speed(value: float, _variant: Variant) -> float:
    return _compressed(math.log10(2 / -value)) if value < 0 else math.nan


def _reward(value: float, goal: Reward, variant: Variant) -> float:
    """Count a reward from the source's: latency and accuracy are traded on one scale."""
    accuracy, latency = variant.report.accuracy, goal.latency(variant)
    if latency is None:
        return math.nan
    source = goal.of(1.0 if accuracy is None else accuracy.source_score, latency.source_p50)
    return told_quality(value - source)


_SCALES: Mapping[str, Callable[[float, Variant], float]] = {
    "rate": lambda value, variant: told_rate(value),
    "accuracy": _accuracy,
    "fidelity": lambda value, variant: told_quality(value - 1.0),
    "agreement": lambda value, variant: told_quality(value - 1.0),
    "latency": _speed,
}
_EXPECTED = {
    "accuracy": ALLOWANCE,
    "fidelity": ALLOWANCE,
    "agreement": ALLOWANCE,
    "latency": math.log10(2),
}
"""What samplers are told in place of what was not measured: as good as the source."""


def told_values(
    variant: Variant, objectives: Sequence[Objective], *, complete: bool = True
) -> tuple[float, ...]:
    """Return what samplers maximise; 0 is where a variant begins to count for something.

    Args:
        variant: a variant with its numbers.
        objectives: which of them count.
        complete: whether it was measured to the end. If so, NaN stands for what is missing; if
            not, it is taken to be as good as the source.
    """
    values = objective_values(variant, objectives)
    told = [
        _reward(v, n, variant) if isinstance(n, Reward) else _SCALES[n](v, variant)
        for n, v in zip(objectives, values, strict=True)
    ]
    if not complete:
        told = [
            (ALLOWANCE if isinstance(n, Reward) else _EXPECTED.get(n, t)) if math.isnan(t) else t
            for n, t in zip(objectives, told, strict=True)
        ]
    return tuple(told)


def volume(variants: Sequence[Variant], objectives: Sequence[Objective]) -> float:
    """Return the hypervolume that variants dominate, on the scales of :func:`told_values`.

    The unit is a product: powers of ten of the rate, fractions of accuracy above a drop of ten
    points, powers of ten of the speed above half the source's.
    """
    points = [told_values(variant, objectives) for variant in variants]
    return hypervolume([p for p in points if not any(map(math.isnan, p))])


def violations(variant: Variant, targets: Sequence[Target]) -> Mapping[str, float]:
    """Return by how much a variant breaks limits, relative to each; 0 or less is within.

    One target's limits are told apart. Of several targets the one that is nearest to being met
    counts, by its worst limit: a variant is of use when any target takes it. A limit on what is
    not measured while searching, such as the latency on a device, is left to promotion: it is the
    same for all variants.
    """
    each = [_of_target(variant, target) for target in targets]
    if not each or not all(each):
        return {}  # a target without limits takes anything
    if len(each) == 1:
        return each[0]
    return {"nearest target": min(max(broken.values()) for broken in each)}


def _of_target(variant: Variant, target: Target) -> dict[str, float]:
    report = variant.report
    found: dict[str, float] = {}
    if set(target.execution.profiles) < {"portable", "compact"}:
        found["profile"] = -1.0 if variant.recipe.profile in target.execution.profiles else 1.0
    if is_limited(target) and report.needs is not None:
        found["runtime"] = 1.0 if lacks(report.needs, target) else -1.0
    for limit in judge(target, report):
        reading = limit.read(report)
        if reading.is_measured:
            excess = math.nan if reading.value is None else limit.excess(reading.value)
            found[limit.name] = excess if math.isfinite(excess) else _BROKEN
    return found


def keeps_all(variant: Variant, target: Target) -> bool:
    """Say whether a variant is known to keep every limit; what was not measured is not known."""
    report = variant.report
    known = not is_limited(target) or report.needs is not None
    return (
        known
        and all(limit.read(report).is_measured for limit in judge(target, report))
        and all(value <= 0 for value in _of_target(variant, target).values())
    )
