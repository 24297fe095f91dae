"""Datasets: named rows of inputs and labels, with a digest of their own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.records import DatasetRef

__all__ = ["LABELS", "ONLY_INPUT", "Dataset"]

LABELS = "labels"
"""The key, or column, that holds the labels; every other one is an input.

Labels of several kinds have names: ``labels.boxes``, ``labels.classes``.
"""

_NAMED = f"{LABELS}."

ONLY_INPUT = ""
"""The key of an array that is for the model's only input, whatever its name."""

_CHUNK = 1 << 24
"""So many bytes of an array are hashed or checked at a time: arrays may lie on disk."""


@dataclass(frozen=True)
class Dataset:
    """Rows that models are run on.

    Attributes:
        inputs: arrays of [rows, ...] by input name.
        labels: [rows, ...], or None when there are none.
        name: what a person calls it.
        is_table: whether the inputs are the columns of a table, which still have to be matched
            with a model's inputs (:func:`check_fits` does).
        named_labels: further labels of [rows, ...], by the name behind ``labels.``.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    name: str = "data"
    is_table: bool = field(default=False, compare=False)
    named_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], name: str = "data") -> "Dataset":
        """Tell labels from inputs by their keys.

        Args:
            arrays: inputs by name, labels under ``labels`` and ``labels.NAME``.
            name: what a person calls it.

        Raises:
            DataError: the arrays are no rows, as :class:`Dataset` says.
        """
        inputs = {str(key): np.asarray(array) for key, array in arrays.items()}
        labels = inputs.pop(LABELS, None)
        named = {
            key.removeprefix(_NAMED): inputs.pop(key)
            for key in list(inputs)
            if key.startswith(_NAMED)
        }
        return cls(inputs, labels, name, named_labels=named)

    def __post_init__(self) -> None:
        """Check that every array has the same rows, at least one, and plain numbers or text.

        Raises:
            DataError: names the array, and says what it has and what is allowed.
        """
        if not self.inputs:
            raise DataError(f"data {self.name!r}: there are no inputs")
        arrays = {key: _plain(self.name, key, np.asarray(a)) for key, a in self.inputs.items()}
        object.__setattr__(self, "inputs", arrays)
        first, rows = next(iter(arrays)), 0
        for key, array in arrays.items():
            if array.ndim == 0:
                raise DataError(f"data {self.name!r}: {key!r} is one number, expected [rows, ...]")
            rows = len(arrays[first])
            if len(array) != rows:
                raise DataError(
                    f"data {self.name!r}: {key!r} has {len(array)} rows, {first!r} has {rows}"
                )
        if rows == 0:
            raise DataError(f"data {self.name!r}: there are no rows")
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(LABELS, self.labels, rows))
        named = {
            name: self._checked_labels(_NAMED + name, array, rows)
            for name, array in self.named_labels.items()
        }
        object.__setattr__(self, "named_labels", named)

    def _checked_labels(self, key: str, array: np.ndarray, rows: int) -> np.ndarray:
        labels = _plain(self.name, key, np.asarray(array))
        if labels.ndim == 0 or len(labels) != rows:
            count = "no axis" if labels.ndim == 0 else str(len(labels))
            raise DataError(
                f"data {self.name!r}: {key} do not match the inputs: {count} labels for {rows} rows"
            )
        return labels

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, with or without a name."""
        return bool(self.labels_by_name)

    @property
    def labels_by_name(self) -> dict[str, np.ndarray]:
        """All labels, those without a name under ``labels``; empty when there are none."""
        return ({} if self.labels is None else {LABELS: self.labels}) | dict(self.named_labels)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.inputs.values())))

    @cached_property
    def digest(self) -> str:
        """The sha256 over names, dtypes, shapes and bytes of the inputs and labels."""
        sha = hashlib.sha256()
        parts = dict(self.inputs) | ({} if self.labels is None else {LABELS: self.labels})
        parts |= {_NAMED + name: array for name, array in self.named_labels.items()}
        for key in sorted(parts):
            array = np.ascontiguousarray(parts[key])
            sha.update(f"{key}\0{array.dtype.str}\0{array.shape}\0".encode())
            for begin in range(0, len(array), step := _rows_at_a_time(array)):
                sha.update(array[begin : begin + step].tobytes())
        return sha.hexdigest()

    @property
    def ref(self) -> DatasetRef:
        """The record that stands for these rows in reports."""
        return DatasetRef(self.name, self.digest, self.rows)

    def head(self, rows: int) -> "Dataset":
        """Return the first ``rows`` rows."""
        return self.take(np.arange(min(rows, self.rows)))

    def take(self, rows: "np.ndarray | list[int]", name: str | None = None) -> "Dataset":
        """Return the rows of the given indices, in their order, perhaps under another name."""
        inputs = {key: array[rows] for key, array in self.inputs.items()}
        labels = None if self.labels is None else self.labels[rows]
        named = {key: array[rows] for key, array in self.named_labels.items()}
        return replace(
            self, inputs=inputs, labels=labels, name=name or self.name, named_labels=named
        )


def _plain(name: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return the array with text as fixed-width unicode; refuse objects and numbers that are NaN.

    Raises:
        DataError: object dtype that is not text, or a float that is NaN or infinite.
    """
    if array.dtype == object:
        if not all(isinstance(item, str) for item in array.ravel()):
            raise DataError(
                f"data {name!r}: {key!r} holds Python objects; expected numbers or text of one "
                f"shape per row"
            )
        array = array.astype(np.str_)
    if array.dtype.kind not in "biufUSc":
        raise DataError(f"data {name!r}: {key!r} has dtype {array.dtype}, expected numbers or text")
    step = _rows_at_a_time(array) if array.ndim else 1
    for begin in range(0, len(array), step) if array.ndim and array.dtype.kind == "f" else ():
        finite = np.isfinite(array[begin : begin + step])
        if not finite.all():
            row = begin + int(np.nonzero(~finite)[0][0])
            raise DataError(
                f"data {name!r}: {key!r} has NaN or infinite values, first in row {row}"
            )
    return array


def _rows_at_a_time(array: np.ndarray) -> int:
    return max(1, _CHUNK * len(array) // max(array.nbytes, 1))
