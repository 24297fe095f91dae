"""Which values of a model depend on its inputs, and which on its weights."""

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["is_weight", "reached_by_inputs", "reached_by_weights"]

_NO_WEIGHTS = frozenset(
    (
        TensorProto.UNDEFINED,  # of an attribute that holds no tensor
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
        TensorProto.STRING,
    )
)
"""What shapes, axes, tokens and class names are kept as."""


def reached_by_inputs(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values of the main graph that depend on an input."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    return _reached(model, {value.name for value in model.graph.input} - fixed)


def reached_by_weights(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values of the main graph that depend on a weight.

    A weight is a tensor of several different values, wherever it is kept; a call of a function of
    the model counts as one. A mask that is made of an input depends on none.
    """
    held = {tensor.name for tensor in model.graph.initializer if is_weight(tensor)}
    held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    local = {(function.domain, function.name) for function in model.functions}
    made = (
        node
        for node in model.graph.node
        if (node.domain, node.op_type) in local
        or _holds_sparse(node)
        or any(map(is_weight, _tensors(node)))
    )
    return _reached(model, held.union(*(node.output for node in made)))


def _reached(model: onnx.ModelProto, names: Iterable[str]) -> set[str]:
    reached = set(names)
    changed = True
    while changed:  # nodes are sorted, so that once is enough for a valid model
        before = len(reached)
        for node in model.graph.node:
            if any(name in reached for name in _reads(node)):
                reached |= {name for name in node.output if name}
        changed = len(reached) != before
    return reached


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for graph in _graphs(node):
        for inner in graph.node:
            names |= _reads(inner)
    return names


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def _tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    """Yield the tensors that a node holds, those of its nested graphs too."""
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        if len(attribute.floats) > 1:
            yield onnx.helper.make_tensor(
                attribute.name, TensorProto.FLOAT, [len(attribute.floats)], attribute.floats
            )
    for graph in _graphs(node):
        yield from graph.initializer
        for inner in graph.node:
            yield from _tensors(inner)


def _holds_sparse(node: onnx.NodeProto) -> bool:
    if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
        return True
    return any(
        graph.sparse_initializer or any(map(_holds_sparse, graph.node)) for graph in _graphs(node)
    )


def is_weight(tensor: TensorProto) -> bool:
    """Whether a tensor has several different values and is no shape, axis, token or name."""
    if tensor.data_type in _NO_WEIGHTS:
        return False
    if onnx.external_data_helper.uses_external_data(tensor):
        return True
    values = numpy_helper.to_array(tensor)
    return values.size > 1 and not bool((values == values.flat[0]).all())
