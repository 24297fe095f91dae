"""Fits datasets to the inputs of a model: names, axes of rows, dtypes, shapes, padding."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from mlflow_compress.errors import DataError
from mlflow_compress.measure.data import LABELS, ONLY_INPUT, STREAM, Dataset
from mlflow_compress.records import InputSpec
from mlflow_compress.rows import (
    Array,
    Declared,
    Ragged,
    declared_inputs,
    declared_outputs,
    named_axes,
    place,
    unsaid,
)

__all__ = ["check_fits"]


def check_fits(
    dataset: Dataset,
    model: onnx.ModelProto,
    specs: Mapping[str, InputSpec] | None = None,
    stream: int | None = None,
) -> Dataset:
    """Return the dataset with exactly the inputs the model takes, in their dtypes.

    A table whose columns are not the model's inputs is stacked into the model's single input, in
    the order of its columns. Numbers change their width (float64 to float32), never their kind.
    Rows of a loader or of IDX files that name no input are for the model's only one, and take its
    shape when they have as many numbers. Where the rows are is found out (:func:`rows.place`), or
    has to be said. The digest of the returned dataset is that of its arrays.

    Args:
        dataset: the rows.
        model: the model, whose inputs are no initializers.
        specs: what a person says of inputs.
        stream: a state begins anew every so many rows; only at the first row when None.

    Raises:
        DataError: an input is missing, its dtype or shape does not fit, or it cannot be told how
            the model takes it; the message says what the model takes, and what to write.
    """
    wanted, specs = declared_inputs(model), dict(specs or {})
    given = _as_given(dataset)
    if ONLY_INPUT in given:
        given = {**_name_only_input(dataset, wanted), **dataset.shared}
    if dataset.is_table and not set(wanted) <= set(given):
        given = _stack(dataset, list(wanted))
    given = {
        key: _typed(dataset.name, wanted[key], array) if key in wanted else array
        for key, array in given.items()
    }
    outputs = declared_outputs(model)
    given = _masked(dataset.name, given, wanted, specs)
    named = {
        name: axis
        for name, axis in named_axes(wanted, outputs).items()
        if specs.get(name, InputSpec()).axis is None and name in given
    }
    count = _count(dataset, given, named)
    specs |= {n: replace(specs.get(n, InputSpec()), axis=axis) for n, axis in named.items()}
    label = f"data {dataset.name!r}: "
    placed = place(given, count, wanted, outputs, specs, label=label)
    if not placed.layout.states and (stream is not None or STREAM in given.keys() - wanted.keys()):
        raise DataError(
            f"data {dataset.name!r}: there are streams, and no input is said to be a state: give "
            "data.inputs.NAME.state_of, or compress --input NAME=state_of:OUTPUT"
        )
    extra = [key for key in given if key not in wanted]
    if extra and not dataset.is_table:
        raise DataError(
            f"data {dataset.name!r}: the model has no input {extra[0]!r}; it takes "
            f"{', '.join(wanted)} (labels go under {LABELS!r})"
        )
    for key, rows in placed.inputs.items():
        _check_shape(dataset.name, wanted[key], rows, placed.layout.of(key).axis, wanted)
    _check_ids(dataset.name, model, {**placed.inputs, **placed.shared})
    ids = dataset.stream
    if placed.layout.states and ids is None:
        ids = np.arange(count) // (stream or count)
    return replace(
        dataset,
        inputs=placed.inputs,
        shared=placed.shared,
        layout=placed.layout,
        is_table=False,
        stream=ids if placed.layout.states else None,
    )


def _as_given(dataset: Dataset) -> dict[str, Array]:
    """Return the arrays as a person gave them, with the rows along the model's axis."""
    given: dict[str, Array] = dict(dataset.shared)
    for name, array in dataset.inputs.items():
        axis = dataset.layout.of(name).axis
        is_moved = axis is not None and isinstance(array, np.ndarray)
        given[name] = np.moveaxis(np.asarray(array), 0, int(axis or 0)) if is_moved else array
    return given


