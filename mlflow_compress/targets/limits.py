"""What a target limits: the one list that gates, search, screening and the others read.

A limit knows its bound, how to read the number that it bounds from a report, the best that this
number may still turn out when only some rows were seen, and how far beyond the bound it is. To add
one, add its field to :class:`~mlflow_compress.targets.profile.Target` and an entry to ``_KINDS``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mlflow_compress.records import Bound, Gate, Interval, Report, change_unit, shown_change
from mlflow_compress.targets.looks import (
    Look,
    best_agreement,
    best_drop,
    best_metric,
)
from mlflow_compress.targets.profile import Target
from mlflow_compress.targets.readings import (
    Reading,
    read_accuracy,
    read_drop,
    read_fidelity,
    read_latency,
    read_memory,
    read_size,
    worse_end,
)
from mlflow_compress.targets.units import format_ms, format_size

__all__ = [
    "QUALITY_SCALE",
    "USUAL_LEVEL",
    "Estimated",
    "Limit",
    "LimitKind",
    "bound_of",
    "interval_level",
    "limits_of",
    "metric_problem",
]

Source = Literal["file", "device", "labels", "rows"]
"""What a number is read from: the packed file, a device, rows with labels, or any rows."""

QUALITY_SCALE = 0.1
"""An accuracy, drop or agreement that is so far beyond its bound is as bad as a file that is too
large by a factor of about e."""

_LEAST_SCALE = 0.01
"""Of a bound that may be 0, so that the share of it which an excess is has a meaning."""

# 0.95 - 0.945 is 0.005 and a little more in binary; a limit of 0.005 means the decimal number.
_SLACK = 1e-9

USUAL_LEVEL = 0.95
"""Level of drops' intervals where no target asks for a higher one."""

_RELATIONS = {
    "most": {True: "at most", False: "more than"},
    "least": {True: "at least", False: "less than"},
}


@dataclass(frozen=True)
class Estimated:
    """The interval of a number, with what its ends can be.

    Attributes:
        interval: the interval.
        rows: how many rows it comes from.
        low: the least that an end can be.
        high: the largest that an end can be.
    """

    interval: Interval
    rows: int
    low: float = -math.inf
    high: float = math.inf


def _none(known: object) -> None:
    """What is read from a file or on a device is not estimated from rows."""


def _metric_interval(report: Report) -> Estimated | None:
    accuracy = report.accuracy
    if accuracy is None or accuracy.interval is None:
        return None
    return Estimated(accuracy.interval, accuracy.dataset.rows, *accuracy.range)


def _drop_interval(report: Report) -> Estimated | None:
    accuracy = report.accuracy
    if accuracy is None:
        return None
    most = accuracy.largest_drop
    return Estimated(accuracy.drop_interval, accuracy.dataset.rows, -most, most)


def metric_problem(
    key: str, bound: float, metric: str, *, higher_is_better: bool, unit: str | None
) -> str:
    """Say why a bound makes no sense for a metric, empty when it does.

    Args:
        key: of the limit, such as ``accuracy.min``.
        bound: the bound.
        metric: the metric's name.
        higher_is_better: False for errors.
        unit: the metric's; a share is within 0 and 1. None when only scores tell it.
    """
    if key == "accuracy.min" and not higher_is_better:
        return f"{metric} is an error, where less is better: limit max or max_drop instead"
    if key == "accuracy.max" and higher_is_better:
        return f"{metric} is no error, more of it is better: limit min or max_drop instead"
    if unit == "share" and key != "accuracy.max" and not 0 <= bound <= 1:
        hint = f" (did you mean {bound / 100:g}?)" if 1 < bound <= 100 else ""
        return f"{metric} is a share: must be between 0 and 1, got {bound:g}{hint}"
    return ""


def _plain(value: float, _report: Report) -> str:
    return f"{value:.4g}"


def _change(value: float, report: Report) -> str:
    """Return a drop in the unit of the report's metric."""
    unit = "share" if report.accuracy is None else report.accuracy.unit
    change = shown_change(value, unit)
    shown = round(change, 3) + 0 if unit == "share" else change  # of a point in a hundred
    return f"{shown:.4g} {change_unit(unit)}".rstrip()


def _score(value: float, unit: str) -> str:
    return f"{100 * value:g} %" if unit == "share" else f"{value:g} {unit}".rstrip()


def _lost(value: float, unit: str) -> str:
    return f"{shown_change(value, unit):g} {change_unit(unit)}".rstrip()


