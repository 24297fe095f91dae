"""Reads a loader once, batch by batch, into files, so that the rows need not fit into memory."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS, ONLY_INPUT
from mlflow_compress.rows import Array, Ragged

__all__ = ["spool"]


def spool(batches: Iterable[Any], name: str, limit: int | None = None) -> dict[str, Array]:
    """Return a loader's rows as arrays on disk, mapped into memory.

    Args:
        batches: each a mapping from input names to arrays (labels under ``labels``), or a pair of
            inputs and labels as a torch DataLoader gives; inputs are a mapping or the model's
            only one. Arrays may be torch tensors.
        name: what the data are called, for messages.
        limit: stop reading after so many rows.

    Returns:
        Arrays of [rows, ...] by name, or ``Ragged`` where the rows of batches differ in shape.

    Raises:
        DataError: there are no batches, or they differ in names, dtypes or numbers of axes.
    """
    # mapped files stay readable after their names are gone, and no crash leaves them behind
    with ScratchFolder() as folder:
        columns, rows = _spooled(batches, name, limit, Path(folder))
        if not rows:
            raise DataError(f"data {name!r}: the loader gave no rows")
        return {key: column.mapped(rows) for key, column in columns.items()}


def _spooled(
    batches: Iterable[Any], name: str, limit: int | None, folder: Path
) -> tuple[dict[str, "_Column"], int]:
    columns: dict[str, _Column] = {}
    rows = 0
    for number, batch in enumerate(batches):
        arrays = _arrays(batch, name, number)
        if not columns:
            columns = {
                key: _Column(folder / str(index), array)
                for index, (key, array) in enumerate(arrays.items())
            }
        if set(arrays) != set(columns):
            raise DataError(
                f"data {name!r}: batch {number} has {', '.join(sorted(arrays))}, batch 0 had "
                f"{', '.join(sorted(columns))}"
            )
        size = len(next(iter(arrays.values())))
        keep = size if limit is None else min(size, limit - rows)
        for key, array in arrays.items():
            problem = columns[key].add(array, size, keep)
            if problem:
                raise DataError(f"data {name!r}: {key!r} of batch {number} {problem}")
        rows += keep
        if rows == limit:
            break
    return columns, rows


class _Column:
    """One array, written to a file row by row."""

    def __init__(self, path: Path, first: np.ndarray) -> None:
        self.path, self.dtype, self.rank = path, first.dtype, first.ndim
        self.shapes: list[tuple[int, ...]] = []
        path.touch()

    def add(self, array: np.ndarray, rows: int, keep: int) -> str:
        """Append the first rows of a batch; return what is wrong with it, or nothing."""
        if array.ndim == 0 or len(array) != rows:
            return f"does not have the batch's {rows} rows"
        if array.dtype != self.dtype or array.ndim != self.rank:
            return (
                f"holds {array.dtype} with {array.ndim} axes, batch 0 had {self.dtype} with "
                f"{self.rank}"
            )
        self.shapes += [array.shape[1:]] * keep
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(array[:keep]).data)
        return ""

    def mapped(self, rows: int) -> Array:
        """Return the file's rows as an array that reads them when they are used."""
        if len(set(self.shapes)) == 1:
            return np.memmap(self.path, self.dtype, mode="r", shape=(rows, *self.shapes[0]))
        flat = np.memmap(self.path, self.dtype, mode="r")
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = zip(np.split(flat, ends[:-1]), self.shapes, strict=True)
        return Ragged(part.reshape(shape) for part, shape in parts)


def _arrays(batch: Any, name: str, number: int) -> dict[str, np.ndarray]:
    if isinstance(batch, Mapping):
        parts = dict(batch)
    elif isinstance(batch, list | tuple) and len(batch) in (1, 2):
        inputs = batch[0]
        parts = dict(inputs) if isinstance(inputs, Mapping) else {ONLY_INPUT: inputs}
        if len(batch) == 2 and batch[1] is not None:
            parts[LABELS] = batch[1]
    else:
        parts = {ONLY_INPUT: batch}
    arrays = {str(key): np.asarray(part) for key, part in parts.items()}
    if not arrays:
        raise DataError(f"data {name!r}: batch {number} of the loader is empty")
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise DataError(
                f"data {name!r}: batch {number} of the loader holds {type(parts[key]).__name__} as "
                f"{key or 'input'!r}, expected an array of numbers with the rows as first axis"
            )
    return arrays
