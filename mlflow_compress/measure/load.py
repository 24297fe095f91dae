"""Loads datasets from files and functions."""

import importlib
import importlib.util
import math
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mlflow_compress.base.foreign import foreign
from mlflow_compress.errors import DataError, DataNotFoundError
from mlflow_compress.measure.assemble import dataset_of
from mlflow_compress.measure.data import LABELS, Dataset
from mlflow_compress.measure.idx import is_idx, read_idx
from mlflow_compress.measure.spool import spool
from mlflow_compress.records import InputSpec

__all__ = ["load_dataset", "load_function", "load_object"]


Specs = Mapping[str, InputSpec]


def load_dataset(
    spec: str,
    *,
    name: str | None = None,
    limit: int | None = None,
    inputs: Specs | None = None,
) -> Dataset:
    """Load a dataset.

    Args:
        spec: an ``.npz`` file (arrays by input name), a ``.csv`` or ``.parquet`` file (columns),
            MNIST's IDX files or a folder of them (:func:`read_idx`), or ``module:function`` or
            ``file.py:function``, which returns a :class:`Dataset`, a mapping as
            :func:`dataset_of` takes it, or a loader of batches, which is read once
            (:func:`spool`). Labels are under ``labels``. Modules are also looked for in the
            current directory.
        name: what to call it; the file's or function's name when None.
        limit: keep only the first so many rows.
        inputs: what a person says of inputs, such as the axis along which the rows are.

    Raises:
        DataNotFoundError: the file, module or function does not exist.
        DataError: it exists and is no dataset, or the function failed; the message says why.
        CompressError: the function called ``sys.exit``.
    """
    suffix, inputs = Path(spec).suffix.lower(), inputs or {}
    if suffix in _READERS:
        path = Path(spec)
        if not path.is_file():
            raise DataNotFoundError(f"data file {spec!r} does not exist")
        data = _READERS[suffix](path, name or path.stem, inputs)
    elif is_idx(Path(spec)):
        if not Path(spec).exists():
            raise DataNotFoundError(f"data file {spec!r} does not exist")
        data = dataset_of(read_idx(Path(spec)), name or Path(spec).name)
    elif ":" in spec:
        data = _from_function(spec, name or spec.rpartition(":")[2], limit, inputs)
    else:
        raise DataError(
            f"data {spec!r}: expected a file that ends in {', '.join(_READERS)}, IDX files, or "
            "module:function"
        )
    return data if limit is None or limit >= data.rows else _head(data, limit)


def _head(data: Dataset, limit: int) -> Dataset:
    """Return the first rows; an array that has as many along one other axis is cut there."""
    shared = dict(data.shared)
    for key, array in shared.items():
        axes = [axis for axis, size in enumerate(array.shape) if size == data.rows]
        if len(axes) == 1:
            shared[key] = array.take(range(limit), axes[0])
    return replace(data.head(limit), shared=shared)


def load_function(spec: str) -> Callable[..., Any]:
    """Import ``module:function`` or ``file.py:function``; the current directory is importable.

    Raises:
        DataNotFoundError: the module or the function does not exist.
        DataError: the module failed when it was imported.
        CompressError: it called ``sys.exit``.
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
        DataError: the module failed when it was imported.
        CompressError: it called ``sys.exit``.
    """
    place, _, attribute = spec.rpartition(":")
    with _importable_cwd(), foreign(f"{place!r}"):
        module = _module_of_file(place) if place.endswith(".py") else _module(place, spec)
    if attribute not in vars(module):
        raise DataNotFoundError(f"{spec!r}: {place!r} has no function {attribute!r}")
    found: object = vars(module)[attribute]
    return found


def _from_function(spec: str, name: str, limit: int | None, inputs: Specs) -> Dataset:
    function = load_function(spec)
    with foreign(f"data {spec!r}"):
        return _made_by(function, spec, name, limit, inputs)


def _made_by(
    function: Callable[[], Any], spec: str, name: str, limit: int | None, inputs: Specs
) -> Dataset:
    made = function()
    if isinstance(made, Dataset):
        return made
    if isinstance(made, Mapping):
        return dataset_of(made, name, inputs)
    if isinstance(made, Iterable) and not isinstance(made, str | bytes | np.ndarray):
        return dataset_of(spool(made, name, limit), name, inputs)
    raise DataError(
        f"data {spec!r}: the function returned a {type(made).__name__}, expected a mapping "
        f"from input names to arrays (and {LABELS!r}), or a loader of batches"
    )


_NPY = b"\x93NUMPY"
_ODD_HEADERS = (SyntaxError, TypeError, OverflowError, KeyError, NotImplementedError, RuntimeError)
"""What numpy and zipfile raise of headers that somebody made up."""


def _read_npz(path: Path, name: str, inputs: Specs) -> Dataset:
    try:
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                _check_size(members, member)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except DataError as error:
        raise DataError(f"data file {str(path)!r}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, *_ODD_HEADERS) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"data file {str(path)!r} is no .npz of plain arrays: {why} (write it with numpy.savez)"
        ) from error
    return dataset_of(arrays, name, inputs)


def _check_size(members: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header asks for more than there is, before it is made room for.

    Raises:
        DataError: names the array.
    """
    with members.open(member) as file:
        if file.read(len(_NPY)) != _NPY:
            return  # no array; numpy hands it over as bytes
    with members.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        told = math.prod(shape) * dtype.itemsize
        there = member.file_size - file.tell()
    if told > there and not dtype.hasobject:
        raise DataError(
            f"array {member.filename.removesuffix('.npy')!r} of shape {list(shape)} takes {told:,} "
            f"bytes, and the file holds {there:,}"
        )


def _read_table(path: Path, name: str, inputs: Specs) -> Dataset:
    import pandas

    reader = pandas.read_csv if path.suffix.lower() == ".csv" else pandas.read_parquet
    try:
        frame = reader(path)
    # pandas' parser errors are ValueErrors; pyarrow's are ValueErrors and OSErrors
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"data file {str(path)!r} cannot be read: {first}") from error
    columns = {str(key): frame[key].to_numpy() for key in frame.columns}
    return replace(dataset_of(columns, name, inputs), is_table=True)


_READERS: dict[str, Callable[[Path, str, Specs], Dataset]] = {
    ".npz": _read_npz,
    ".csv": _read_table,
    ".parquet": _read_table,
}


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
    except (ValueError, TypeError) as error:
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
