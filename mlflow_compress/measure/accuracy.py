"""Accuracy of a variant and its source on the same rows, and the drop with its interval."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS, Dataset
from mlflow_compress.measure.intervals import (
    paired_proportions_interval,
    percentile_interval,
    resampled,
)
from mlflow_compress.measure.metrics import Metric, MetricSpec, Rows, Scores, find_metric
from mlflow_compress.measure.outputs.classes import log_scores
from mlflow_compress.measure.smoothed import drop_bound
from mlflow_compress.records import Accuracy, Interval, Output
from mlflow_compress.rows import Array, Ragged

__all__ = ["measure_accuracy", "score"]

_LEAST_DRAWS = 200

_RIGHT_OR_WRONG = ("accuracy", "top-1")

_COST = 200_000_000
"""The draws of an interval look at so many numbers at most, or are :data:`_LEAST_DRAWS`."""

Outputs = Mapping[str, Array]


def score(
    outputs: Outputs,
    dataset: Dataset,
    metric: str | MetricSpec = "accuracy",
    source: Outputs | None = None,
) -> float:
    """Return a metric's value.

    Args:
        outputs: a model's outputs by name, of [rows, ...].
        dataset: rows with labels, or any with ``labels: source``.
        metric: see :func:`find_metric`.
        source: the outputs of the model that it is made of, by which NaN is judged; None when it
            is the source.

    Raises:
        ConfigError: the metric does not exist.
        DataError: the dataset has no labels, or they do not fit the outputs.
    """
    spec = MetricSpec.of(metric)
    found = find_metric(spec)
    return _value(found, _scores(found, spec, outputs, source or outputs, dataset))


def measure_accuracy(
    variant: Outputs,
    source: Outputs,
    dataset: Dataset,
    metric: str | MetricSpec = "accuracy",
    *,
    level: float = 0.95,
    seed: int = 0,
    kinds: Sequence[Output] = (),
    others: Outputs | None = None,
) -> Accuracy:
    """Score both models' outputs on the dataset's rows.

    The drop is positive when the variant is worse, for errors such as ``rmse`` too. Intervals are
    score intervals for metrics that are right or wrong per row (never of zero width), the
    bootstrap over rows otherwise; that of the drop is paired. The upper end of the drop of
    accuracy is smoothed by how sure the source is of its classes (:func:`drop_bound`).

    A row in which the variant has NaN or infinity where the source has a number has the metric's
    worst score.

    Args:
        variant: the variant's outputs by name, of [rows, ...].
        source: the source's outputs by name, of [rows, ...].
        dataset: rows with labels, or any with ``labels: source``.
        metric: see :func:`find_metric`.
        level: the interval's confidence level.
        seed: seeds the bootstrap.
        kinds: what the outputs are; without them nothing is smoothed.
        others: the source's outputs on other rows, by name.

    Raises:
        ConfigError: the metric does not exist.
        DataError: the dataset has no labels, or they do not fit the outputs.
    """
    spec = MetricSpec.of(metric)
    found = find_metric(spec)
    ours, theirs = (_scores(found, spec, o, source, dataset) for o in (variant, source))
    sign = 1.0 if found.higher_is_better else -1.0
    value, reference = _value(found, ours), _value(found, theirs)
    unit = found.unit
    if unit is None:
        unit = "share" if ours.hits is not None else ""
    names = theirs.read or _read(found, source)
    drop = sign * (reference - value) + 0.0  # never -0.0
    own, interval = _intervals(found, ours, theirs, sign, level, seed)
    if found.name in _RIGHT_OR_WRONG and ours.hits is not None and len(names) == 1:
        kind = next((one for one in kinds if one.name == names[0]), None)
        interval = _smoothed(interval, kind, variant, source, dataset, others or {}).including(drop)
    return Accuracy(
        metric=found.name,
        value=value,
        source=reference,
        drop=drop,
        drop_interval=interval,
        dataset=dataset.ref,
        higher_is_better=found.higher_is_better,
        unit=unit,
        output=", ".join(names),
        interval=own.including(value),
    )


def _read(metric: Metric, outputs: Outputs) -> tuple[str, ...]:
    """Return the names of the outputs that a metric reads."""
    names = metric.reads(_arrays(outputs))
    for name in names:
        if name not in outputs:
            raise DataError(
                f"metric {metric.name!r} reads output {name!r}, which the model does not have"
                f"{closest(name, outputs)}; it has {', '.join(outputs)}"
            )
    return names


def _scores(
    metric: Metric, spec: MetricSpec, outputs: Outputs, source: Outputs, dataset: Dataset
) -> Scores:
    names = _read(metric, source)
    labels = dataset.labels_by_name
    if spec.labels == "source":
        labels = dict(metric.from_source(_readable(metric, {name: source[name] for name in names})))
        if len(labels) == 1:
            labels[LABELS] = next(iter(labels.values()))
    if not labels:
        raise DataError(
            f"data {dataset.name!r} have no labels, so {metric.name!r} cannot be measured; add "
            f"'labels', take the source's outputs with labels: source, or gate on agreement with "
            f"the source instead"
        )
    read = _readable(metric, {name: outputs[name] for name in names})
    reference = _readable(metric, {name: source[name] for name in names})
    failed = _failed(read, reference, dataset.rows)
    rows = Rows(
        _blanked(read, failed), labels, _arrays(dataset.fed), failed, metric.worst, reference
    )
    return metric.score(rows)


def _readable(metric: Metric, outputs: Outputs) -> dict[str, np.ndarray]:
    """Return the outputs as arrays, if the metric can read them.

    Raises:
        DataError: an output's rows differ in shape, and the metric is one of ours.
    """
    ragged = next((name for name, one in outputs.items() if isinstance(one, Ragged)), None)
    if ragged is not None and ":" not in metric.name:
        raise DataError(
            f"the rows of output {ragged!r} differ in shape, which {metric.name!r} cannot read: "
            "give a metric of your own, module:function, which gets its rows one by one"
        )
    return _arrays(outputs)


def _arrays(parts: Outputs) -> dict[str, np.ndarray]:
    """Return arrays of [rows, ...]; rows that differ in shape as an array of arrays, [rows]."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        if isinstance(part, Ragged):
            found[name] = np.empty(len(part), object)
            found[name][:] = list(part)
        else:
            found[name] = part
    return found