def _count(dataset: Dataset, given: Mapping[str, Array], named: Mapping[str, int]) -> int:
    """Return the number of rows, along the axes that the model names as those of its outputs."""
    arrays = {name: a for name, a in given.items() if isinstance(a, np.ndarray)}
    sizes = [
        arrays[name].shape[axis]
        for name, axis in named.items()
        if name in arrays and arrays[name].ndim > axis
    ]
    is_known = dataset.labels is not None or dataset.stream is not None or dataset.layout.inputs
    return dataset.rows if is_known or max(sizes, default=1) == 1 else max(sizes)


def _name_only_input(dataset: Dataset, wanted: Mapping[str, Declared]) -> dict[str, Array]:
    if len(wanted) != 1:
        raise DataError(
            f"data {dataset.name!r}: the rows name no input, and the model takes "
            f"{', '.join(wanted)}: give mappings from input names to arrays"
        )
    ((name, declared),) = wanted.items()
    array = dataset.inputs[ONLY_INPUT]
    shape = [size for size in (declared.dims or ())[1:] if isinstance(size, int)]
    fixed = len(shape) == len((declared.dims or ())[1:])
    if isinstance(array, np.ndarray) and fixed and math.prod(shape) == math.prod(array.shape[1:]):
        array = array.reshape(len(array), *shape)
    return {name: array}


def _stack(dataset: Dataset, wanted: list[str]) -> dict[str, Array]:
    if len(wanted) != 1:
        raise DataError(
            f"data {dataset.name!r}: the columns must be named after the model's inputs "
            f"{', '.join(wanted)}; they are {', '.join(list(dataset.inputs)[:8])}"
        )
    for key, column in dataset.inputs.items():
        if column.dtype.kind not in "biuf":
            raise DataError(f"data {dataset.name!r}: column {key!r} holds no numbers")
    columns = [np.asarray(column, np.float32) for column in dataset.inputs.values()]
    return {wanted[0]: np.stack(columns, axis=1)}


def _typed(name: str, declared: Declared, array: Array) -> Array:
    """Return the values in the input's dtype; raise DataError when they do not fit into it."""
    key, dtype = declared.name, declared.dtype
    if dtype is None:
        if array.dtype.kind not in "US":
            raise DataError(f"data {name!r}: {key!r} is {array.dtype}, the model takes text")
        return array
    widths = {"i": "iu", "u": "iu"}.get(dtype.kind, dtype.kind)
    if array.dtype.kind not in widths:
        raise DataError(f"data {name!r}: {key!r} is {array.dtype}, the model takes {dtype}")
    if dtype.kind in "iu":
        low, high = _range(array)
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:  # type: ignore[type-var]
            raise DataError(f"data {name!r}: {key!r} has values that do not fit into {dtype}")
    return array.astype(dtype) if isinstance(array, Ragged) else array.astype(dtype, copy=False)


def _range(array: Array) -> tuple[int, int]:
    """Return the least and the largest of whole numbers; 0 when there are none."""
    parts = [part for part in _parts(array) if part.size]
    ends = [(int(part.min()), int(part.max())) for part in parts]
    return min((low for low, _ in ends), default=0), max((high for _, high in ends), default=0)


def _parts(array: Array) -> Iterator[np.ndarray]:
    if isinstance(array, Ragged):
        yield from array
    else:
        yield array


def _masked(
    dataset: str,
    given: Mapping[str, Array],
    wanted: Mapping[str, Declared],
    specs: Mapping[str, InputSpec],
) -> dict[str, Array]:
    """Make the masks that the data lack, and pad rows where the model fixes their length."""
    made = dict(given)
    for key, spec in specs.items():
        rows = made.get(key)
        if not spec.mask or rows is None:
            continue
        if spec.mask not in wanted:
            raise DataError(
                f"data.inputs.{key}.mask: the model has no input {spec.mask!r}; it takes "
                f"{', '.join(wanted)}"
            )
        if spec.mask not in made:
            axes = len(wanted[spec.mask].dims or (0, 0)) - 1
            dtype = wanted[spec.mask].dtype
            ones = [np.ones(row.shape[:axes], dtype) for row in rows]
            made[spec.mask] = Ragged(ones) if isinstance(rows, Ragged) else np.stack(ones)
    padding = {spec.mask: 0.0 for spec in specs.values() if spec.mask}
    padding |= {key: spec.padding for key, spec in specs.items() if spec.mask}
    for key, value in padding.items():
        rows = made.get(key)
        if isinstance(rows, Ragged):
            made[key] = _padded(dataset, rows, wanted[key], value)
    return made


