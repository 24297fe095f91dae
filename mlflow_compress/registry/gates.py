"""The gates of a target: one limit checked on one variant, failing closed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlflow_compress.records import Gate, Latency, Variant, change_unit, shown_change
from mlflow_compress.targets import Target, format_ms, format_size, is_limited, lacks

__all__ = ["check", "latency_for"]

# What an interval's level may fall short of the asked confidence by: rounding, nothing more.
_LEVEL_SLACK = 1e-9
# 0.95 - 0.945 is 0.005 and a little more in binary; a limit of 0.005 means the decimal number.
_SLACK = 1e-9


@dataclass(frozen=True)
class _Metric:
    """A value that was found sound, or why there is none."""

    value: float | None
    problem: str = ""


def _sound(name: str, value: object, low: float, high: float = math.inf) -> _Metric:
    """Refuse what is missing, no number, not finite, or outside ``[low, high]``."""
    if value is None:
        return _Metric(None, f"{name} was not measured")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _Metric(None, f"{name} is no number: {value!r}")
    if not math.isfinite(value):
        return _Metric(None, f"{name} is {value}")
    if not low <= value <= high:
        return _Metric(None, f"{name} is {value:g}, which cannot be")
    return _Metric(float(value))


def check(variant: Variant, target: Target, rows: str | None = None) -> tuple[Gate, ...]:
    """Check every limit of ``target`` on ``variant``.

    Args:
        variant: registered or not.
        target: the edge target.
        rows: digest of today's evaluation rows; when given, a metric measured on other rows
            is stale and fails.

    Returns:
        The gates in a fixed order; the variant is feasible when all have passed.
    """
    limits, accuracy = target.limits, target.accuracy
    gates = [_runnable(variant, target)]
    if is_limited(target):
        gates.append(_runtime(variant, target))
    if target.name in variant.quarantined:
        reason = "quarantined for this target until it is released"
        gates.append(Gate("quarantine", False, None, 0.0, reason))
    if limits.size_bytes is not None:
        size = _sound("size", variant.report.size_bytes, 1)
        gates.append(_at_most("size", size, limits.size_bytes, format_size))
    if limits.latency_p50_ms is not None:
        gates.append(_latency(variant, target, "p50", limits.latency_p50_ms))
    if limits.latency_p95_ms is not None:
        gates.append(_latency(variant, target, "p95", limits.latency_p95_ms))
    if limits.memory_bytes is not None:
        gates.append(_at_most("memory", _memory(variant, target), limits.memory_bytes, format_size))
    if accuracy.min is not None:
        gates.append(_at_least("accuracy", _least_accuracy(variant, rows), accuracy.min))
    if accuracy.max_drop is not None:
        drop = _drop(variant, rows, accuracy.confidence)
        unit = variant.report.accuracy.unit if variant.report.accuracy else "share"
        show = partial(_change, unit=unit)
        gates.append(_at_most("accuracy_drop", drop, accuracy.max_drop, show))
    if accuracy.min_agreement is not None:
        agreement = _fidelity(variant, rows, "agreement", 1.0)
        gates.append(_at_least("agreement", agreement, accuracy.min_agreement))
    if accuracy.max_kl is not None:
        kl = _fidelity(variant, rows, "kl", math.inf)
        gates.append(_at_most("kl", kl, accuracy.max_kl, lambda value: f"{value:.4g} nats"))
    gates.append(_rankable(variant, target, rows))
    return tuple(gates)


def _at_most(name: str, metric: _Metric, limit: float, show: Callable[[float], str]) -> Gate:
    if metric.value is None:
        return Gate(name, False, None, float(limit), metric.problem)
    passed = metric.value <= limit + _SLACK
    reason = "" if passed else f"{show(metric.value)} is more than {show(limit)}"
    return Gate(name, passed, metric.value, float(limit), reason)


def _at_least(name: str, metric: _Metric, limit: float) -> Gate:
    if metric.value is None:
        return Gate(name, False, None, float(limit), metric.problem)
    passed = metric.value >= limit - _SLACK
    reason = "" if passed else f"{metric.value:.4g} is less than {limit:.4g}"
    return Gate(name, passed, metric.value, float(limit), reason)


def _change(value: float, unit: str) -> str:
    return f"{shown_change(value, unit):.4g} {change_unit(unit)}".rstrip()


def _runnable(variant: Variant, target: Target) -> Gate:
    """Whether the target's runtime can load the variant's packed profile."""
    profiles = target.execution.profiles
    passed = variant.recipe.profile in profiles
    reason = (
        ""
        if passed
        else f"{target.execution.runtime} loads {', '.join(profiles)}, "
        f"the variant is {variant.recipe.profile}"
    )
    return Gate("profile", passed, float(passed), 1.0, reason)


def _runtime(variant: Variant, target: Target) -> Gate:
    """Whether the target's runtime has the opset, operators and types that the variant needs."""
    needs = variant.report.needs
    if needs is None:
        return Gate("runtime", False, None, 1.0, "what it needs of a runtime was not recorded")
    reason = lacks(needs, target)
    return Gate("runtime", not reason, float(not reason), 1.0, reason)


def _memory(variant: Variant, target: Target) -> _Metric:
    """Peak memory where the target runs; of several measurements the largest counts."""
    report = variant.report
    if target.measured_on == "local":
        return _sound("memory", report.memory_bytes, 1)
    found = [one.bytes for one in report.memory if one.device == target.measured_on]
    if not found:
        return _Metric(None, f"memory was not measured on {target.measured_on}")
    return _sound("memory", max(found), 1)


