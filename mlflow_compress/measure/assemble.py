"""Makes a dataset of what a person gives: arrays, lists of arrays, padded arrays with lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS, NAMED, STREAM, Dataset
from mlflow_compress.records import InputLayout, InputSpec, Layout
from mlflow_compress.rows import Array, Ragged, as_array, likely_count

__all__ = ["LENGTHS", "dataset_of"]

LENGTHS = ".lengths"
"""``ids.lengths`` beside ``ids`` says how much of each padded row counts."""


def dataset_of(
    arrays: Mapping[str, Any], name: str, specs: Mapping[str, InputSpec] | None = None
) -> Dataset:
    """Return a dataset of what a person gives by name.

    Args:
        arrays: for each input an array, or a sequence of one array for each row, whose shapes may
            differ. ``labels`` and ``labels.NAME`` are labels;
            ``NAME.lengths``, [rows] or [rows, axes], says how
            much of each row of the array NAME counts; ``stream``, where ``specs`` name a state,
            says which stream each row belongs to.
        name: what the dataset is called.
        specs: what a person says of inputs.

    Raises:
        DataError: they make no dataset.
    """
    specs = dict(specs or {})
    given = {str(key): value for key, value in arrays.items()}
    labels = given.pop(LABELS, None)
    named = {
        key.removeprefix(NAMED): np.asarray(given.pop(key))
        for key in list(given)
        if key.startswith(NAMED) and not key.endswith(LENGTHS)
    }
    stream = None
    if STREAM in given and any(spec.state_of for spec in specs.values()):
        stream = np.asarray(given.pop(STREAM))
    parts = {key: _array(name, key, value) for key, value in given.items()}
    for key in [key for key in parts if key.endswith(LENGTHS)]:
        if (of := key.removesuffix(LENGTHS)) in parts:
            parts[of] = _cut(name, of, parts[of], parts.pop(key))
    axes = {
        key: spec.axis % a.ndim
        for key, spec in specs.items()
        if isinstance(spec.axis, int) and isinstance(a := parts.get(key), np.ndarray)
        and -a.ndim <= spec.axis < a.ndim
    }  # fmt: skip
    count = _count([labels, *named.values(), stream], parts, specs, axes)
    rows: dict[str, Array] = {}
    shared: dict[str, np.ndarray] = {}
    for key, array in parts.items():
        axis = axes.get(key, 0)
        said = key in axes or specs.get(key, InputSpec()).axis is None
        if isinstance(array, Ragged):
            rows[key] = array
        elif said and array.ndim and array.shape[axis] == count:
            rows[key] = np.moveaxis(array, axis, 0)
        else:
            shared[key] = array
    if not rows:
        for key, array in list(shared.items()):
            along = [axis for axis, size in enumerate(array.shape) if size == count]
            if len(along) == 1:
                axes[key] = along[0]
                rows[key] = np.moveaxis(shared.pop(key), along[0], 0)
    if not rows:
        rows, shared = parts, {}  # no array has so many rows: the dataset says what is wrong
    layout = Layout({key: InputLayout(axis) for key, axis in axes.items() if axis and key in rows})
    return Dataset(
        rows, labels, name, named_labels=named, shared=shared, layout=layout, stream=stream
    )


def _count(
    known: Sequence[Any],
    parts: Mapping[str, Array],
    specs: Mapping[str, InputSpec],
    axes: Mapping[str, int],
) -> int | None:
    """Return the number of rows: of labels or streams, along axes that were said, or the likely."""
    ragged = [array for array in parts.values() if isinstance(array, Ragged)]
    if ragged:
        return len(ragged[0])
    for one in known:
        if one is not None and np.ndim(one):
            return len(one)
    sizes = [a.shape[axes[key]] for key, a in parts.items() if key in axes and
             isinstance(a, np.ndarray)]  # fmt: skip
    if max(sizes, default=0) > 1:
        return max(sizes)
    firsts = [a for key, a in parts.items() if a.ndim and specs.get(key, InputSpec()).axis is None]
    every = [a for a in parts.values() if a.ndim]
    return likely_count(firsts or every, every)


def _array(name: str, key: str, value: Any) -> Array:
    """Return one input's values: an array, or rows of different shapes."""
    if isinstance(value, Ragged):
        return value
    is_list = isinstance(value, list | tuple)
    is_objects = isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1
    if (is_list or is_objects) and len(value) and all(hasattr(row, "shape") for row in value):
        try:
            return as_array([np.asarray(row) for row in value])
        except ValueError as error:
            raise DataError(f"data {name!r}: {key!r}: {error}") from error
    try:
        return np.asarray(value)
    except ValueError:  # lists of lists of different lengths
        return _array(name, key, [np.asarray(row) for row in value])


def _cut(name: str, key: str, padded: Array, lengths: Array) -> Array:
    """Cut the padding off each row."""
    if (
        isinstance(padded, Ragged)
        or isinstance(lengths, Ragged)
        or lengths.dtype.kind not in "iu"
        or lengths.ndim not in (1, 2)
        or lengths.shape[:1] != padded.shape[:1]
    ):
        raise DataError(
            f"data {name!r}: '{key}{LENGTHS}' must be whole numbers of [rows] or [rows, axes] for "
            f"the padded array {key!r}"
        )
    sizes = lengths.reshape(len(lengths), -1)
    limits = padded.shape[1 : 1 + sizes.shape[1]]
    if len(limits) < sizes.shape[1] or (sizes < 0).any() or (sizes > np.array(limits)).any():
        raise DataError(
            f"data {name!r}: '{key}{LENGTHS}' must lie between 0 and the size of {key!r}, "
            f"{list(padded.shape)}"
        )
    return as_array([row[tuple(slice(n) for n in size)] for row, size in
                     zip(padded, sizes, strict=True)])  # fmt: skip
