"""Brings any ONNX model into one form, without changing what it computes.

After it, every weight is an initializer of the main graph: whether it was in a Constant node,
behind an Identity, or inside a branch of an If. Techniques and packing look nowhere else.
"""

from typing import TypeVar

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)

from mlflow_compress.errors import SourceError
from mlflow_compress.packed.onnx.graphs import default_inputs, refuse_malformed
from mlflow_compress.techniques.graph.plain import constant_of, make_plain
from mlflow_compress.techniques.graph.scopes import name_apart
from mlflow_compress.techniques.graph.walk import (
    clone,
    inferred,
    subgraphs,
    unique_name,
    value_names,
    walk_graphs,
    walk_nodes,
)

__all__ = ["normalize"]

M = TypeVar("M", NodeProto, TensorProto, ValueInfoProto)


def normalize(model: ModelProto) -> ModelProto:
    """Return an equivalent model whose weights are all main-graph initializers.

    What can be said in several ways is said in one (:mod:`~.onnx_plain`). Also dropped: doc
    strings, node metadata, initializers that nothing uses, graph inputs that only list weights
    (:func:`mlflow_compress.packed.onnx.graphs.default_inputs` stay), and shape annotations that
    shape inference finds again. The same model gives the same bytes.

    Raises:
        SourceError: the model has no graph, keeps weights in external data not loaded, or has two
            values of one name in a graph.
    """
    if not (model.graph.node or model.graph.initializer):  # what is folded may be weights alone
        raise SourceError("the model's graph has no nodes; is this an ONNX model?")
    model = clone(model)
    defaults = default_inputs(model)
    _refuse_external(model)
    refuse_malformed(model)
    make_plain(model)
    name_apart(model)
    for graph in walk_graphs(model.graph):
        _constants_to_initializers(graph)
    _hoist_initializers(model)
    _skip_identities(model.graph)
    _drop_listed(model, defaults)  # before their values: an input without one must be given
    _drop_unused(model.graph)
    _strip(model)
    _drop_inferable_shapes(model)
    return model


def _refuse_external(model: ModelProto) -> None:
    for graph in walk_graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise SourceError(
                    f"tensor {tensor.name!r} is in external data that was not loaded; "
                    f"load the model with onnx.load from its own folder"
                )


def _constants_to_initializers(graph: GraphProto) -> None:
    """Turn Constant nodes into initializers (not those that are graph outputs)."""
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        value = constant_of(node)
        if value is None or not node.output or node.output[0] in outputs:
            kept.append(node)
            continue
        graph.initializer.add().CopyFrom(value)
        graph.initializer[-1].name = node.output[0]
    _replace_nodes(graph, kept)


def _hoist_initializers(model: ModelProto) -> None:
    """Move the initializers of nested graphs to the main graph, renamed where names clash."""
    taken = value_names(model)
    seen = {tensor.name for tensor in model.graph.initializer}
    for graph in list(walk_graphs(model.graph))[1:]:
        outputs = {value.name for value in graph.output}
        stay = []
        for tensor in graph.initializer:
            if tensor.name in outputs:
                stay.append(tensor)
                continue
            name = tensor.name
            if name in seen:
                name = unique_name(name, taken)
                _rename(graph, tensor.name, name)
            seen.add(name)
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = name
        kept = [_copy(tensor) for tensor in stay]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _skip_identities(graph: GraphProto) -> None:
    """Let the users of ``Identity(initializer)`` use the initializer itself."""
    known = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for inner in walk_graphs(graph) for value in inner.output}
    for inner in walk_graphs(graph):
        kept = []
        for node in inner.node:
            hides = node.op_type == "Identity" and node.domain == "" and node.input[0] in known
            if hides and node.output[0] not in outputs:
                _rename(graph, node.output[0], node.input[0])
            else:
                kept.append(node)
        _replace_nodes(inner, kept)


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in walk_nodes(graph) for name in node.input}
    used |= {value.name for inner in walk_graphs(graph) for value in inner.output}
    used |= {value.name for value in graph.input}  # a caller may give it
    kept = [_copy(tensor) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_listed(model: ModelProto, defaults: frozenset[str]) -> None:
    """Drop inputs that list an initializer, which blocks folding, but those that callers may give.

    Before IR version 4 there was no initializer without an input.
    """
    held = {tensor.name for tensor in model.graph.initializer} - defaults
    copies = [_copy(value) for value in model.graph.input if value.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(copies)
    model.ir_version = max(model.ir_version, 4)


def _strip(model: ModelProto) -> None:
    """Drop text that no runtime reads; exports spend ten bytes per weight on it."""
    model.doc_string = ""
    for graph in walk_graphs(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.doc_string = ""
            del value.metadata_props[:]
        for tensor in graph.initializer:
            tensor.doc_string = ""
            del tensor.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]


def _drop_inferable_shapes(model: ModelProto) -> None:
    """Keep only the shape annotations that shape inference does not find by itself."""
    before = [_copy(value) for value in model.graph.value_info]
    del model.graph.value_info[:]
    if not before:
        return
    held = {tensor.name for tensor in model.graph.initializer}
    found = {value.name for value in inferred(model).graph.value_info}
    model.graph.value_info.extend(
        value for value in before if value.name not in found and value.name not in held
    )


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Rename a value wherever it is read, in a graph and the graphs nested in it."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        for inner in subgraphs(node):
            _rename(inner, old, new)


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    if len(nodes) == len(graph.node):
        return
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _copy(message: M) -> M:
    """Copy a message out of a repeated field, which is about to be cleared."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
