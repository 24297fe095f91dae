"""Loads datasets from files and functions, and fits them to a model's inputs."""

import importlib
import importlib.util
import math
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from mlflow_compress.errors import DataError, DataNotFoundError, no_exit
from mlflow_compress.measure.data import LABELS, ONLY_INPUT, Dataset
from mlflow_compress.measure.idx import is_idx, read_idx
from mlflow_compress.measure.spool import spool

__all__ = ["check_fits", "load_dataset", "load_function", "load_object"]


def load_dataset(spec: str, *, name: str | None = None, limit: int | None = None) -> Dataset:
    """Load a dataset.

    Args:
        spec: an ``.npz`` file (arrays by input name), a ``.csv`` or ``.parquet`` file (columns),
            MNIST's IDX files or a folder of them (:func:`read_idx`), or ``module:function`` or
            ``file.py:function``, which returns a :class:`Dataset`, a mapping of arrays, or a
            loader of batches, which is read once (:func:`spool`). Labels are under ``labels``.
            Modules are also looked for in the current directory.
        name: what to call it; the file's or function's name when None.
        limit: keep only the first so many rows.

    Raises:
        DataNotFoundError: the file, module or function does not exist.
        DataError: it exists and is no dataset; the message says why.
        CompressError: the function called ``sys.exit``.
    """
    suffix = Path(spec).suffix.lower()
    if suffix in _READERS:
        path = Path(spec)
        if not path.is_file():
            raise DataNotFoundError(f"data file {spec!r} does not exist")
        data = _READERS[suffix](path, name or path.stem)
    elif is_idx(Path(spec)):
        if not Path(spec).exists():
            raise DataNotFoundError(f"data file {spec!r} does not exist")
        data = _dataset(read_idx(Path(spec)), name or Path(spec).name)
    elif ":" in spec:
        data = _from_function(spec, name or spec.rpartition(":")[2], limit)
    else:
        raise DataError(
            f"data {spec!r}: expected a file that ends in {', '.join(_READERS)}, IDX files, or "
            "module:function"
        )
    return data if limit is None or limit >= data.rows else data.head(limit)


def check_fits(dataset: Dataset, model: onnx.ModelProto) -> Dataset:
    """Return the dataset with exactly the inputs the model takes, in their dtypes.

    A table whose columns are not the model's inputs is stacked into the model's single input, in
    the order of its columns. Numbers change their width (float64 to float32), never their kind.
    Rows of a loader or of IDX files that name no input are for the model's only one, and take its
    shape when they have as many numbers. The digest of the returned dataset is that of its arrays.

    Raises:
        DataError: an input is missing, or its dtype or shape does not fit; the message says
            what the model takes.
    """
    wanted = {value.name: value.type.tensor_type for value in model.graph.input}
    inputs = dict(dataset.inputs)
    if ONLY_INPUT in inputs:
        inputs = _name_only_input(dataset, wanted)
    if dataset.is_table and not set(wanted) <= set(inputs):
        inputs = _stack(dataset, list(wanted))
    missing = [key for key in wanted if key not in inputs]
    if missing:
        raise DataError(
            f"data {dataset.name!r}: the model's input {missing[0]!r} is missing; the data have "
            f"{', '.join(inputs)}, the model takes {', '.join(wanted)}"
        )
    extra = [key for key in inputs if key not in wanted]
    if extra and not dataset.is_table:
        raise DataError(
            f"data {dataset.name!r}: the model has no input {extra[0]!r}; it takes "
            f"{', '.join(wanted)} (labels go under {LABELS!r})"
        )
    fitted = {key: _fit(dataset.name, key, inputs[key], kind) for key, kind in wanted.items()}
    return replace(dataset, inputs=fitted, is_table=False)


def _name_only_input(
    dataset: Dataset, wanted: Mapping[str, onnx.TypeProto.Tensor]
) -> dict[str, np.ndarray]:
    if len(wanted) != 1:
        raise DataError(
            f"data {dataset.name!r}: the rows name no input, and the model takes "
            f"{', '.join(wanted)}: give mappings from input names to arrays"
        )
    ((name, kind),) = wanted.items()
    array = dataset.inputs[ONLY_INPUT]
    shape = [d.dim_value for d in kind.shape.dim][1:]
    if all(size > 0 for size in shape) and math.prod(shape) == math.prod(array.shape[1:]):
        array = array.reshape(len(array), *shape)
    return {name: array}


def load_function(spec: str) -> Callable[..., Any]:
    """Import ``module:function`` or ``file.py:function``; the current directory is importable.

    Raises:
        DataNotFoundError: the module or the function does not exist.
        CompressError: the module called ``sys.exit``.
    """
    found = load_object(spec)
    if not callable(found):
        place, _, attribute = spec.rpartition(":")
        raise DataNotFoundError(f"{spec!r}: {place!r} has no function {attribute!r}")
    return found


