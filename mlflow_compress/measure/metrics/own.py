"""Metrics of one's own: plain functions, with what they declare of themselves."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mlflow_compress.base.declared import DeclaredMetric
from mlflow_compress.base.foreign import foreign
from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS
from mlflow_compress.measure.metrics.base import Arrays, Metric, Rows, Scores

__all__ = ["own_metric"]

_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a function of one's own raises when it is not made for what it is given."""

_DRAWS = 500


def own_metric(name: str, function: Callable[..., Any]) -> Metric:
    """Return the metric of a function.

    ``function(outputs, labels, inputs)`` is given all outputs by name, all labels by name and all
    inputs by name, each an array of [rows, ...]. One that takes two arguments is given the outputs
    by name and the array ``labels``. It returns one score per row, [rows], or one number for the
    set; it is then called again for each resample, in which rows may be there twice.

    Args:
        name: what the configuration calls it, without a file's folder.
        function: the function, perhaps with what :func:`mlflow_compress.metric` says of it.
    """
    if not isinstance(function, DeclaredMetric):
        function = DeclaredMetric(function)
    call = _with_labels(name, function.function)
    reads = (function.output,) if function.output else ()
    return Metric(
        name=function.name or name,
        score=lambda rows: _scores(name, call, rows),
        reads=(lambda outputs: reads) if reads else tuple,
        higher_is_better=function.higher_is_better,
        unit=function.unit,
        draws=_DRAWS,
    )


def _with_labels(name: str, function: Callable[..., Any]) -> Callable[[Rows], object]:
    """Return the function as one of rows: with labels by name, or with the array of labels."""
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return lambda rows: function(rows.outputs, _array(name, rows.labels))
    return lambda rows: function(rows.outputs, rows.labels, rows.inputs)


def _array(name: str, labels: Arrays) -> np.ndarray:
    if LABELS not in labels:
        known = ", ".join(f"{LABELS}.{one}" for one in labels)
        raise DataError(
            f"metric {name!r} takes outputs and labels, and the data have no array {LABELS!r}, "
            f"but {known}: give it a third argument, and it gets labels and inputs by name"
        )
    return labels[LABELS]


def _scores(name: str, call: Callable[[Rows], object], rows: Rows) -> Scores:
    watched = _Watched(rows.outputs)
    found = _called(name, call, replace(rows, outputs=watched))
    read = watched.read
    if found.shape == (rows.count,):
        return replace(_per_row(name, found, rows), read=read)
    if found.shape != ():
        raise DataError(
            f"metric {name!r} returned shape {list(found.shape)}, expected one score for each of "
            f"the {rows.count} rows, or one number for all of them"
        )

    def of(drawn: np.ndarray) -> float:
        some = rows.take(drawn)
        if some.failed.any():
            return rows.worst
        try:
            return float(np.asarray(call(some)))
        except _FAULTS:
            return float("nan")  # not every resample is one that it is made for

    if not rows.failed.any() and np.isnan(found):
        raise DataError(f"metric {name!r} returned NaN")
    cost = sum(array.size for array in rows.outputs.values())
    return Scores(rows.count, of, cost=cost, read=read)


class _Watched(dict[str, np.ndarray]):
    """Outputs by name that remember which of them a function looks at.

    What a metric does not look at, labels do not judge: it is still held to the source's.
    """

    def __init__(self, outputs: Arrays) -> None:
        super().__init__(outputs)
        self._names: set[str] = set()

    @property
    def read(self) -> tuple[str, ...]:
        """The outputs that were looked at, in their order."""
        return tuple(name for name in dict.keys(self) if name in self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an output, and remember it."""
        self._names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an output or the default, and remember it."""
        self._names.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Take an output out, and remember it."""
        self._names.add(name)
        return super().pop(name, *default)

    def values(self) -> Any:
        """Return all outputs, and remember them."""
        self._names.update(dict.keys(self))
        return super().values()

    def items(self) -> Any:
        """Return all outputs with their names, and remember them."""
        self._names.update(dict.keys(self))
        return super().items()


def _per_row(name: str, found: np.ndarray, rows: Rows) -> Scores:
    unsound = np.isnan(found) & ~rows.failed
    if unsound.any():
        row = int(unsound.argmax())
        raise DataError(f"metric {name!r} returned NaN for {unsound.sum()} rows, first row {row}")
    if found.dtype == bool:
        hits = found & ~rows.failed
        return Scores(rows.count, lambda drawn: float(hits[drawn].mean()), hits, rows.count)
    values = np.where(rows.failed, rows.worst, found.astype(np.float64))
    return Scores(rows.count, lambda drawn: float(values[drawn].mean()), cost=rows.count)


def _called(name: str, call: Callable[[Rows], object], rows: Rows) -> np.ndarray:
    """Return what the function returns, as an array of numbers."""
    with foreign(f"metric {name!r}", f"; it was given the outputs {', '.join(rows.outputs)}"):
        returned = call(rows)
        found = np.asarray(returned)
    if found.dtype.kind not in "biuf":
        raise DataError(
            f"metric {name!r} returned {_said(returned)}, expected one score per row, or one number"
        )
    return found


def _said(returned: object) -> str:
    if returned is None:
        return "nothing"
    if isinstance(returned, str):
        return f"the text {returned[:40]!r}"
    return f"a {type(returned).__name__}"
