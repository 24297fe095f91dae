"""Accuracy metrics by name, as scores per row that can be resampled."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mlflow_compress.errors import ConfigError, DataError
from mlflow_compress.measure.characters import character_edits, error_rate
from mlflow_compress.measure.load import load_function

__all__ = ["Metric", "find_metric", "metric_names"]

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Metric:
    """How outputs are scored against labels.

    Attributes:
        name: what the configuration calls it.
        per_row: takes outputs and labels and returns statistics of shape [rows] or [rows, ...].
        combine: turns (resampled) statistics into the metric's value.
        higher_is_better: False for errors; a drop is positive when the variant is worse.
    """

    name: str
    per_row: Callable[[Outputs, np.ndarray], np.ndarray]
    combine: Callable[[np.ndarray], float] = lambda rows: float(rows.mean())
    higher_is_better: bool = True


def metric_names() -> tuple[str, ...]:
    """Return the names :func:`find_metric` knows, besides ``top-K`` and ``module:function``."""
    return tuple(sorted(_METRICS))


def find_metric(name: str) -> Metric:
    """Return a metric by name, ``top-K`` for any K, or ``module:function``.

    A function takes the outputs by name and the labels, and returns one score per row, higher
    is better.

    Raises:
        ConfigError: there is no metric of this name.
        DataNotFoundError: the module or function does not exist.
    """
    if ":" in name:
        return Metric(name, _checked(name, load_function(name)))
    if match := re.fullmatch(r"top-?([1-9]\d*)", name):
        k = int(match.group(1))
        return Metric(name, lambda outputs, labels: _top_k(outputs, labels, k))
    if name not in _METRICS:
        raise ConfigError(
            f"metric {name!r} does not exist; use one of {', '.join(metric_names())}, top-K or "
            f"module:function"
        )
    return _METRICS[name]


def _correct(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
    predicted, wanted = _classes(outputs, labels)
    hits = (predicted == wanted).reshape(len(wanted), -1)
    return hits[:, 0] if hits.shape[1] == 1 else hits.mean(axis=1)


def _top_k(outputs: Outputs, labels: np.ndarray, k: int) -> np.ndarray:
    scores = _scores(outputs)
    if scores.ndim != 2 or scores.shape[1] <= k:
        raise DataError(
            f"top-{k} needs an output of [rows, more than {k} classes], got {list(scores.shape)}"
        )
    wanted = _indices(labels, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return (best == wanted[:, None]).any(axis=1)


def _pairs(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
    """Return [rows, 2] class numbers, wanted and predicted, for F1."""
    predicted, wanted = _classes(outputs, labels)
    if wanted.ndim != 1:
        raise DataError(f"f1 needs one label per row, got labels of shape {list(labels.shape)}")
    _, numbers = np.unique(np.stack([wanted, predicted], axis=1), return_inverse=True)
    return numbers.reshape(-1, 2)


def _macro_f1(pairs: np.ndarray) -> float:
    size = int(pairs.max()) + 1
    table = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
    table = table.reshape(size, size)
    hits, total = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    present = total > 0
    return float(np.mean(2 * hits[present] / total[present]))


def _errors(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
    """Return the differences from the labels, [rows, values]."""
    output = _scores(outputs)
    if labels.dtype.kind not in "biuf" or output.size != labels.size:
        raise DataError(
            f"labels of shape {list(labels.shape)} ({labels.dtype}) do not match the output's "
            f"shape {list(output.shape)}"
        )
    return (output.astype(np.float64) - labels.reshape(output.shape)).reshape(len(labels), -1)


def _cosine(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
    errors = _errors(outputs, labels)
    wanted = labels.reshape(len(labels), -1).astype(np.float64)
    given = errors + wanted
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    return np.where(norms > 0, (wanted * given).sum(axis=1) / np.where(norms > 0, norms, 1), 0.0)


def _classes(outputs: Outputs, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and wanted classes, of [rows] or [rows, positions]."""
    text = next((o for o in outputs.values() if o.dtype.kind in "UOS"), None)
    if labels.dtype.kind in "US" and text is not None:
        return text.astype(np.str_).reshape(labels.shape), labels.astype(np.str_)
    scores = _scores(outputs)
    if scores.dtype.kind in "iub":
        return scores.reshape(labels.shape), labels
    if scores.ndim == 1 or scores.shape[1:] == (1,):
        flat = scores.reshape(-1)
        is_probability = flat.min() >= 0 and flat.max() <= 1
        return (flat > (0.5 if is_probability else 0.0)).astype(np.int64), _indices(labels, 2)
    axis = 1 if scores.ndim == 4 else scores.ndim - 1
    return scores.argmax(axis=axis), _indices(labels, scores.shape[axis])


def _indices(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels as class numbers: whole numbers, one-hot rows, or text in sorted order."""
    if labels.dtype.kind in "US":
        known, numbers = np.unique(labels, return_inverse=True)
        if len(known) != classes:
            raise DataError(
                f"there are {len(known)} different text labels, the model tells {classes} classes "
                f"apart; give the labels as class numbers"
            )
        return numbers.reshape(labels.shape)
    if labels.ndim >= 2 and labels.shape[-1] == classes and _is_one_hot(labels):
        return labels.argmax(axis=-1)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    numbers = labels.astype(np.int64)
    if (numbers != labels).any():
        raise DataError("the labels are not whole numbers; use a metric such as rmse or mae")
    if numbers.min() < 0 or numbers.max() >= classes:
        raise DataError(
            f"labels go from {numbers.min()} to {numbers.max()}, the model has {classes} classes "
            f"(0 to {classes - 1})"
        )
    return numbers


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())


def _scores(outputs: Outputs) -> np.ndarray:
    """Return the first output of floats, or the first of numbers."""
    for kinds in ("f", "iub"):
        for output in outputs.values():
            if output.dtype.kind in kinds:
                return output
    raise DataError("the model has no output of numbers; use a metric of your own, module:function")


def _checked(
    name: str, function: Callable[..., np.ndarray]
) -> Callable[[Outputs, np.ndarray], np.ndarray]:
    def per_row(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
        scores = np.asarray(function(outputs, labels))
        if scores.shape != (len(labels),):
            raise DataError(
                f"metric {name!r} returned shape {list(scores.shape)}, expected one score for "
                f"each of the {len(labels)} rows"
            )
        return scores

    return per_row


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


_METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _correct),
        Metric("top-1", _correct),
        Metric("f1", _pairs, _macro_f1),
        Metric("cosine", _cosine),
        Metric("mae", lambda o, y: np.abs(_errors(o, y)).mean(axis=1), higher_is_better=False),
        Metric("rmse", _errors, _rms, higher_is_better=False),
        Metric("cer", character_edits, error_rate, higher_is_better=False),
    )
}
