"""The limits of a target on the outputs of one model: each output keeps its own, by its kind.

What a target limits on every model alike is in :mod:`mlflow_compress.targets.limits`; the outputs
are known once a variant was measured.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_compress.base.once import put_once
from mlflow_compress.base.spelling import closest, hint
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import (
    DEFAULTS,
    MEASURES,
    MEASURES_OF,
    RUINED,
    Accuracy,
    Fidelity,
    Kind,
    Measure,
    Output,
    OutputFidelity,
    Report,
)
from mlflow_compress.targets.limits import QUALITY_SCALE, Estimated, Limit, LimitKind, limits_of
from mlflow_compress.targets.looks import Look
from mlflow_compress.targets.profile import FIDELITY_BOUNDS, AccuracyLimits, Target, load_target
from mlflow_compress.targets.readings import Reading, read_fidelity_score, sound, stale

__all__ = [
    "ALWAYS",
    "asked_kinds",
    "check_outputs",
    "is_out_of_reach",
    "judge",
    "limits_for",
    "target_limits",
]

_RUINED, _FINITE = "ruined", "finite"

ALWAYS = (_RUINED, _FINITE)
"""Keys of the rules that no limit takes away."""

_LEAST_SCALE = 0.01
_ROUNDING = 1e-9

_BROKEN = Measure("broken", "most", "rows", "rows that are not finite", 0.0)

_NOT_FIXED = tuple(name for name in FIDELITY_BOUNDS if name not in ("agreement", "kl"))
"""Measures that a target bounds, of which nothing is known until outputs are judged."""


def judge(target: Target, report: Report) -> tuple[Limit, ...]:
    """Return every limit that a target sets on a variant, by the outputs in its report."""
    return limits_for(target, report.fidelity, _read_by(report.accuracy))


def is_out_of_reach(target: Target, look: Look) -> bool:
    """Say whether any limit of a target is broken at the best that a look leaves room for."""
    limits = limits_for(target, look.fidelity, look.read_by)
    return any(limit.is_out_of_reach(look) for limit in limits)


def target_limits(said: Mapping[str, float], more: Sequence[str]) -> AccuracyLimits:
    """Return limits from a command line's options and ``[OUTPUT.]MEASURE=BOUND`` texts.

    Args:
        said: by the keys of a target's section ``accuracy``.
        more: a bound on a measure of one output, or of all outputs that have it.

    Raises:
        ConfigError: one line that names the text, and what is allowed; or a bound is given twice.
    """
    data: dict[str, Any] = dict(said)
    for text in more:
        name, equals, bound = text.rpartition("=")
        output, _, measure = name.rpartition(".")
        if not equals or not measure:
            raise ConfigError(
                f"--limit {text!r}: write [OUTPUT.]MEASURE=BOUND, such as error=0.001 or "
                "boxes.recall=0.98"
            )
        try:
            value = float(bound)
        except ValueError:
            raise ConfigError(f"--limit {text!r}: {bound!r} is no number") from None
        if output:
            bounds = data.setdefault("limits", {}).setdefault(output, {})
            put_once(bounds, measure, value, f"--limit {text}")
        elif measure in FIDELITY_BOUNDS:
            put_once(data, FIDELITY_BOUNDS[measure][0], value, f"--limit {text}")
        else:
            near = "" if measure in MEASURES else closest(measure, MEASURES)
            raise ConfigError(
                f"--limit {text!r}: of all outputs {', '.join(FIDELITY_BOUNDS)} can be limited, "
                f"got {measure!r}{near}; name the output for another: OUTPUT.{measure}={bound}"
            )
    target = {"name": "compress", "objective": "accuracy", "accuracy": data}
    return load_target(target).accuracy


def asked_kinds(targets: Iterable[Target]) -> dict[Kind, str]:
    """Return the kinds of outputs that targets limit, with the key that does."""
    return {
        kinds[0]: key
        for target in targets
        for measure, (key, kinds) in FIDELITY_BOUNDS.items()
        if target.accuracy.bound_on(measure) is not None
    }


def check_outputs(targets: Iterable[Target], outputs: Sequence[Output]) -> None:
    """Refuse limits on an output that is not there, or on what is not measured of its kind.

    Raises:
        ConfigError: names the target, the output and the measure.
    """
    known = {output.name: output for output in outputs}
    for target in targets:
        for name, bounds in target.accuracy.limits.items():
            where = f"target {target.name!r}: accuracy.limits.{name}"
            if name not in known:
                told = hint(name, known, "it has ")
                raise ConfigError(f"{where}: the model has no such output ({told})")
            kind = known[name].kind
            wrong = next((one for one in bounds if one not in MEASURES_OF[kind]), None)
            if wrong is not None:
                measured = ", ".join(MEASURES_OF[kind]) or "nothing"
                raise ConfigError(
                    f"{where}.{wrong}: the output is {kind}, of which {measured} is measured; say "
                    f"what it is (data.outputs, or --kind {name}=KIND)"
                )


def limits_for(
    target: Target, fidelity: Fidelity | None, read_by: Sequence[str] | None = None
) -> tuple[Limit, ...]:
    """Return every limit that a target sets on a model with some outputs.

    An output that no limit of the target speaks of keeps the default of its kind, unless labels
    judge it. Whatever else is said, no output of numbers may be ruined (:data:`RUINED`), and none
    may have values that are not finite where the source's are.

    Args:
        target: the target.
        fidelity: of the variant, which tells its outputs.
        read_by: the outputs that the metric reads, none of them when that is not known; None when
            there are no labels.
    """
    if fidelity is None or not fidelity.is_whole:
        return (*limits_of(target), *_unjudged(target, fidelity, read_by))
    fixed = [limit for limit in limits_of(target) if limit.source != "rows"]
    covered = _covered(target, fidelity, read_by)
    outputs = [
        Limit(_kind_of(output, bound, len(fidelity.outputs) > 1), target, bound.value)
        for output in fidelity.outputs
        for bound in _bounds(target, output, output.output in covered)
    ]
    return (*fixed, *outputs, *_missing(target, fidelity))


def _missing(target: Target, fidelity: Fidelity) -> Iterator[Limit]:
    """Yield the limits on outputs that a target names and that were not judged."""
    judged = {output.output for output in fidelity.outputs}
    for name, bounds in target.accuracy.limits.items():
        for measure, value in bounds.items():
            if name not in judged:
                bound = _Bound(MEASURES[measure], value, f"accuracy.limits.{name}.{measure}")
                yield Limit(_kind_of(OutputFidelity(name, "ignore"), bound, True), target, value)


def _unjudged(
    target: Target, fidelity: Fidelity | None, read_by: Sequence[str] | None
) -> Iterator[Limit]:
    """Yield the limit that fails where outputs have limits, and none was judged by itself."""
    asked = any(target.accuracy.bound_on(name) is not None for name in _NOT_FIXED)
    if not asked and not target.accuracy.limits:
        # These fail by themselves where outputs were not judged, or are all that is known.
        fixed = any(limit.source in ("labels", "rows") for limit in limits_of(target))
        if fixed or (fidelity is None and read_by is not None):
            return
    yield Limit(_UNJUDGED, target, 0.0)


def _covered(target: Target, fidelity: Fidelity, read_by: Sequence[str] | None) -> set[str]:
    """Return the outputs that labels judge: the metric reads them, or a form of their decision."""
    by_labels = target.accuracy.asks_labels or target.objective in ("accuracy", "reward")
    if read_by is None or not by_labels:
        return set()
    outputs = fidelity.outputs
    decisions = {one.decision for one in outputs if one.output in read_by and one.decision}
    return {
        one.output
        for one in outputs
        if not read_by or one.output in read_by or one.decision in decisions
    }


def _read_by(accuracy: Accuracy | None) -> Sequence[str] | None:
    if accuracy is None:
        return None
    return [name for name in accuracy.output.split(", ") if name]


@dataclass(frozen=True)
class _Bound:
    """A bound on one measure of one output, and who sets it."""

    measure: Measure
    value: float
    key: str


def _bounds(target: Target, output: OutputFidelity, covered: bool) -> Iterator[_Bound]:
    wanted = target.accuracy
    own = wanted.limits.get(output.output, {})
    said = {name: (bound, f"accuracy.limits.{output.output}.{name}") for name, bound in own.items()}
    for name, (key, kinds) in FIDELITY_BOUNDS.items():
        bound = wanted.bound_on(name)
        if bound is not None and output.kind in kinds:
            said.setdefault(name, (bound, f"accuracy.{key}"))
    if not said and not covered:
        said = {n: (b, f"default of {output.kind}") for n, b in DEFAULTS[output.kind].items()}
    for name, (value, key) in said.items():
        yield _Bound(MEASURES[name], min(value, RUINED) if name == "error" else value, key)
    if "error" in output.measures and "error" not in said and not covered:
        yield _Bound(MEASURES["error"], RUINED, _RUINED)
    if not said:
        yield _Bound(_BROKEN, 0.0, _FINITE)


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
        read=lambda report, target, rows: _read(report, rows, output.output, measure),
        show=lambda value, report: measure.show(value),
        phrase=lambda bound, unit: f"{name} {relation} {measure.show(bound)}",
        scale=_scale(measure),
        optimistic=lambda look: _best(look, output.output, measure),
        output=output.output,
        measures=measure.name,
        interval=lambda report: _interval(report, output.output, measure),
    )


def _read_unjudged(report: Report, _target: Target, rows: str | None) -> Reading:
    reading = read_fidelity_score(report, rows)
    # A score alone says nothing of an output.
    return reading if reading.value is None else Reading(None, "no output was judged")


_UNJUDGED = LimitKind(
    key="accuracy",
    name="outputs",
    sense="most",
    source="rows",
    bound=lambda target: 0.0,
    read=_read_unjudged,
    show=lambda value, report: f"{value:g}",
    phrase=lambda bound, unit: "outputs judged each",
)
"""Stands for the limits on outputs that are not known."""


def _scale(measure: Measure) -> Callable[[float], float]:
    if measure.unit == "share" or measure.name in ("cosine", "cosine_low", "r2"):
        return lambda bound: QUALITY_SCALE
    return lambda bound: max(abs(bound), _LEAST_SCALE)


def _read(report: Report, rows: str | None, name: str, measure: Measure) -> Reading:
    """Return a measure of an output."""
    fidelity = report.fidelity
    if fidelity is None:
        return Reading(None, f"{measure.name} of {name} was not measured", is_measured=False)
    old = stale(measure.name, fidelity.dataset, rows)
    if old is not None:
        return old
    output = _of(fidelity, name)
    if output is None:
        return Reading(None, f"output {name!r} was not judged", is_measured=False)
    if measure is _BROKEN:
        return Reading(float(output.broken))
    if output.broken:
        return Reading(None, f"{name} has NaN or infinite values in {output.broken} rows")
    # with room for the last bits of a mean
    low, high = measure.low - _ROUNDING, measure.high + _ROUNDING
    return sound(measure.name, output.measures.get(measure.name), low, high)


def _interval(report: Report, name: str, measure: Measure) -> Estimated | None:
    fidelity = report.fidelity
    output = _of(fidelity, name)
    if fidelity is None or output is None or measure.name not in output.intervals:
        return None
    return Estimated(output.intervals[measure.name], fidelity.dataset.rows)


def _of(fidelity: Fidelity | None, name: str) -> OutputFidelity | None:
    outputs = () if fidelity is None else fidelity.outputs
    return next((one for one in outputs if one.output == name), None)


def _best(look: Look, name: str, measure: Measure) -> float | None:
    """Return the best that a measure may turn out on all rows, None when nothing is known of it."""
    output = _of(look.fidelity, name)
    if output is None or output.broken:
        return None
    interval = output.intervals.get(measure.name)
    if interval is None:
        return None
    return interval.low if measure.sense == "most" else interval.high