@dataclass(frozen=True)
class LimitKind:
    """A bound that a target may set, and everything that follows from it.

    Attributes:
        key: where it is in a target's YAML, such as ``accuracy.max_drop``.
        name: of its gate, such as ``accuracy_drop``.
        sense: ``most`` for an upper bound, ``least`` for a lower one.
        source: what has to be there to read the number.
        bound: returns a target's bound, None when it sets none.
        read: returns the number of a report for a target, on rows of a digest (None: any).
        optimistic: returns the best the number may turn out, None when nothing is known of it.
        show: returns a value with its unit, which a report may tell.
        phrase: returns the limit in words, of a bound and the unit of the metric.
        scale: for a bound, the excess that counts as 1; None when files and devices are compared,
            by the factor between value and bound.
        output: the output that the number is of; empty when it is of the whole variant.
        measures: the measure of that output.
        interval: returns the number's interval, the worse end of which is read where a target
            asks for confidence; None without one.
    """

    key: str
    name: str
    sense: Literal["most", "least"]
    source: Source
    bound: Callable[[Target], float | None]
    read: Callable[[Report, Target, str | None], Reading]
    show: Callable[[float, Report], str]
    phrase: Callable[[float, str], str]
    scale: Callable[[float], float] | None = None
    optimistic: Callable[[Look], float | None] = _none
    output: str = ""
    measures: str = ""
    interval: Callable[[Report], Estimated | None] = _none


def _own_size(bound: float) -> float:
    return max(bound, _LEAST_SCALE)


def _quality(_bound: float) -> float:
    return QUALITY_SCALE


_KINDS = (
    LimitKind(
        key="limits.size",
        name="size",
        sense="most",
        source="file",
        bound=lambda target: target.limits.size_bytes,
        read=lambda report, target, rows: read_size(report),
        show=lambda value, report: format_size(value),
        phrase=lambda bound, unit: f"at most {format_size(bound)}",
    ),
    LimitKind(
        key="limits.latency_p50",
        name="latency_p50",
        sense="most",
        source="device",
        bound=lambda target: target.limits.latency_p50_ms,
        read=lambda report, target, rows: read_latency(report, target, "latency_p50"),
        show=lambda value, report: format_ms(value),
        phrase=lambda bound, unit: f"median within {bound:g} ms",
    ),
    LimitKind(
        key="limits.latency_p95",
        name="latency_p95",
        sense="most",
        source="device",
        bound=lambda target: target.limits.latency_p95_ms,
        read=lambda report, target, rows: read_latency(report, target, "latency_p95"),
        show=lambda value, report: format_ms(value),
        phrase=lambda bound, unit: f"95 % of calls within {bound:g} ms",
    ),
    LimitKind(
        key="limits.memory",
        name="memory",
        sense="most",
        source="device",
        bound=lambda target: target.limits.memory_bytes,
        read=lambda report, target, rows: read_memory(report, target),
        show=lambda value, report: format_size(value),
        phrase=lambda bound, unit: f"memory up to {format_size(bound)}",
    ),
    LimitKind(
        key="accuracy.min",
        name="accuracy",
        sense="least",
        source="labels",
        bound=lambda target: target.accuracy.min,
        read=lambda report, target, rows: read_accuracy(report, rows),
        show=_plain,
        phrase=lambda bound, unit: f"accuracy {_score(bound, unit)} or more",
        scale=_quality,
        optimistic=best_metric,
        interval=_metric_interval,
    ),
    LimitKind(
        key="accuracy.max",
        name="metric_error",  # not that of an output of values
        sense="most",
        source="labels",
        bound=lambda target: target.accuracy.max,
        read=lambda report, target, rows: read_accuracy(report, rows),
        show=_plain,
        phrase=lambda bound, unit: f"an error of at most {_score(bound, unit)}",
        scale=_own_size,
        optimistic=best_metric,
        interval=_metric_interval,
    ),
    LimitKind(
        key="accuracy.max_drop",
        name="accuracy_drop",
        sense="most",
        source="labels",
        bound=lambda target: target.accuracy.max_drop,
        read=lambda report, target, rows: read_drop(report, rows),
        show=_change,
        phrase=lambda bound, unit: f"at most {_lost(bound, unit)} lost",
        scale=_quality,
        optimistic=best_drop,
        interval=_drop_interval,
    ),
    LimitKind(
        key="accuracy.min_agreement",
        name="agreement",
        sense="least",
        source="rows",
        bound=lambda target: target.accuracy.min_agreement,
        read=lambda report, target, rows: read_fidelity(report, rows, "agreement"),
        show=_plain,
        phrase=lambda bound, unit: f"{100 * bound:g} % or more rows as the source",
        scale=_quality,
        optimistic=best_agreement,
    ),
    LimitKind(
        key="accuracy.max_kl",
        name="kl",
        sense="most",
        source="rows",
        bound=lambda target: target.accuracy.max_kl,
        read=lambda report, target, rows: read_fidelity(report, rows, "kl"),
        show=lambda value, report: f"{value:.4g} nats",
        phrase=lambda bound, unit: f"KL divergence up to {bound:g} nats",
        scale=_own_size,
    ),
)
"""In the order in which gates are shown."""


