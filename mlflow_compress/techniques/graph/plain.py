"""Writes what ONNX lets a model say in several ways in the one way that techniques read.

An operator is known by its type alone, a weight is a tensor with all its values, and a node comes
after those whose values it reads.
"""

import math

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

from mlflow_compress.errors import SourceError, named, shown
from mlflow_compress.packed.onnx.graphs import with_nested
from mlflow_compress.techniques.graph.walk import (
    node_label,
    sort_nodes,
    unique_name,
    walk_graphs,
)

__all__ = ["constant_of", "make_plain"]

_ALIAS = "ai.onnx"
"""Another name of the standard domain, which onnx's own tools do not know."""

_MOST_BYTES = (1 << 31) - 1
"""Of a tensor in a message; what is said to be sparse may ask for any room in a few bytes."""

_WIDEST = 8
"""Bytes of an element whose type is none."""

_KERNELS = ("com.microsoft", "com.ms.", "ai.onnx")
"""How the domains begin in which onnxruntime has operators of its own."""

_UNREADABLE = (
    checker.ValidationError,
    LookupError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What onnx and numpy raise of tensors and attributes that somebody made up."""

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
        SourceError: a sparse weight is broken, has a second value, or is too large to be held with
            its zeros.
    """
    _refuse_wide(model)
    _name_standard_domain(model)
    _name_functions_apart(model)
    for graph in walk_graphs(model.graph):
        sort_nodes(graph)
        _fill_sparse(graph)


def constant_of(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node gives as a tensor; None of other nodes.

    Raises:
        SourceError: it gives nothing that can be read.
    """
    if node.op_type != "Constant" or node.domain:
        return None
    try:
        for attribute in node.attribute:
            if attribute.name == "value":
                return attribute.t
            if attribute.name == "sparse_value":
                return _dense(attribute.sparse_tensor)
            if attribute.name in _LISTS:
                value = helper.get_attribute_value(attribute)
                return numpy_helper.from_array(np.array(value, _LISTS[attribute.name]))
    except _UNREADABLE as error:
        raise SourceError(f"{node_label(node)} gives no value: {named(error)}") from error
    return None


def _refuse_wide(model: ModelProto) -> None:
    """Refuse sparse weights that take more with their zeros than a model can, before any is made.

    Raises:
        SourceError: names the largest.
    """
    every = [sparse for graph in walk_graphs(model.graph) for sparse in graph.sparse_initializer]
    every += [
        a.sparse_tensor
        for graph in walk_graphs(model.graph)
        for node in graph.node
        if node.op_type == "Constant"
        for a in node.attribute
        if a.name == "sparse_value"
    ]
    sizes = {i: max(math.prod(sparse.dims), 0) * _width(sparse) for i, sparse in enumerate(every)}
    if sum(sizes.values()) <= _MOST_BYTES:
        return
    largest = every[max(sizes, key=lambda i: sizes[i])]
    raise SourceError(
        f"with their zeros, the sparse weights take more than {_MOST_BYTES:,} bytes, which is all "
        f"a model holds; the largest is {largest.values.name!r} of shape {shown([*largest.dims])}: "
        "leave out what is not used, or split the model"
    )


def _width(sparse: SparseTensorProto) -> int:
    """Return the bytes of an element."""
    try:
        return helper.tensor_dtype_to_np_dtype(sparse.values.data_type).itemsize
    except _UNREADABLE:
        return _WIDEST


def _name_standard_domain(model: ModelProto) -> None:
    """Call the standard domain by its empty name, in functions too."""
    for holder, nodes in ((model, model.graph.node), *((f, f.node) for f in model.functions)):
        imports = [(entry.domain, entry.version) for entry in holder.opset_import]
        plain = [("" if domain == _ALIAS else domain, version) for domain, version in imports]
        if len({version for domain, version in plain if not domain}) > 1:
            continue  # of two versions, nobody can say which one is meant
        if plain != imports:
            del holder.opset_import[:]
            entries = dict.fromkeys(plain)
            holder.opset_import.extend(helper.make_opsetid(*entry) for entry in entries)
        for node in with_nested(nodes):
            if node.domain == _ALIAS:
                node.domain = ""


def _name_functions_apart(model: ModelProto) -> None:
    """Give a function of the model another name where it has a standard operator's.

    Not in the domains of onnxruntime's own operators: there it computes its own, whatever the
    function's body says.
    """
    taken = {function.name for function in model.functions}
    fresh = {
        (f.domain, f.name): unique_name(f"{f.name}_function", taken)
        for f in model.functions
        if f.domain and not f.domain.startswith(_KERNELS) and defs.has(f.name)
    }
    for function in model.functions:
        function.name = fresh.get((function.domain, function.name), function.name)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in with_nested(nodes):
            node.op_type = fresh.get((node.domain, node.op_type), node.op_type)


def _fill_sparse(graph: GraphProto) -> None:
    """Store sparse initializers as all others are: packing finds the zeros by itself."""
    held = {tensor.name for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        if name in held:
            raise SourceError(f"weight {name!r} has two values, one of them sparse: keep one")
        held.add(name)
        try:
            graph.initializer.add().CopyFrom(_dense(sparse))
        except _UNREADABLE as error:
            raise SourceError(f"sparse weight {name!r} is broken: {named(error)}") from error
    del graph.sparse_initializer[:]


def _dense(sparse: SparseTensorProto) -> TensorProto:
    checker.check_sparse_tensor(sparse)
    values, places = (numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    whole = np.zeros(sparse.dims, values.dtype)
    if places.ndim == 1:
        whole.ravel()[places] = values
    else:
        whole[tuple(places.T)] = values
    return numpy_helper.from_array(whole, sparse.values.name)
