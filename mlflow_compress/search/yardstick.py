"""Tests the yardstick before it is used: what is worth nothing must not pass the gate.

Rows that are all of one class, an output that is saturated, or a limit that is too wide let a
model pass that always answers the same, or the source with its weights shuffled. What such a gate
says of a variant means nothing. That no output may be ruined does not make up for it: a constant
is ruined wherever an output varies at all, and what is half ruined would still pass.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mlflow_compress import measure
from mlflow_compress.errors import CompressError, ConfigError
from mlflow_compress.measure.yardstick import constant_answers, shuffled
from mlflow_compress.records import Report
from mlflow_compress.rows import Array
from mlflow_compress.search.trial import TrialEvaluator
from mlflow_compress.targets import ALWAYS, Limit, Target, judge, metric_problem

__all__ = ["check_limits", "check_yardstick"]

_LABELS = "the labels"


def check_limits(
    limits: Iterable[Limit],
    metric: measure.MetricSpec,
    rows: measure.Dataset,
    *,
    named: Callable[[Limit], str],
    remedy: str,
) -> None:
    """Refuse limits that need labels which are not there, or that the metric cannot be held to.

    Args:
        limits: those that a target sets.
        metric: what labels are scored by.
        rows: what variants are judged on.
        named: returns what a limit is called where a person said it.
        remedy: what else may be done where there are no labels.

    Raises:
        ConfigError: one line with the limit and what to do.
    """
    is_labelled = rows.has_labels or metric.labels == "source"
    for limit in limits:
        if limit.source != "labels":
            continue
        if not is_labelled:
            raise ConfigError(
                f"{named(limit)} needs labels, and data {rows.name!r} has none: add an array "
                f"'labels', {remedy}"
            )
        found = measure.find_metric(metric)
        problem = metric_problem(
            limit.key,
            limit.bound,
            metric.name,
            higher_is_better=found.higher_is_better,
            unit=found.unit,
        )
        if problem:
            raise ConfigError(f"{named(limit)}: {problem}")


def check_yardstick(evaluator: TrialEvaluator, targets: Sequence[Target]) -> None:
    """Refuse rows, or limits, with which a target would take a model that is worth nothing.

    Args:
        evaluator: the source with the rows that variants are judged on.
        targets: their limits are tried.

    Raises:
        ConfigError: names the target, the output, what passes, and what to do.
    """
    fixed = {output.name for output in evaluator.outputs if output.is_fixed}
    for worthless, outputs in _worthless(evaluator):
        report = evaluator.judged(outputs)
        for target in targets:
            whose = f" by target {target.name!r}" if len(targets) > 1 else ""
            for output, limits in _by_output(target, report).items():
                if output not in fixed and all(limit.gate(report).passed for limit in limits):
                    found = "; ".join(limit.verdict(report) for limit in limits)
                    passes = f"{worthless} passes ({found})"
                    raise ConfigError(_refusal(evaluator, target, output, whose, passes))


def _worthless(evaluator: TrialEvaluator) -> Iterator[tuple[str, Mapping[str, Array]]]:
    for outputs in constant_answers(evaluator.source_outputs, evaluator.outputs):
        yield "a model that always answers the same", outputs
    mixed = shuffled(evaluator.source, evaluator.seed)
    if mixed is None:
        return
    try:
        outputs = measure.run(measure.open_session(mixed), evaluator.evaluation)
    except CompressError:
        return  # what does not run passes nothing
    yield "the source with its weights shuffled", outputs


def _by_output(target: Target, report: Report) -> dict[str, list[Limit]]:
    """Return the limits that judge each output; those that labels judge together are one."""
    found: dict[str, list[Limit]] = defaultdict(list)
    for limit in judge(target, report):
        if limit.source == "labels":
            found[_LABELS].append(limit)
        elif limit.source == "rows" and limit.kind.output and limit.key not in ALWAYS:
            found[limit.kind.output].append(limit)
    return found


def _refusal(
    evaluator: TrialEvaluator,
    target: Target,
    output: str,
    whose: str,
    passes: str,
) -> str:
    rows = f"these {evaluator.evaluation.rows} rows"
    if output == _LABELS:
        return (
            f"target {target.name!r} cannot judge on {rows}: {passes}; give "
            "rows that the source is better on, or a tighter limit"
        )
    return (
        f"output {output!r} cannot be judged{whose} on {rows}: {passes}; give rows "
        f"that differ more or a tighter limit, say what the output is (data.outputs, or --kind "
        f"{output}=KIND), or leave it out (--kind {output}=ignore)"
    )