@dataclass(frozen=True)
class Limit:
    """A bound that a target sets on one number.

    Attributes:
        kind: which number, and how it is read and shown.
        target: whose limit it is.
        bound: the bound, in the number's own unit.
    """

    kind: LimitKind
    target: Target
    bound: float

    @property
    def name(self) -> str:
        """The name of its gate."""
        return self.kind.name

    @property
    def key(self) -> str:
        """Where it is in the target's YAML."""
        return self.kind.key

    @property
    def source(self) -> Source:
        """What the number is read from."""
        return self.kind.source

    def text(self, unit: str = "share") -> str:
        """Return the limit in words, such as ``at most 60 kB``.

        Args:
            unit: of the metric that variants are scored by.
        """
        return self.kind.phrase(self.bound, unit)

    def read(self, report: Report, rows: str | None = None) -> Reading:
        """Return the number of a report that counts, or why there is none.

        Where the target asks for confidence it is the worse end of the number's interval.

        Args:
            report: the numbers of a variant.
            rows: digest of today's evaluation rows; what was measured on others is stale.
        """
        accuracy = report.accuracy
        if self.source == "labels" and accuracy is not None:
            problem = metric_problem(
                self.key,
                self.bound,
                accuracy.metric,
                higher_is_better=accuracy.higher_is_better,
                unit=accuracy.unit,
            )
            if problem:
                return Reading(None, problem)
        value = self.kind.read(report, self.target, rows)
        known, asked = self.kind.interval(report), self.target.accuracy.confidence
        if value.value is None or known is None or asked is None:
            return value
        ends = known.low, known.high
        return worse_end(
            self._shown_name, value.value, known.interval, self.kind.sense, asked, ends
        )

    def excess(self, value: float) -> float:
        """Return how far a value is beyond the bound; 0 or less when it is within.

        The unit is about the same for all limits: see :data:`QUALITY_SCALE`.
        """
        beyond = self._beyond(value)
        if self.kind.scale is not None:
            return beyond / self.kind.scale(self.bound)
        if self.bound <= 0:
            return math.copysign(math.inf, beyond) if beyond else 0.0
        share = beyond / self.bound
        return math.log1p(share) if share > 0 else share

    def passes(self, value: float) -> bool:
        """Say whether a value is within the bound; NaN never is."""
        return self._beyond(value) <= 0

    def is_out_of_reach(self, look: Look) -> bool:
        """Say whether the limit is broken even at the best that a look leaves room for."""
        best = self.kind.optimistic(look)
        return best is not None and self._beyond(best) > 0

    def gate(self, report: Report, rows: str | None = None) -> Gate:
        """Check a report; a number that does not count fails, and the gate says why."""
        reading = self.read(report, rows)
        if reading.value is None:
            return Gate(self.name, False, None, float(self.bound), reading.problem)
        passed = self.passes(reading.value)
        reason = "" if passed else self._compared(reading, reading.value, report)
        return Gate(self.name, passed, reading.value, float(self.bound), reason)

    def doubt(self, report: Report) -> Bound | None:
        """Return the number with the bound that is read, None when no interval is.

        What a limit fails by the bound alone, more rows may show to be within it.
        """
        known, level = self.kind.interval(report), self.target.accuracy.confidence
        value = self.kind.read(report, self.target, None).value
        if known is None or level is None or value is None:
            return None
        interval, rows = known.interval, known.rows
        if self.kind.sense == "most":
            return Bound(value, max(value, interval.high), level, rows)
        return Bound(value, min(value, interval.low), level, rows, "lower")

    def verdict(self, report: Report) -> str:
        """Return one line that says how a report stands to the limit, met or not."""
        reading = self.read(report)
        if reading.value is None:
            return reading.problem
        return f"{self._shown_name} {self._compared(reading, reading.value, report)}"

    def within(self, share: float) -> "Limit":
        """Return the limit with only a share of its bound to use."""
        return replace(self, bound=self.bound * share)

    @property
    def _shown_name(self) -> str:
        """The name in words; that of an output stays as it is."""
        return self.name if self.kind.output else self.name.replace("_", " ")

    def _beyond(self, value: float) -> float:
        """Return what a value is beyond the bound, in its unit; rounding is no excess."""
        beyond = value - self.bound if self.kind.sense == "most" else self.bound - value
        return min(beyond, 0.0) if beyond <= _SLACK else beyond

    def _compared(self, reading: Reading, value: float, report: Report) -> str:
        relation = _RELATIONS[self.kind.sense][self.passes(value)]
        shown = self.kind.show(value, report)
        if reading.level is not None:
            shown += f" ({100 * reading.level:g} % sure)"
        return f"{shown} is {relation} {self.kind.show(self.bound, report)}"


def limits_of(target: Target) -> tuple[Limit, ...]:
    """Return every limit that a target sets, in the order of its gates."""
    bounds = ((kind, kind.bound(target)) for kind in _KINDS)
    return tuple(Limit(kind, target, bound) for kind, bound in bounds if bound is not None)


def bound_of(target: Target, name: str) -> float | None:
    """Return the bound of a target's limit by the name of its gate, None when it has none."""
    return next((limit.bound for limit in limits_of(target) if limit.name == name), None)


def interval_level(targets: Sequence[Target]) -> float:
    """Return the level that drops' intervals need, so that each target's confidence can be met.

    An interval at a higher level is wider, and so holds at each lower one as well.
    """
    asked = (target.accuracy.confidence for target in targets)
    return max([USUAL_LEVEL, *(level for level in asked if level is not None)])
