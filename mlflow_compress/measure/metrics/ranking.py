"""Metrics of scores that rank rows: areas under curves.

scikit-learn has them too. Its functions take more than ten times as long, most of it to check their
arguments, and an interval calls them some hundred times; the tests hold both against each other.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import softmax
from scipy.stats import rankdata

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Metric, Rows, by_row
from mlflow_compress.measure.metrics.reading import class_labels, floats_first, only_scores

__all__ = ["AVERAGE_PRECISION", "ROC_AUC"]

_ONE_SIDED = "every class has all rows or none"


def _truth_and_scores(rows: Rows) -> np.ndarray:
    """Return for each class whether it is there and its score, [rows, 2, classes].

    A score that is NaN is put where it is worst: below all others where the class is there, and
    above them where it is not.
    """
    output, labels = rows.output, rows.wanted
    if output.dtype.kind not in "iuf" or output.ndim > 2 or labels.dtype.kind not in "biufUS":
        raise DataError(
            f"scores of [rows], [rows, 1] or [rows, classes] are needed, got {output.dtype} of "
            f"shape {list(output.shape)}"
        )
    scores = output.reshape(rows.count, -1).astype(np.float64)
    telling = rows.telling.reshape(len(rows.telling), -1)
    truth = _truth(labels, scores.shape[1])
    if not _is_multi_label(labels, scores.shape[1]):
        if scores.shape[1] > 1 and not _sums_to_one(telling):
            scores = softmax(scores, axis=1)
        if scores.shape[1] == 2:  # the second class' area is that of the first
            scores, truth = scores[:, 1:], truth[:, 1:]
    finite = np.where(np.isfinite(scores), scores, 0)
    low, high = finite.min(axis=0) - 1, finite.max(axis=0) + 1
    scores = np.where(np.isnan(scores), np.where(truth, low, high), np.clip(scores, low, high))
    return np.stack([truth, scores], axis=1)


def _is_multi_label(labels: np.ndarray, classes: int) -> bool:
    """Whether there is a 0 or 1 for each class and row, and not just one 1 in each row."""
    if labels.shape[1:] != (classes,) or classes == 1 or labels.dtype.kind in "US":
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) != 1).any())


def _truth(labels: np.ndarray, classes: int) -> np.ndarray:
    if _is_multi_label(labels, classes):
        return labels.astype(bool)
    numbers = class_labels(labels, max(classes, 2))
    if numbers.ndim != 1:
        raise DataError(
            f"one class per row, or a 0 or 1 per row and class, is needed as label; got labels of "
            f"shape {list(labels.shape)} for {classes} classes"
        )
    if classes == 1:
        return (numbers == 1)[:, None]
    return numbers[:, None] == np.arange(classes)


def _sums_to_one(scores: np.ndarray) -> bool:
    finite = scores[np.isfinite(scores).all(axis=1)]
    sums = finite.sum(axis=1, dtype=np.float64)
    return bool((finite >= 0).all() and np.allclose(sums, 1, atol=1e-2))


def _over_classes(area: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], float]:
    """Return the mean area over the classes that some rows have and others do not."""

    def combine(both: np.ndarray) -> float:
        truth, scores = both[:, 0] > 0, both[:, 1]
        there = truth.sum(axis=0)
        told = np.flatnonzero((there > 0) & (there < len(truth)))
        found = [area(truth[:, one], scores[:, one]) for one in told]
        return float(np.mean(found)) if found else float("nan")

    return combine


def _area_under_roc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mann and Whitney's U by the number of pairs: the area under the curve, ties by half."""
    there = int(truth.sum())
    above = rankdata(scores)[truth].sum() - there * (there + 1) / 2
    return float(above / (there * (len(truth) - there)))


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Sum the precision at each score by the recall that it adds: no interpolation."""
    order = np.argsort(-scores, kind="stable")
    found, ranked = np.cumsum(truth[order]), scores[order]
    ends = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are one threshold
    added = np.diff(found[ends], prepend=0)
    precision = found[ends] / (np.flatnonzero(ends) + 1)
    return float((precision * added).sum() / found[-1])


ROC_AUC = Metric(
    "roc_auc",
    by_row(_truth_and_scores, _over_classes(_area_under_roc)),
    reads=floats_first,
    from_source=only_scores,
    draws=200,
    undefined=_ONE_SIDED,
)
AVERAGE_PRECISION = Metric(
    "average_precision",
    by_row(_truth_and_scores, _over_classes(_average_precision)),
    reads=floats_first,
    from_source=only_scores,
    draws=200,
    undefined=_ONE_SIDED,
)
