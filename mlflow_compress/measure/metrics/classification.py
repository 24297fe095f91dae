"""Metrics of classifiers: one class per row, or per position."""

from dataclasses import replace

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Metric, MetricFamily, Rows, by_row
from mlflow_compress.measure.metrics.reading import (
    class_labels,
    floats_first,
    only_scores,
    predicted_and_wanted,
    text_first,
)

__all__ = ["ACCURACY", "BALANCED_ACCURACY", "F1", "TOP", "TOP_1"]


def _correct(rows: Rows) -> np.ndarray:
    """Return whether the class is right, bool [rows], or the share of positions where it is."""
    predicted, wanted = predicted_and_wanted(rows)
    hits = (predicted == wanted).reshape(len(wanted), -1)
    return hits[:, 0] if hits.shape[1] == 1 else hits.mean(axis=1)


def _among_best(rows: Rows, k: int) -> np.ndarray:
    scores = rows.output
    if scores.ndim != 2 or scores.shape[1] <= k or scores.dtype.kind not in "iuf":
        raise DataError(
            f"top-{k} needs an output of [rows, more than {k} classes], got {list(scores.shape)}"
        )
    wanted = class_labels(rows.wanted, scores.shape[1])
    if wanted.ndim != 1:
        raise DataError(f"top-{k} needs one label per row, got {list(rows.wanted.shape)}")
    best = np.argpartition(-scores.astype(np.float64), k - 1, axis=1)[:, :k]
    return (best == wanted[:, None]).any(axis=1) & ~np.isnan(scores).any(axis=1)


def _top(name: str, k: str) -> Metric:
    return Metric(
        name,
        by_row(lambda rows: _among_best(rows, int(k))),
        reads=floats_first,
        from_source=only_scores,
    )


def _pairs(rows: Rows) -> np.ndarray:
    """Return [rows, 2] class numbers, wanted and predicted, counted from 0."""
    predicted, wanted = predicted_and_wanted(rows)
    if wanted.ndim != 1:
        raise DataError(f"one label per row is needed, got labels of shape {list(wanted.shape)}")
    _, numbers = np.unique(np.stack([wanted, predicted], axis=1), return_inverse=True)
    return numbers.reshape(-1, 2)


def _confusion(pairs: np.ndarray) -> np.ndarray:
    """Return how often each wanted class, [classes, classes], was taken for which."""
    size = int(pairs.max()) + 1
    table = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
    return table.reshape(size, size)


def _macro_f1(pairs: np.ndarray) -> float:
    table = _confusion(pairs)
    hits, total = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    present = total > 0
    return float(np.mean(2 * hits[present] / total[present]))


def _mean_recall(pairs: np.ndarray) -> float:
    table = _confusion(pairs)
    total = table.sum(axis=1)
    present = total > 0
    return float(np.mean(np.diag(table)[present] / total[present]))


ACCURACY = Metric("accuracy", by_row(_correct), reads=text_first, from_source=only_scores)
TOP_1 = replace(ACCURACY, name="top-1")
TOP = MetricFamily("top-K", r"top-?([1-9]\d*)", _top)
F1 = replace(ACCURACY, name="f1", score=by_row(_pairs, _macro_f1))
BALANCED_ACCURACY = replace(ACCURACY, name="balanced_accuracy", score=by_row(_pairs, _mean_recall))
