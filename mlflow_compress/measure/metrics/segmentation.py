"""Metrics of masks and class maps."""

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.metrics.base import Arrays, Metric, Rows, by_row
from mlflow_compress.measure.metrics.reading import (
    best_class,
    class_axis,
    floats_first,
    is_probability,
    whole_numbers,
)

__all__ = ["DICE", "IOU"]

_BACKGROUND = -1


def _overlaps(rows: Rows) -> np.ndarray:
    """Return positions in both, in the output and in the labels, [rows, classes, 3].

    A mask (one score per position) has one class, the foreground. Labels below 0 are positions
    that do not count.
    """
    output, labels = rows.output, rows.wanted
    whole = whole_numbers(labels)
    if whole is None:
        raise DataError("a class number per position is needed as label, got other numbers")
    given, classes = _classes(output, rows.telling)
    if labels.size != given.size:
        raise DataError(
            f"labels of shape {list(labels.shape)} do not match the map of output {rows.name!r}, "
            f"of shape {list(given.shape)}"
        )
    given = given.reshape(rows.count, -1)
    wanted = whole.reshape(rows.count, -1)
    if classes is None:
        classes = int(max(given.max(initial=0), wanted.max(initial=0))) + 1
    elif wanted.max(initial=0) >= max(classes, 2):
        raise DataError(
            f"labels go up to {wanted.max()}, the map of output {rows.name!r} has "
            f"{max(classes, 2)} classes (0 to {max(classes, 2) - 1})"
        )
    first = 1 if classes == 1 else 0
    told = range(first, first + classes)
    counted = wanted >= 0
    found = np.empty((rows.count, classes, 3))
    for place, number in enumerate(told):
        ours, theirs = (given == number) & counted, wanted == number
        sums = ((ours & theirs).sum(axis=1), ours.sum(axis=1), theirs.sum(axis=1))
        found[:, place] = np.stack(sums, axis=1)
    return found


def _classes(output: np.ndarray, telling: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return a class per position, and how many there are: 1 of a mask, None when unknown."""
    if output.dtype.kind in "iub":
        return output, None
    if output.dtype.kind != "f":
        raise DataError(f"a map of classes is needed, got {output.dtype}")
    axis = class_axis(output)
    if output.ndim != 4 or output.shape[axis] == 1:
        above = output > (0.5 if is_probability(telling) else 0.0)
        return np.where(np.isnan(output), _BACKGROUND, above), 1
    return best_class(output, axis), output.shape[axis]


def _mean_iou(overlaps: np.ndarray) -> float:
    both, ours, theirs = np.moveaxis(overlaps.sum(axis=0), -1, 0)
    union = ours + theirs - both
    present = union > 0
    return float(np.mean(both[present] / union[present])) if present.any() else float("nan")


def _mean_dice(overlaps: np.ndarray) -> float:
    both, ours, theirs = np.moveaxis(overlaps.sum(axis=0), -1, 0)
    present = ours + theirs > 0
    share = 2 * both[present] / (ours + theirs)[present]
    return float(np.mean(share)) if present.any() else float("nan")


def _map(outputs: Arrays) -> Arrays:
    ((name, output),) = outputs.items()
    return {name: _classes(output, output)[0]}


_EMPTY = "neither labels nor output have any class but the background"

IOU = Metric(
    "iou", by_row(_overlaps, _mean_iou), reads=floats_first, from_source=_map, undefined=_EMPTY
)
DICE = Metric(
    "dice", by_row(_overlaps, _mean_dice), reads=floats_first, from_source=_map, undefined=_EMPTY
)
