"""How many rows fit into a call: what a model computes of one may take a hundred megabytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, shape_inference
from onnx.shape_inference import InferenceError

from mlflow_compress.rows.feeds import Rows
from mlflow_compress.rows.ragged import Ragged

__all__ = ["ROOM", "bytes_of_values", "most_rows"]

ROOM = 1 << 26
"""Bytes that the largest value of a call may take; about three of them live at a time."""

_SHAPE_DATA = 1 << 10
"""Initializers of more elements say no shape, and are not given to the inference."""


def most_rows(model: ModelProto, rows: Rows) -> int | None:
    """Return how many rows a call may have, so that no value takes more than :data:`ROOM`.

    Args:
        model: the model; what it computes in nested graphs and functions is not looked at.
        rows: its inputs.

    Returns:
        At least 1; None where the model fixes the number.
    """
    if rows.batch is not None or not rows.count:
        return None
    return max(1, ROOM // max(1, *bytes_of_values(model, rows).values(), 1))


def bytes_of_values(model: ModelProto, rows: Rows) -> dict[str, int]:
    """Return the bytes per row of what a model is given and computes, as far as shapes tell.

    Args:
        model: the model.
        rows: its inputs; where rows differ in shape, the largest counts.
    """
    size = rows.batch or 1
    feed = rows.feed(np.full(size, _largest(rows)))
    found = {name: array.nbytes for name, array in feed.items()}
    try:
        inferred = shape_inference.infer_shapes(_of_shape(model, feed), data_prop=True).graph
    except (InferenceError, ValueError, RuntimeError):  # it runs all the same
        return {name: -(-taken // size) for name, taken in found.items()}
    for value in (*inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        if kind.HasField("shape") and all(dim > 0 for dim in dims):
            found[value.name] = _width(kind.elem_type) * int(np.prod(dims, dtype=object))
    return {name: -(-taken // size) for name, taken in found.items()}


def _largest(rows: Rows) -> int:
    """Return the row that takes most."""
    ragged = [array for array in rows.inputs.values() if isinstance(array, Ragged)]
    if not ragged:
        return 0
    sizes = [sum(int(np.prod(array.shapes[row])) for array in ragged) for row in range(rows.count)]
    return int(np.argmax(sizes))


def _of_shape(model: ModelProto, feed: Mapping[str, np.ndarray]) -> ModelProto:
    """Return a model's graph with inputs of fixed shapes, and without large weights."""
    made = ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph = made.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=object) <= _SHAPE_DATA:
            graph.initializer.add().CopyFrom(tensor)
        else:
            _give(graph.input, tensor.name, tensor.data_type, tensor.dims)
    for value in model.graph.input:
        if value.name in feed:
            kind = value.type.tensor_type.elem_type
            _give(graph.input, value.name, kind, feed[value.name].shape)
    for value in graph.output:  # else sizes that are open there would stay so
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return made


def _give(inputs: "list[object]", name: str, kind: int, shape: Sequence[int]) -> None:
    inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))


def _width(kind: int) -> int:
    """Return the bytes of an element, 4 where nothing is known."""
    if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 4
    return max(1, helper.tensor_dtype_to_np_dtype(kind).itemsize)
