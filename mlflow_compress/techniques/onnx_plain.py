"""Writes what ONNX lets a model say in several ways in the one way that techniques read.

An operator is known by its type alone, a weight is a tensor with all its values, and a node comes
after those whose values it reads.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    checker,
    defs,
    helper,
    numpy_helper,
)

from mlflow_compress.errors import SourceError
from mlflow_compress.techniques.onnx_graph import sort_nodes, subgraphs, unique_name, walk_graphs

__all__ = ["constant_of", "make_plain"]

_ALIAS = "ai.onnx"
"""Another name of the standard domain, which onnx's own tools do not know."""

_MOST_BYTES = (1 << 31) - 1
"""Of a tensor in a message; what is said to be sparse may ask for any room in a few bytes."""

_LISTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}
"""The attributes with which a Constant can give numbers and texts, and what they are."""


def make_plain(model: ModelProto) -> None:
    """Write a model in one way; it is changed in place, and computes what it did.

    Raises:
        SourceError: a sparse weight is broken, or too large to be held with its zeros.
    """
    _name_standard_domain(model)
    _name_functions_apart(model)
    for graph in walk_graphs(model.graph):
        sort_nodes(graph)
        _fill_sparse(graph)


def constant_of(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node gives as a tensor; None of other nodes."""
    if node.op_type != "Constant" or node.domain:
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name == "sparse_value":
            return _dense(attribute.sparse_tensor)
        if attribute.name in _LISTS:
            value = helper.get_attribute_value(attribute)
            return numpy_helper.from_array(np.array(value, _LISTS[attribute.name]))
    return None


def _every(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of the graphs nested in them."""
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from _every(inner.node)


def _name_standard_domain(model: ModelProto) -> None:
    """Call the standard domain by its empty name, in functions too."""
    for holder, nodes in ((model, model.graph.node), *((f, f.node) for f in model.functions)):
        imports = [(entry.domain, entry.version) for entry in holder.opset_import]
        named = [("" if domain == _ALIAS else domain, version) for domain, version in imports]
        if named == imports or len({v for d, v in named if not d}) > 1:
            continue  # of two versions a checker has to say something
        del holder.opset_import[:]
        holder.opset_import.extend(helper.make_opsetid(*entry) for entry in dict.fromkeys(named))
        for node in _every(nodes):
            if node.domain == _ALIAS:
                node.domain = ""


def _name_functions_apart(model: ModelProto) -> None:
    """Give functions of the model that are called as a standard operator another name."""
    taken = {function.name for function in model.functions}
    fresh = {
        (f.domain, f.name): unique_name(f"{f.name}_function", taken)
        for f in model.functions
        if f.domain and defs.has(f.name)
    }
    for function in model.functions:
        function.name = fresh.get((function.domain, function.name), function.name)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in _every(nodes):
            node.op_type = fresh.get((node.domain, node.op_type), node.op_type)


def _fill_sparse(graph: GraphProto) -> None:
    """Store sparse initializers as all others are: packing finds the zeros by itself."""
    for sparse in graph.sparse_initializer:
        graph.initializer.add().CopyFrom(_dense(sparse))
    del graph.sparse_initializer[:]


def _dense(sparse: SparseTensorProto) -> TensorProto:
    try:
        checker.check_sparse_tensor(sparse)
    except checker.ValidationError as error:
        why = " ".join(str(error).split())
        raise SourceError(f"sparse weight {sparse.values.name!r} is broken: {why}") from error
    values, places = (numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    size = math.prod(sparse.dims) * values.itemsize
    if size > _MOST_BYTES:
        raise SourceError(
            f"sparse weight {sparse.values.name!r} of shape {list(sparse.dims)} takes {size:,} "
            f"bytes with its zeros, and at most {_MOST_BYTES:,} can be held: split it"
        )
    whole = np.zeros(sparse.dims, values.dtype)
    if places.ndim == 1:
        whole.ravel()[places] = values
    else:
        whole[tuple(places.T)] = values
    return numpy_helper.from_array(whole, sparse.values.name)
