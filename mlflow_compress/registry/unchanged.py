"""The unchanged source as a candidate: what is no better than it does not take its place."""

from dataclasses import replace

from mlflow_compress.records import (
    MEASURES,
    Fidelity,
    Gate,
    Interval,
    OutputFidelity,
    Recipe,
    Report,
    Variant,
)
from mlflow_compress.registry.order import best_of, objective_text
from mlflow_compress.targets import Target, judge

__all__ = ["worse_than_source"]


def worse_than_source(variant: Variant, target: Target) -> Gate | None:
    """Return a failed gate when a target's own order puts the unchanged source first.

    Args:
        variant: with its numbers.
        target: its objective and limits.

    Returns:
        The gate; None when the variant is better, or where the source is no candidate: it breaks a
        limit of the target, what that limits is not known of it, or the variant is the source,
        packed.
    """
    if not variant.recipe.steps:
        return None
    source = _source_of(variant)
    if not all(limit.gate(source.report).passed for limit in judge(target, source.report)):
        return None
    if best_of([variant, source], target) is variant:
        return None
    reason = (
        f"no better than the unchanged source: {objective_text(variant, target)}, the source's "
        f"{objective_text(source, target)}"
    )
    return Gate("source", False, 0.0, 1.0, reason)


def _source_of(variant: Variant) -> Variant:
    """Return the source as a variant with the numbers that it was measured beside this one with."""
    report = variant.report
    accuracy = report.accuracy
    if accuracy is not None:
        level = accuracy.drop_interval.level
        none = Interval(0.0, 0.0, level)
        accuracy = replace(
            accuracy, value=accuracy.source, drop=0.0, drop_interval=none, interval=None
        )
    unchanged = Report(
        size_bytes=report.source_bytes,
        source_bytes=report.source_bytes,
        rate=1.0,
        entropy=0.0,
        sha256="",
        accuracy=accuracy,
        fidelity=None if report.fidelity is None else _perfect(report.fidelity),
        latency=tuple(
            replace(one, p50=one.source_p50, p95=one.source_p50, ratio=1.0,
                    ratio_interval=Interval(1.0, 1.0, one.ratio_interval.level))
            for one in report.latency
        ),
        needs=report.needs,
    )  # fmt: skip
    return replace(variant, key=f"source of {variant.key}", recipe=Recipe(), report=unchanged,
                   version=None)  # fmt: skip


def _perfect(fidelity: Fidelity) -> Fidelity:
    outputs = tuple(_perfect_output(output) for output in fidelity.outputs)
    agreement = None if fidelity.agreement is None else 1.0
    kl = None if fidelity.kl is None else 0.0
    score = None if fidelity.score is None else 1.0
    return Fidelity(agreement, kl, fidelity.dataset, outputs, score)


def _perfect_output(output: OutputFidelity) -> OutputFidelity:
    measures = {name: MEASURES[name].best for name in output.measures if name in MEASURES}
    intervals = {
        name: Interval(measures[name], measures[name], interval.level)
        for name, interval in output.intervals.items()
        if name in measures
    }
    return replace(output, measures=measures, intervals=intervals, broken=0)
