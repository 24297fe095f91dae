"""Which output a metric reads, and how classes are read from outputs and labels."""

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Arrays, Rows

__all__ = [
    "as_classes",
    "best_class",
    "class_axis",
    "class_labels",
    "floats_first",
    "is_binary",
    "is_probability",
    "only_scores",
    "predicted_and_wanted",
    "text_first",
    "whole_numbers",
]

NO_CLASS = -1
"""Stands for the class that scores with a NaN give: no label has it."""


def floats_first(outputs: Arrays) -> tuple[str, ...]:
    """Return the first output of floats, or else the first of numbers.

    Raises:
        DataError: there is none.
    """
    for kinds in ("f", "iub"):
        for name, output in outputs.items():
            if output.dtype.kind in kinds:
                return (name,)
    raise DataError("the model has no output of numbers; use a metric of your own, module:function")


def text_first(outputs: Arrays) -> tuple[str, ...]:
    """Return the first output of text, or else what :func:`floats_first` returns.

    Raises:
        DataError: there is none.
    """
    for name, output in outputs.items():
        if output.dtype.kind in "UOS":
            return (name,)
    return floats_first(outputs)


def only_scores(outputs: Arrays) -> Arrays:
    """Return the only output, or the classes that it gives: the labels of ``labels: source``."""
    ((name, output),) = outputs.items()
    return {name: as_classes(output, output)}


def as_classes(output: np.ndarray, telling: np.ndarray) -> np.ndarray:
    """Return the classes that an output gives, without the axis of classes.

    Args:
        output: class numbers or text, which are returned; scores of one class, of [rows] or
            [rows, 1]; scores along :func:`class_axis`.
        telling: tells whether scores of one class are probabilities, by its values.
    """
    if output.dtype.kind != "f":
        return output
    if is_binary(output):
        flat = output.reshape(-1)
        above = flat > (0.5 if is_probability(telling) else 0.0)
        return np.where(np.isnan(flat), NO_CLASS, above)
    return best_class(output, class_axis(output))


def best_class(scores: np.ndarray, axis: int) -> np.ndarray:
    """Return the best class along an axis; scores with a NaN give none."""
    return np.where(np.isnan(scores).any(axis=axis), NO_CLASS, scores.argmax(axis=axis))


def class_axis(scores: np.ndarray) -> int:
    """Return the axis of classes: axis 1 of images, else the last."""
    return 1 if scores.ndim == 4 else scores.ndim - 1


def is_binary(scores: np.ndarray) -> bool:
    """Whether there is one score per row, of one class."""
    return scores.ndim == 1 or scores.shape[1:] == (1,)


def is_probability(scores: np.ndarray) -> bool:
    """Whether all scores that are numbers lie between 0 and 1."""
    finite = scores[np.isfinite(scores)]
    return bool(finite.min(initial=0) >= 0 and finite.max(initial=0) <= 1)


def predicted_and_wanted(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and wanted classes, of [rows] or [rows, positions].

    Raises:
        DataError: labels and output do not fit each other.
    """
    output, labels = rows.output, rows.wanted
    if output.dtype.kind in "UOS":
        if labels.dtype.kind not in "US" or labels.size != output.size:
            raise DataError(
                f"output {rows.name!r} is text of shape {list(output.shape)}; the labels are "
                f"{labels.dtype} of shape {list(labels.shape)}"
            )
        return output.astype(np.str_).reshape(labels.shape), labels.astype(np.str_)
    if output.dtype.kind != "f":
        if labels.dtype.kind not in "biuf" or labels.size != output.size:
            raise DataError(
                f"output {rows.name!r} has class numbers of shape {list(output.shape)}; the labels "
                f"are {labels.dtype} of shape {list(labels.shape)}"
            )
        return output.reshape(labels.shape), labels
    predicted = as_classes(output, rows.telling)
    classes = 2 if is_binary(output) else output.shape[class_axis(output)]
    wanted = class_labels(labels, classes)
    if wanted.shape != predicted.shape:
        raise DataError(
            f"labels of shape {list(labels.shape)} do not match the classes of output "
            f"{rows.name!r}, of shape {list(predicted.shape)}"
        )
    return predicted, wanted


def class_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels as class numbers: whole numbers, one-hot rows, or text in sorted order.

    Raises:
        DataError: they are none, or beyond the model's classes.
    """
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
    if not labels.size:
        raise DataError(f"labels of shape {list(labels.shape)} name no classes")
    whole = whole_numbers(labels)
    if whole is None:
        raise DataError("the labels are not whole numbers; use a metric such as rmse or mae")
    if whole.min() < 0 or whole.max() >= classes:
        raise DataError(
            f"labels go from {whole.min()} to {whole.max()}, the model has {classes} classes "
            f"(0 to {classes - 1})"
        )
    return whole


def whole_numbers(array: np.ndarray) -> np.ndarray | None:
    """Return an array of whole numbers as int64; None where it holds anything else."""
    if array.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore"):  # what int64 cannot hold becomes another number
        numbers = array.astype(np.int64)
    return numbers if (numbers == array).all() else None


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())
