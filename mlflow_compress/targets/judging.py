"""The limits of a target on the outputs of one model: each output keeps its own, by its kind.

What a target limits on every model alike is in :mod:`mlflow_compress.targets.limits`; the outputs
are known once a variant was measured.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_compress.measure.outputs import DEFAULTS, MEASURES, RUINED, Measure
from mlflow_compress.records import Accuracy, Interval, OutputFidelity, Report
from mlflow_compress.targets.limits import QUALITY_SCALE, Limit, LimitKind, Look, limits_of
from mlflow_compress.targets.profile import FIDELITY_BOUNDS, Target
from mlflow_compress.targets.readings import Reading, sound, stale

__all__ = ["is_covered", "limits_for"]

_LEAST_SCALE = 0.01

_BROKEN = Measure("broken", "most", "rows", "rows that are not finite", math.inf)


def limits_for(target: Target, report: Report) -> tuple[Limit, ...]:
    """Return every limit that a target sets on a model with a report's outputs.

    An output that no limit of the target speaks of keeps the default of its kind, unless labels
    judge it. Whatever else is said, no output of numbers may be ruined (:data:`RUINED`), and none
    may have values that are not finite where the source's are.
    """
    fidelity = report.fidelity
    if fidelity is None or not fidelity.is_whole:
        return limits_of(target)
    fixed = [limit for limit in limits_of(target) if limit.name not in FIDELITY_BOUNDS]
    outputs = [
        Limit(_kind_of(output, bound, len(fidelity.outputs) > 1), target, bound.value)
        for output in fidelity.outputs
        for bound in _bounds(target, output, report)
    ]
    return (*fixed, *outputs)


def is_covered(target: Target, output: OutputFidelity, report: Report) -> bool:
    """Say whether labels judge an output: the metric reads it, or another form of its decision."""
    accuracy, fidelity = report.accuracy, report.fidelity
    if accuracy is None or fidelity is None or not _by_labels(target):
        return False
    names = _read_by(accuracy)
    decisions = {one.decision for one in fidelity.outputs if one.output in names and one.decision}
    return not names or output.output in names or output.decision in decisions


def _by_labels(target: Target) -> bool:
    return target.accuracy.asks_labels or target.objective in ("accuracy", "reward")


def _read_by(accuracy: Accuracy) -> list[str]:
    """Return the outputs that a metric reads; none when that is not known."""
    return [name for name in accuracy.output.split(", ") if name]


@dataclass(frozen=True)
class _Bound:
    """A bound on one measure of one output, and who sets it."""

    measure: Measure
    value: float
    key: str


def _bounds(target: Target, output: OutputFidelity, report: Report) -> Iterator[_Bound]:
    wanted = target.accuracy
    own = wanted.limits.get(output.output, {})
    said = {name: (bound, f"accuracy.limits.{output.output}.{name}") for name, bound in own.items()}
    for name, (key, kinds) in FIDELITY_BOUNDS.items():
        bound = wanted.bound_on(name)
        if bound is not None and output.kind in kinds:
            said.setdefault(name, (bound, f"accuracy.{key}"))
    covered = is_covered(target, output, report)
    if not said and not covered:
        said = {n: (b, f"default of {output.kind}") for n, b in DEFAULTS[output.kind].items()}
    for name, (value, key) in said.items():
        yield _Bound(MEASURES[name], value, key)
    if "error" in output.measures and "error" not in said and not covered:
        yield _Bound(MEASURES["error"], RUINED, "ruined")
    if not said:
        yield _Bound(_BROKEN, 0.0, "finite")


def _kind_of(output: OutputFidelity, bound: _Bound, is_named: bool) -> LimitKind:
    measure = bound.measure
    name = f"{measure.name} of {output.output}" if is_named else measure.name
    relation = "at most" if measure.sense == "most" else "at least"
    return LimitKind(
        key=bound.key,
        name=name,
        sense=measure.sense,
        source="rows",
        bound=lambda target: bound.value,
        read=lambda report, target, rows: _read(report, target, rows, output.output, measure),
        show=measure.show,
        phrase=(f"{name} {relation} {{}}", measure.show),
        scale=_scale(measure),
        optimistic=lambda look: _best(look, output.output, measure),
        has_interval=measure.name in output.intervals,
    )


def _scale(measure: Measure):  # type: ignore[no-untyped-def]
    if measure.unit == "share" or measure.name in ("cosine", "cosine_low", "r2"):
        return lambda bound: QUALITY_SCALE
    return lambda bound: max(abs(bound), _LEAST_SCALE)


def _read(report: Report, target: Target, rows: str | None, name: str, measure: Measure) -> Reading:
    """Return a measure of an output: the worse end of its interval where confidence is asked."""
    fidelity = report.fidelity
    if fidelity is None:
        return Reading(None, f"{measure.name} of {name} was not measured", is_measured=False)
    old = stale(measure.name, fidelity.dataset, rows)
    if old is not None:
        return old
    output = next((one for one in fidelity.outputs if one.output == name), None)
    if output is None:
        return Reading(None, f"output {name!r} was not judged", is_measured=False)
    if measure is _BROKEN:
        return Reading(float(output.broken))
    if output.broken:
        return Reading(None, f"{name} has NaN or infinite values in {output.broken} rows")
    value = sound(measure.name, output.measures.get(measure.name), -math.inf)
    interval = output.intervals.get(measure.name)
    confidence = target.accuracy.confidence
    if value.value is None or confidence is None or interval is None:
        return value
    if interval.level < confidence - 1e-9:
        return Reading(
            None,
            f"the interval of {measure.name} is at level {interval.level:g}, {confidence:g} is "
            "asked",
        )
    return sound(measure.name, _worse(measure, value.value, interval), -math.inf)


def _worse(measure: Measure, value: float, interval: Interval) -> float:
    if measure.sense == "most":
        return max(value, interval.high)
    return min(value, interval.low)


def _best(look: Look, name: str, measure: Measure) -> float | None:
    """Return the best that a measure may turn out on all rows, None when nothing is known of it."""
    fidelity = look.fidelity
    outputs = () if fidelity is None else fidelity.outputs
    output = next((one for one in outputs if one.output == name), None)
    if output is None or output.broken:
        return None
    interval = output.intervals.get(measure.name)
    if interval is not None:
        return interval.low if measure.sense == "most" else interval.high
    value = output.measures.get(measure.name)
    if value is None or math.isinf(look.doubt) or measure.sense == "least":
        return None
    return value / look.doubt
