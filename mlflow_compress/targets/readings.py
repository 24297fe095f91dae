"""Numbers read out of a variant's report for a target: a sound value, or why there is none.

Everything here fails closed. A number that is missing, not finite, impossible, or measured on
other rows is no value.
"""

import math
from dataclasses import dataclass
from typing import Literal

from mlflow_compress.records import DatasetRef, Fidelity, Interval, Latency, Report
from mlflow_compress.targets.profile import Target

__all__ = [
    "Reading",
    "latency_for",
    "read_accuracy",
    "read_drop",
    "read_fidelity",
    "read_fidelity_score",
    "read_latency",
    "read_latency_ratio",
    "read_memory",
    "read_size",
    "sound",
    "stale",
    "worse_end",
]

# What an interval's level may fall short of the asked confidence by: rounding, nothing more.
_LEVEL_SLACK = 1e-9

_NO_LABELS = "accuracy was not measured (data without labels?)"


@dataclass(frozen=True)
class Reading:
    """A number of a report, or why there is none.

    Attributes:
        value: the number, None when there is none that counts.
        problem: why there is none, in one line; empty when there is one.
        is_measured: False when nothing was measured at all, so that it may still come.
        level: confidence level of the interval whose worse end it is; None for the number itself.
    """

    value: float | None
    problem: str = ""
    is_measured: bool = True
    level: float | None = None


def _missing(problem: str) -> Reading:
    return Reading(None, problem, is_measured=False)


def sound(name: str, value: object, low: float, high: float = math.inf) -> Reading:
    """Refuse what is missing, no number, not finite, or outside ``[low, high]``."""
    if value is None:
        return _missing(f"{name} was not measured")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Reading(None, f"{name} is no number: {value!r}")
    if not math.isfinite(value):
        return Reading(None, f"{name} is {value}")
    if not low <= value <= high:
        return Reading(None, f"{name} is {value:g}, which cannot be")
    return Reading(float(value))


def stale(name: str, dataset: DatasetRef, rows: str | None) -> Reading | None:
    """Return why a number does not count that was measured on other rows, None when it does."""
    if rows is None or dataset.digest == rows:
        return None
    text = f"{name}: measured on other rows ({dataset.digest[:12]} and not {rows[:12]})"
    return Reading(None, text)


_OLD_RULE = "was judged by an older rule, which looked at the first output alone; run the job again"


def _unusable(name: str, report: Report, dataset: DatasetRef, rows: str | None) -> Reading | None:
    """Return why a number that rows tell does not count, None when it does."""
    if report.fidelity is not None and not report.fidelity.is_whole:
        return Reading(None, f"{name} {_OLD_RULE}")
    return stale(name, dataset, rows)


def read_size(report: Report) -> Reading:
    """Return the bytes of the variant's file."""
    return sound("size", report.size_bytes, 1)


def read_memory(report: Report, target: Target) -> Reading:
    """Return peak memory where the target runs; of several measurements the largest counts."""
    peak = report.memory_at(target.place)
    if peak is None and not target.place.is_local:
        return _missing(f"memory was not measured on {target.measured_on}")
    return sound("memory", peak, 1)


def latency_for(report: Report, target: Target) -> Latency | None:
    """Return the latency as measured where and how the target runs, or None.

    None counts where the target's providers are not those of this machine's measurements.
    """
    if target.unmeasured_providers:
        return None
    return report.latency_at(target.place)


def _unmeasured(label: str, target: Target) -> Reading:
    how = f"{target.execution.threads} thread(s)"
    if target.unmeasured_providers:
        how = ", ".join(target.unmeasured_providers)
    return _missing(f"{label} was not measured on {target.measured_on} with {how}")


def _above_zero(name: str, value: object) -> Reading:
    reading = sound(name, value, 0)
    return Reading(None, f"{name} is 0, which cannot be") if reading.value == 0 else reading


def read_latency(report: Report, target: Target, name: str) -> Reading:
    """Return milliseconds per call where the target runs: ``latency_p50`` or ``latency_p95``."""
    latency = latency_for(report, target)
    if latency is None:
        return _unmeasured(name, target)
    return _above_zero(name, latency.p50 if name == "latency_p50" else latency.p95)


def read_latency_ratio(report: Report, target: Target) -> Reading:
    """Return variant / source, when all numbers that latencies are ordered by are sound."""
    latency = latency_for(report, target)
    if latency is None:
        return _unmeasured("latency", target)
    interval = latency.ratio_interval
    for value in (latency.p50, latency.ratio, interval.low, interval.high):
        reading = _above_zero("latency", value)
        if reading.value is None:
            return reading
    if not interval.low <= interval.high:
        return Reading(None, "the latency's interval is upside down")
    return Reading(latency.ratio)


def worse_end(
    name: str,
    value: float,
    interval: Interval,
    sense: Literal["most", "least"],
    confidence: float,
    ends: tuple[float, float],
) -> Reading:
    """Return the end of a number's interval that is worse for a limit, or why it does not count.

    Args:
        name: of the number, for messages.
        value: the number itself.
        interval: the number's.
        sense: of the limit; the upper end is the worse one for ``most``.
        confidence: the level that is asked for.
        ends: the least and the largest that an end can be.
    """
    if not interval.level >= confidence - _LEVEL_SLACK:
        return Reading(
            None,
            f"the interval of {name} is at level {interval.level:g}, {confidence:g} is asked",
        )
    found = sound(f"bound of {name}", interval.high if sense == "most" else interval.low, *ends)
    if found.value is None:
        return found
    # An end on the better side of the number itself would be a broken interval; the worse counts.
    worse = max if sense == "most" else min
    return Reading(worse(value, found.value), level=confidence)


def read_accuracy(report: Report, rows: str | None) -> Reading:
    """Return the metric's value."""
    accuracy = report.accuracy
    if accuracy is None:
        return _missing(_NO_LABELS)
    return _unusable("accuracy", report, accuracy.dataset, rows) or sound(
        "accuracy", accuracy.value, *accuracy.range
    )


def read_drop(report: Report, rows: str | None) -> Reading:
    """Return the metric's drop."""
    accuracy = report.accuracy
    if accuracy is None:
        return _missing(_NO_LABELS)
    other = _unusable("accuracy drop", report, accuracy.dataset, rows)
    if other is not None:
        return other
    return sound("accuracy drop", accuracy.drop, -accuracy.largest_drop, accuracy.largest_drop)


def _fidelity(report: Report, rows: str | None, name: str) -> Fidelity | Reading:
    """Return the fidelity, or why it does not count."""
    fidelity = report.fidelity
    if fidelity is None:
        return _missing(f"{name} was not measured")
    return _unusable(name, report, fidelity.dataset, rows) or fidelity


def read_fidelity(report: Report, rows: str | None, name: str) -> Reading:
    """Return closeness to the source without labels: ``agreement`` (0 to 1) or ``kl`` (nats)."""
    fidelity = _fidelity(report, rows, name)
    if isinstance(fidelity, Reading):
        return fidelity
    if name == "agreement":
        return sound(name, fidelity.agreement, 0, 1)
    return sound(name, fidelity.kl, 0)


def read_fidelity_score(report: Report, rows: str | None) -> Reading:
    """Return the closeness of the output that is furthest from the source's; 1 is the source's."""
    fidelity = _fidelity(report, rows, "fidelity")
    if isinstance(fidelity, Reading):
        return fidelity
    return sound("fidelity", fidelity.quality, -1, 1)