def load_object(spec: str) -> object:
    """Import ``module:object`` or ``file.py:object``; the current directory is importable.

    Raises:
        DataNotFoundError: the module does not exist, or has nothing of that name.
        CompressError: the module called ``sys.exit``.
    """
    place, _, attribute = spec.rpartition(":")
    with _importable_cwd(), no_exit(f"{place!r}"):
        module = _module_of_file(place) if place.endswith(".py") else _module(place, spec)
    if attribute not in vars(module):
        raise DataNotFoundError(f"{spec!r}: {place!r} has no function {attribute!r}")
    found: object = vars(module)[attribute]
    return found


def _from_function(spec: str, name: str, limit: int | None) -> Dataset:
    function = load_function(spec)
    with no_exit(f"data {spec!r}"):
        return _made_by(function, spec, name, limit)


def _made_by(function: Callable[[], Any], spec: str, name: str, limit: int | None) -> Dataset:
    made = function()
    if isinstance(made, Dataset):
        return made
    if isinstance(made, Mapping):
        return _dataset(dict(made), name)
    if isinstance(made, Iterable) and not isinstance(made, str | bytes | np.ndarray):
        return _dataset(dict(spool(made, name, limit)), name)
    raise DataError(
        f"data {spec!r}: the function returned a {type(made).__name__}, expected a mapping "
        f"from input names to arrays (and {LABELS!r}), or a loader of batches"
    )


def _read_npz(path: Path, name: str) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            return _dataset(dict(file), name)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"data file {str(path)!r} is no .npz of plain arrays: {error}") from error


def _read_table(path: Path, name: str) -> Dataset:
    import pandas

    reader = pandas.read_csv if path.suffix.lower() == ".csv" else pandas.read_parquet
    try:
        frame = reader(path)
    # pandas' parser errors are ValueErrors; pyarrow's are ValueErrors and OSErrors
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"data file {str(path)!r} cannot be read: {first}") from error
    columns = {str(key): frame[key].to_numpy() for key in frame.columns}
    return replace(_dataset(columns, name), is_table=True)


_READERS: dict[str, Callable[[Path, str], Dataset]] = {
    ".npz": _read_npz,
    ".csv": _read_table,
    ".parquet": _read_table,
}


def _dataset(arrays: dict[str, Any], name: str) -> Dataset:
    return Dataset.of(arrays, name)


def _stack(dataset: Dataset, wanted: list[str]) -> dict[str, np.ndarray]:
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


def _fit(name: str, key: str, array: np.ndarray, kind: onnx.TypeProto.Tensor) -> np.ndarray:
    """Return the array in the input's dtype; raise DataError when dtype or shape do not fit."""
    if kind.elem_type == onnx.TensorProto.STRING:
        if array.dtype.kind not in "US":
            raise DataError(f"data {name!r}: {key!r} is {array.dtype}, the model takes text")
        return array
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    widths = {"i": "iu", "u": "iu"}.get(dtype.kind, dtype.kind)
    if array.dtype.kind not in widths:
        raise DataError(f"data {name!r}: {key!r} is {array.dtype}, the model takes {dtype}")
    if kind.HasField("shape"):
        _fit_shape(name, key, array, kind)
    if dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise DataError(f"data {name!r}: {key!r} has values that do not fit into {dtype}")
    return array.astype(dtype, copy=False)


def _fit_shape(name: str, key: str, array: np.ndarray, kind: onnx.TypeProto.Tensor) -> None:
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    shown = f"[{', '.join(['rows', *('any' if d is None else str(d) for d in dims[1:])])}]"
    fits = len(dims) == array.ndim and all(
        size in (None, got) for size, got in zip(dims[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"data {name!r}: {key!r} has shape {list(array.shape)}, the model takes {shown}"
        )
    if dims and dims[0] is not None and len(array) < dims[0]:
        raise DataError(
            f"data {name!r}: {key!r} has {len(array)} rows, the model's batch is fixed to {dims[0]}"
        )


def _module(place: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or place
        if place == missing or place.startswith(f"{missing}."):
            raise DataNotFoundError(
                f"{spec!r}: there is no module {missing!r} (looked in the current directory too)"
            ) from error
        raise
    except ValueError as error:
        raise DataNotFoundError(f"{spec!r} is no module:function") from error


def _module_of_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise DataNotFoundError(f"Python file {place!r} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DataNotFoundError(f"Python file {place!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable_cwd() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