def _stale(digest: str, rows: str | None) -> str:
    if rows is None or digest == rows:
        return ""
    return f"measured on other rows ({digest[:12]} and not {rows[:12]})"


def _accuracy(variant: Variant, rows: str | None) -> _Metric:
    accuracy = variant.report.accuracy
    if accuracy is None:
        return _Metric(None, "accuracy was not measured (data without labels?)")
    if stale := _stale(accuracy.dataset.digest, rows):
        return _Metric(None, f"accuracy: {stale}")
    return _sound("accuracy", accuracy.value, *accuracy.range)


def _least_accuracy(variant: Variant, rows: str | None) -> _Metric:
    """The accuracy where a target names the least; of an error that would be its worst."""
    accuracy = variant.report.accuracy
    if accuracy is None or accuracy.higher_is_better:
        return _accuracy(variant, rows)
    reason = f"{accuracy.metric} is an error, where less is better: limit max_drop instead"
    return _Metric(None, reason)


def _drop(variant: Variant, rows: str | None, confidence: float | None) -> _Metric:
    """The drop, or the upper bound of its interval when the target asks for confidence."""
    accuracy = variant.report.accuracy
    if accuracy is None:
        return _Metric(None, "accuracy was not measured (data without labels?)")
    stale = _stale(accuracy.dataset.digest, rows)
    if stale:
        return _Metric(None, f"accuracy drop: {stale}")
    most = accuracy.largest_drop
    drop = _sound("accuracy drop", accuracy.drop, -most, most)
    if drop.value is None or confidence is None:
        return drop
    interval = accuracy.drop_interval
    high = _sound("upper bound of the accuracy drop", interval.high, -most, most)
    if high.value is None:
        return high
    if not interval.level >= confidence - _LEVEL_SLACK:
        return _Metric(
            None, f"the drop's interval is at level {interval.level:g}, {confidence:g} is asked"
        )
    # A bound below the drop itself would be a broken interval; the worse of the two counts.
    return _Metric(max(drop.value, high.value))


def _fidelity(variant: Variant, rows: str | None, name: str, high: float) -> _Metric:
    fidelity = variant.report.fidelity
    if fidelity is None:
        return _Metric(None, f"{name} was not measured")
    stale = _stale(fidelity.dataset.digest, rows)
    return (
        _Metric(None, f"{name}: {stale}")
        if stale
        else _sound(name, getattr(fidelity, name), 0, high)
    )


def latency_for(variant: Variant, target: Target) -> Latency | None:
    """Return the variant's latency as measured where and how the target runs, or None.

    A measurement counts when its device is the target's ``measured_on`` (any device that is
    no ssh or cmd address counts as local) and its threads are the target's. Of several, the
    slowest counts. None counts where the target's providers are not those of this machine's
    measurements.
    """
    if target.unmeasured_providers:
        return None
    here = target.measured_on == "local"
    found = [
        latency
        for latency in variant.report.latency
        if latency.threads == target.execution.threads
        and (
            not latency.device.startswith(("ssh://", "cmd:"))
            if here
            else latency.device == target.measured_on
        )
    ]
    return max(found, key=lambda latency: (_worst(latency.p50), latency.device), default=None)


def _unmeasured(label: str, target: Target) -> str:
    how = f"{target.execution.threads} thread(s)"
    if target.unmeasured_providers:
        how = ", ".join(target.unmeasured_providers)
    return f"{label} was not measured on {target.measured_on} with {how}"


def _worst(value: float) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _latency(variant: Variant, target: Target, name: str, limit: float) -> Gate:
    latency = latency_for(variant, target)
    label = f"latency_{name}"
    if latency is None:
        return Gate(label, False, None, limit, _unmeasured(label, target))
    metric = _sound(label, getattr(latency, name), 0)
    if metric.value == 0:
        metric = _Metric(None, f"{label} is 0, which cannot be")
    return _at_most(label, metric, limit, format_ms)


def _rankable(variant: Variant, target: Target, rows: str | None) -> Gate:
    """Whether the metric that the objective orders by is there and sound."""
    objective = target.objective
    # Size is in every comparison of two variants, whatever the objective.
    metrics = [_sound("size", variant.report.size_bytes, 1)]
    if objective in ("accuracy", "reward"):
        metric = _accuracy(variant, rows)
        # Without labels, agreement with the source stands for accuracy.
        if variant.report.accuracy is None and variant.report.fidelity is not None:
            metric = _fidelity(variant, rows, "agreement", 1.0)
        metrics.append(metric)
    if objective in ("latency", "reward"):
        metrics.append(_latency_metric(variant, target))
    if objective == "rate":
        metrics.append(_sound("rate", variant.report.rate, 0))
    problem = next((metric.problem for metric in metrics if metric.value is None), "")
    return Gate("objective", not problem, metrics[-1].value if not problem else None, 0.0, problem)


def _latency_metric(variant: Variant, target: Target) -> _Metric:
    latency = latency_for(variant, target)
    if latency is None:
        return _Metric(None, _unmeasured("latency", target))
    numbers = (latency.p50, latency.ratio, latency.ratio_interval.low, latency.ratio_interval.high)
    for value in numbers:
        metric = _sound("latency", value, 0)
        if metric.value is None or metric.value == 0:
            return _Metric(None, metric.problem or "latency is 0, which cannot be")
    if not latency.ratio_interval.low <= latency.ratio_interval.high:
        return _Metric(None, "the latency's interval is upside down")
    return _Metric(latency.ratio)
