"""Models that are worth nothing, with which a yardstick is tested before it is used.

What a model that always answers the same would pass, or one whose weights were shuffled, tells
nothing of a variant that passes it.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from mlflow_compress.measure.outputs.classes import class_numbers
from mlflow_compress.measure.outputs.reach import is_weight
from mlflow_compress.records import Output
from mlflow_compress.rows import Array, Ragged

__all__ = ["constant_answers", "shuffled"]

_SPREAD = 4
"""So many rows, spread over all, have their answer given for every row."""


def constant_answers(
    source: Mapping[str, Array], outputs: Sequence[Output]
) -> Iterator[Mapping[str, Array]]:
    """Yield what models would give that always give the same.

    Among them: the mean over the rows, the answer to a row of each output's commonest class, and
    those to a few rows more.

    Args:
        source: the source's outputs by name.
        outputs: what they are.
    """
    count = len(next(iter(source.values())))
    first = _common_rows(source, outputs)
    spread = [int(row) for row in np.linspace(0, count - 1, min(_SPREAD, count))]
    rows = list(dict.fromkeys((*first, *spread)))
    yield {name: _mean(output, rows[0], count) for name, output in source.items()}
    for row in rows:
        yield {name: _repeated(output, row, count) for name, output in source.items()}


def _common_rows(source: Mapping[str, Array], outputs: Sequence[Output]) -> list[int]:
    """Return a row of the commonest answer of each output of one class per row."""
    found = []
    for output in outputs:
        rows = source[output.name]
        if output.kind != "classes" or not isinstance(rows, np.ndarray):
            continue
        numbers = class_numbers(output, rows).reshape(len(rows), -1)
        _, kinds, counts = np.unique(numbers, axis=0, return_inverse=True, return_counts=True)
        found.append(int(np.flatnonzero(kinds.reshape(-1) == counts.argmax())[0]))
    return found


def _mean(output: Array, row: int, count: int) -> Array:
    if isinstance(output, np.ndarray) and output.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            mean = output.mean(axis=0, dtype=np.float64).astype(output.dtype)
        return np.broadcast_to(mean, output.shape)
    return _repeated(output, row, count)


def _repeated(output: Array, row: int, count: int) -> Array:
    if isinstance(output, np.ndarray):
        return np.broadcast_to(output[row], output.shape)
    return Ragged([np.asarray(output[row])] * count)


def shuffled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto | None:
    """Return the model with the values of each weight in another order.

    Returns:
        None when that changes nothing: there are no weights, or all values of each are equal.
    """
    rng = np.random.default_rng([seed, 0x5F])
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    tensors = [tensor for tensor in mixed.graph.initializer if is_weight(tensor)]
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        order = rng.permutation(values.size)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.reshape(-1)[order].reshape(values.shape)))
        tensor.name = name
    return mixed if tensors else None
