"""Accuracy of a variant and its source on the same rows, and the drop with its interval."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import Dataset
from mlflow_compress.measure.intervals import bootstrap_interval, paired_proportions_interval
from mlflow_compress.measure.metrics import Metric, find_metric
from mlflow_compress.records import Accuracy, Interval
from mlflow_compress.rows import Array, Ragged

__all__ = ["measure_accuracy", "score"]


Outputs = Mapping[str, Array]


def score(outputs: Outputs, dataset: Dataset, metric: str = "accuracy") -> float:
    """Return a metric's value.

    Raises:
        ConfigError: the metric does not exist.
        DataError: the dataset has no labels, or they do not fit the outputs.
    """
    chosen = find_metric(metric)
    return chosen.combine(_rows(chosen, outputs, dataset))


def measure_accuracy(
    variant: Outputs,
    source: Outputs,
    dataset: Dataset,
    metric: str = "accuracy",
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Accuracy:
    """Score both models' outputs on the dataset's rows.

    The drop is positive when the variant is worse, for errors such as ``rmse`` too. Its interval
    is paired: the score interval for metrics that are right or wrong per row (never of zero
    width), the bootstrap over rows otherwise.

    Args:
        variant: the variant's outputs by name, of [rows, ...].
        source: the source's outputs by name, of [rows, ...].
        dataset: rows with labels.
        metric: see :func:`find_metric`.
        level: the interval's confidence level.
        seed: seeds the bootstrap.

    Raises:
        ConfigError: the metric does not exist.
        DataError: the dataset has no labels, or they do not fit the outputs.
    """
    chosen = find_metric(metric)
    ours, theirs = _rows(chosen, variant, dataset), _rows(chosen, source, dataset)
    sign = 1.0 if chosen.higher_is_better else -1.0
    value, reference = chosen.combine(ours), chosen.combine(theirs)
    return Accuracy(
        metric=metric,
        value=value,
        source=reference,
        drop=sign * (reference - value),
        drop_interval=_interval(chosen, ours, theirs, sign, level, seed),
        dataset=dataset.ref,
        higher_is_better=chosen.higher_is_better,
    )


def _rows(metric: Metric, outputs: Outputs, dataset: Dataset) -> np.ndarray:
    if dataset.labels is None:
        raise DataError(
            f"data {dataset.name!r} have no labels, so {metric.name!r} cannot be measured; add "
            f"'labels', or gate on agreement with the source instead"
        )
    return np.asarray(metric.per_row(_readable(metric, outputs), dataset.labels))


def _readable(metric: Metric, outputs: Outputs) -> Mapping[str, Any]:
    """Return the outputs if the metric can read them: those built in need rows of one shape.

    Raises:
        DataError: an output's rows differ in shape.
    """
    ragged = next((name for name, one in outputs.items() if isinstance(one, Ragged)), None)
    if ragged is not None and ":" not in metric.name:
        raise DataError(
            f"the rows of output {ragged!r} differ in shape, which {metric.name!r} cannot read: "
            "give a metric of your own, module:function, which gets its rows one by one"
        )
    return outputs


def _interval(
    metric: Metric, ours: np.ndarray, theirs: np.ndarray, sign: float, level: float, seed: int
) -> Interval:
    if ours.dtype == bool and theirs.dtype == bool and ours.ndim == 1:
        lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        return paired_proportions_interval(lost, won, len(ours), level)

    def drop(rows: np.ndarray) -> float:
        return sign * (metric.combine(theirs[rows]) - metric.combine(ours[rows]))

    return bootstrap_interval(drop, len(ours), level=level, seed=seed)
