"""The gates of a target: what it limits and needs, checked on one variant, failing closed."""

from mlflow_compress.records import Gate, Report, Variant
from mlflow_compress.registry.unchanged import worse_than_source
from mlflow_compress.targets import Target, is_limited, judge, lacks
from mlflow_compress.targets.readings import (
    read_accuracy,
    read_fidelity_score,
    read_latency_ratio,
    read_size,
    sound,
)

__all__ = ["check"]


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
    gates = [_runnable(variant, target)]
    if is_limited(target):
        gates.append(_runtime(variant, target))
    if target.name in variant.quarantined:
        reason = "quarantined for this target until it is released"
        gates.append(Gate("quarantine", False, None, 0.0, reason))
    gates += [limit.gate(variant.report, rows) for limit in judge(target, variant.report)]
    gates.append(_rankable(variant.report, target, rows))
    if all(gate.passed for gate in gates):
        against = worse_than_source(variant, target)
        gates += [] if against is None else [against]
    return tuple(gates)


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


def _rankable(report: Report, target: Target, rows: str | None) -> Gate:
    """Whether the metric that the objective orders by is there and sound."""
    objective = target.objective
    # Size is in every comparison of two variants, whatever the objective.
    readings = [read_size(report)]
    if objective in ("accuracy", "reward"):
        # Without labels, closeness to the source stands for accuracy.
        without = report.accuracy is None and report.fidelity is not None
        quality = read_fidelity_score(report, rows) if without else None
        readings.append(quality or read_accuracy(report, rows))
    if objective in ("latency", "reward"):
        readings.append(read_latency_ratio(report, target))
    if objective == "rate":
        readings.append(sound("rate", report.rate, 0))
    problem = next((reading.problem for reading in readings if reading.value is None), "")
    value = None if problem else readings[-1].value
    return Gate("objective", not problem, value, 0.0, problem)
