"""Datasets: named rows of inputs and labels, with a digest of their own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.records import DatasetRef, Layout, canonical_json
from mlflow_compress.rows import Array, Ragged, Rows

__all__ = ["LABELS", "NAMED", "ONLY_INPUT", "STREAM", "Dataset", "held_back"]

LABELS = "labels"
"""The key, or column, that holds the labels; every other one is an input.

Labels of several kinds have names: ``labels.boxes``, ``labels.classes``.
"""

NAMED = f"{LABELS}."
"""Where the keys of labels with a name begin."""

STREAM = "stream"
"""The key that says which stream each row belongs to, where a state goes from row to row."""

ONLY_INPUT = ""
"""The key of an array that is for the model's only input, whatever its name."""

_CHUNK = 1 << 24
"""So many bytes of an array are hashed or checked at a time: arrays may lie on disk."""


@dataclass(frozen=True)
class Dataset:
    """Rows that models are run on.

    Attributes:
        inputs: arrays of [rows, ...] by input name, or ``Ragged`` where rows differ in shape.
        labels: [rows, ...], or None when there are none.
        name: what a person calls it.
        is_table: whether the inputs are the columns of a table, which still have to be matched
            with a model's inputs (:func:`check_fits` does).
        named_labels: further labels of [rows, ...], by the name behind ``labels.``.
        shared: by input name, what is the same for every row; before :func:`check_fits`, also
            arrays whose axis of rows is not known yet.
        layout: how the model takes and gives the rows.
        stream: which stream each row belongs to, [rows]; a state goes from row to row of a
            stream, in their order. None when there is no state.
    """

    inputs: Mapping[str, Array]
    labels: np.ndarray | None = None
    name: str = "data"
    is_table: bool = field(default=False, compare=False)
    named_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    shared: Mapping[str, np.ndarray] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    stream: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that every array has the same rows, at least one, and plain numbers or text.

        Raises:
            DataError: names the array, and says what it has and what is allowed.
        """
        if not self.inputs:
            raise DataError(f"data {self.name!r}: there are no inputs")
        arrays = {key: _checked(self.name, key, array) for key, array in self.inputs.items()}
        shared = {key: _plain(self.name, key, np.asarray(a)) for key, a in self.shared.items()}
        object.__setattr__(self, "shared", shared)
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
            name: self._checked_labels(NAMED + name, array, rows)
            for name, array in self.named_labels.items()
        }
        object.__setattr__(self, "named_labels", named)
        if self.stream is not None and np.shape(self.stream) != (rows,):
            raise DataError(
                f"data {self.name!r}: {STREAM!r} has shape {list(np.shape(self.stream))}, expected "
                f"one stream for each of {rows} rows"
            )

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
        """The sha256 over names, dtypes, shapes and bytes of the inputs and labels.

        What is the same for every row, streams, and a layout other than row by row along axis 0
        count too.
        """
        sha = hashlib.sha256()
        parts = dict(self.inputs) | ({} if self.labels is None else {LABELS: self.labels})
        parts |= {NAMED + name: array for name, array in self.named_labels.items()}
        for key in sorted(parts):
            part = parts[key]
            if isinstance(part, Ragged):
                sha.update(f"{key}\0{part.dtype.str}\0{part.shapes}\0".encode())
                for row in part:
                    sha.update(row.tobytes())
            else:
                _update(sha, key, part)
        for key in sorted(self.shared):
            _update(sha, f"shared {key}", self.shared[key])
        if self.stream is not None:
            _update(sha, "in streams", self.stream)
        if self.layout.unusual:
            sha.update(canonical_json(self.layout.unusual).encode())
        return sha.hexdigest()

    @property
    def fed(self) -> Rows:
        """The inputs as techniques and models take them."""
        return Rows(self.inputs, self.shared, self.layout)

    def plain(self, what: str) -> dict[str, np.ndarray]:
        """Return the inputs as arrays of [rows, ...], for what can use nothing else.

        Args:
            what: what uses them, for the message.

        Raises:
            DataError: rows differ in shape, or the model takes them otherwise than along axis 0.
        """
        found = {name: a for name, a in self.inputs.items() if isinstance(a, np.ndarray)}
        unusual = [*self.shared, *self.layout.unusual, *(n for n in self.inputs if n not in found)]
        if unusual:
            raise DataError(
                f"data {self.name!r}: {what} needs inputs of [rows, ...] that the model takes row "
                f"by row along axis 0, and {unusual[0]!r} is none"
            )
        return found

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
        stream = None if self.stream is None else self.stream[rows]
        return replace(
            self,
            inputs=inputs,
            labels=labels,
            name=name or self.name,
            named_labels=named,
            stream=stream,
        )


def held_back(dataset: Dataset, step: int) -> np.ndarray:
    """Return the numbers of the rows to hold back: one in ``step``.

    Every ``step``-th row, so that data sorted by class are split evenly. Rows of a stream belong
    together: every ``step``-th stream, or the end of each stream when there are fewer.
    """
    if dataset.stream is None:
        return np.arange(step - 1, dataset.rows, step)
    names, which = np.unique(dataset.stream, return_inverse=True)
    which = which.ravel()
    if len(names) >= step:
        return np.flatnonzero(which % step == step - 1)
    parts = [np.flatnonzero(which == number) for number in range(len(names))]
    return np.sort(np.concatenate([rows[len(rows) - len(rows) // step :] for rows in parts]))


def _update(sha: "hashlib._Hash", key: str, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array) if array.ndim else array
    sha.update(f"{key}\0{array.dtype.str}\0{array.shape}\0".encode())
    if not array.ndim:
        sha.update(array.tobytes())
        return
    for begin in range(0, len(array), step := _rows_at_a_time(array)):
        sha.update(array[begin : begin + step].tobytes())


def _checked(name: str, key: str, array: Array) -> Array:
    """Return what :func:`_plain` makes of an array, or of each row."""
    if isinstance(array, Ragged):
        for row in array:
            _plain(name, key, row)
        return array
    return _plain(name, key, np.asarray(array))


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