def _failed(
    outputs: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray], rows: int
) -> np.ndarray:
    """Return in which rows a model has NaN or infinity where its source has a number, [rows]."""
    failed = np.zeros(rows, bool)
    for name, output in outputs.items():
        if output is source[name] or output.dtype.kind != "f":
            continue
        unsound = ~np.isfinite(output)
        if not unsound.any():
            continue
        if output.shape == source[name].shape:
            unsound &= np.isfinite(source[name])
            failed |= unsound.reshape(rows, -1).any(axis=1)
        else:
            sound = np.isfinite(source[name]).reshape(rows, -1).all(axis=1)
            failed |= unsound.reshape(rows, -1).any(axis=1) & sound
    return failed


def _blanked(outputs: Mapping[str, np.ndarray], failed: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the outputs with NaN for every float of the rows that failed."""
    if not failed.any():
        return outputs
    blanked = {}
    for name, output in outputs.items():
        if output.dtype.kind == "f":
            output = output.copy()
            output[failed] = np.nan
        blanked[name] = output
    return blanked


def _value(metric: Metric, scores: Scores) -> float:
    value = scores.value
    if math.isnan(value):
        raise DataError(f"metric {metric.name!r} has no value on these rows: {metric.undefined}")
    return value


def _smoothed(
    interval: Interval,
    kind: Output | None,
    variant: Outputs,
    source: Outputs,
    dataset: Dataset,
    others: Outputs,
) -> Interval:
    """Return the interval of a drop of accuracy with a smoothed upper end, where there are scores.

    Labels that are no class numbers, and scores per position, are only counted.
    """
    labels = dataset.labels
    if kind is None or kind.kind != "classes" or kind.form in ("numbers", "texts"):
        return interval
    given, wanted, rest = variant[kind.name], source[kind.name], others.get(kind.name)
    if isinstance(given, Ragged) or isinstance(wanted, Ragged) or isinstance(rest, Ragged):
        return interval
    before, after = log_scores(kind, wanted), log_scores(kind, given)
    before, after = (scores.reshape(len(scores), -1) for scores in (before, after))
    known = None if rest is None else log_scores(kind, rest).reshape(len(rest), -1)
    if labels is None or labels.dtype.kind not in "iub" or labels.size != len(before):
        return interval
    numbers = labels.reshape(-1).astype(np.int64)
    if before.shape != (len(numbers), *_classes_of(kind, wanted)) or numbers.min() < 0:
        return interval
    if numbers.max() >= before.shape[1]:
        return interval
    each = (1 + interval.level) / 2
    high = drop_bound(before, after, numbers, known, level=each).bound
    return Interval(min(interval.low, high), high, interval.level)


def _classes_of(kind: Output, output: np.ndarray) -> tuple[int]:
    """Return how many classes an output of one decision per row tells apart."""
    return (2,) if kind.axis is None else (output.shape[kind.axis],)


def _intervals(
    metric: Metric, ours: Scores, theirs: Scores, sign: float, level: float, seed: int
) -> tuple[Interval, Interval]:
    """Return the intervals of the variant's value and of its drop."""
    rows = ours.count
    if ours.hits is not None and theirs.hits is not None:
        lost, won = int((theirs.hits & ~ours.hits).sum()), int((ours.hits & ~theirs.hits).sum())
        own = Interval.of_share(float(ours.hits.mean()), rows, level)
        return own, paired_proportions_interval(lost, won, rows, level)
    cost = max(1, ours.cost + theirs.cost)
    draws = min(metric.draws, max(_LEAST_DRAWS, _COST // cost))
    drawn = [(ours.of(chosen), theirs.of(chosen)) for chosen in resampled(rows, draws, seed)]
    values, references = np.array(drawn).T
    with np.errstate(invalid="ignore"):  # infinity less infinity is not defined, and not counted
        drops = sign * (references - values)
    return percentile_interval(values, level), percentile_interval(drops, level)
