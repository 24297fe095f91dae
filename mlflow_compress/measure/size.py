"""Bytes of a model's weights as stored: the numerator of the compression rate."""

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, TensorProto

__all__ = ["tensor_bytes", "weight_bytes"]


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all weight values, wherever the model keeps them.

    Initializers of the main and nested graphs and tensors in Constant nodes count; names,
    shapes and the graph do not. External data count if they are loaded.
    """
    return sum(tensor_bytes(tensor) for tensor in _tensors(model))


def tensor_bytes(tensor: TensorProto) -> int:
    """Return the bytes of one tensor's values; 4-bit types take half a byte each."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    bits = _NARROW.get(tensor.data_type)
    if bits is None:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return (count * bits + 7) // 8


_NARROW = {
    getattr(TensorProto, name): bits
    for name, bits in (
        ("INT4", 4),
        ("UINT4", 4),
        ("FLOAT4E2M1", 4),
        ("INT2", 2),
        ("UINT2", 2),
    )
    if hasattr(TensorProto, name)
}


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue  # the call gives the value, and holds it
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.GRAPH:
            yield from _graph_tensors(attribute.g)
        elif attribute.type == AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)