def _padded(dataset: str, rows: Ragged, declared: Declared, value: float) -> Array:
    """Fill rows up to the length that the model fixes, at their ends; leave them where it does not.

    Raises:
        DataError: a row is longer.
    """
    sizes = (declared.dims or ())[1:]
    if len(sizes) != rows.ndim - 1 or not all(isinstance(size, int) for size in sizes):
        return rows
    shape = [int(size or 0) for size in sizes]
    whole = np.full((len(rows), *shape), value, rows.dtype)
    for number, row in enumerate(rows):
        if any(got > size for got, size in zip(row.shape, shape, strict=True)):
            raise DataError(
                f"data {dataset!r}: row {number} of {declared.name!r} has shape "
                f"{list(row.shape)}, the model takes {shape} at most"
            )
        whole[number][tuple(slice(n) for n in row.shape)] = row
    return whole


def _check_shape(
    name: str, declared: Declared, rows: Array, axis: int | None, wanted: Mapping[str, Declared]
) -> None:
    """Raise DataError when a row's shape is not what the model takes."""
    if declared.dims is None:
        return
    sizes = [None if isinstance(size, str) else size for size in declared.dims]
    if axis is not None:
        sizes = sizes[:axis] + sizes[axis + 1 :]
    shapes = rows.shapes if isinstance(rows, Ragged) else [rows.shape[1:]]
    for number, shape in enumerate(shapes):
        if len(shape) == len(sizes) and all(
            size in (None, got) for size, got in zip(sizes, shape, strict=True)
        ):
            continue
        taken = ", ".join(["rows", *("any" if size is None else str(size) for size in sizes)])
        if isinstance(rows, Ragged):
            problem = (
                f"data {name!r}: row {number} of {declared.name!r} has shape {list(shape)}, the "
                f"model takes [{taken}]"
            )
            mask = _likely_mask(declared, wanted)
            if not mask:
                raise DataError(problem)
            entry = {"mask": mask, "padding": 0}
            raise unsaid(f"{problem}; shorter rows may be padded", declared.name, entry)
        raise DataError(
            f"data {name!r}: {declared.name!r} has shape {list(rows.shape)}, the model takes "
            f"[{taken}]"
        )


def _likely_mask(declared: Declared, wanted: Mapping[str, Declared]) -> str:
    """Return the input that may be the mask of another; empty when none can be."""
    alike = [
        other.name
        for other in wanted.values()
        if other.name != declared.name and len(other.dims or ()) == len(declared.dims or ())
    ]
    return min(alike, key=lambda name: "mask" not in name.lower(), default="")


def _check_ids(name: str, model: onnx.ModelProto, arrays: Mapping[str, Array]) -> None:
    """Refuse numbers beyond the table that the model looks them up in.

    Raises:
        DataError: names the input, the number and the table.
    """
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    same = {key: key for key in arrays}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input and node.input[0] in same:
            same[node.output[0]] = same[node.input[0]]
        if node.op_type != "Gather" or node.input[0] not in tables or node.input[1] not in same:
            continue
        key, table = same[node.input[1]], tables[node.input[0]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        dims = table.dims or numpy_helper.to_array(table).shape
        array = arrays[key]
        if array.dtype.kind not in "iu" or not dims:
            continue
        size = int(dims[axis])
        low, high = _range(array)
        wrong = high if high >= size else low if low < -size else None
        if wrong is not None:
            raise DataError(
                f"data {name!r}: {key!r} has the number {wrong}, the model's table {table.name!r} "
                f"has {size} entries (0 to {size - 1})"
            )
