"""The types of what a model's nodes compute, found by ONNX's own inference."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["computed_types", "name_of", "subgraphs"]

# Inference reads small weights, such as the shape that a Reshape takes; of others the type does.
_SMALL_BYTES = 1024

_INT64, _BOOL = 7, 9


def computed_types(model: Any) -> Iterator[tuple[str, int]]:
    """Yield each value that a node computes, with the number of its element type.

    Functions are written out where they are called, and subgraphs are looked at too. Left out are
    values whose type is not known, which those of operators outside ONNX are, and int64 and bool
    that do not come from the model's inputs: arithmetic on shapes, and what a packed file decodes
    its weights with. Every runtime does that before or beside the tensors.

    Args:
        model: an ``onnx.ModelProto``; its weights are not copied, so that it may be of any size.

    Raises:
        ValueError: onnx cannot infer the model's types.
    """
    from google.protobuf.message import Error
    from onnx.shape_inference import InferenceError

    from mlflow_compress.packed.onnx.inlining import inline_functions

    try:
        light = inline_functions(_without_weights(model))
        weights = {one.name for one in model.graph.initializer}
        data = {one.name for one in model.graph.input} - weights
        yield from _of_graph(light.graph, light, {}, data)
    except (InferenceError, RuntimeError, Error) as error:
        raise ValueError(str(error)) from None


def name_of(node: Any) -> str:
    """Return a node's name for people; that of its outputs where it has none."""
    return str(node.name or ", ".join(node.output))


def subgraphs(node: Any) -> Iterator[Any]:
    """Yield the graphs that a node has as attributes."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _without_weights(model: Any) -> Any:
    """Return a copy in which weights of more than a few bytes are inputs of the same type."""
    from onnx import ModelProto, helper

    graph = model.graph
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    declared = {one.name for one in graph.input}
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _SMALL_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    return light


def _of_graph(
    graph: Any, model: Any, outer: Mapping[str, Any], data: set[str]
) -> Iterator[tuple[str, int]]:
    """Yield what the nodes of a graph and its subgraphs compute.

    Args:
        graph: the graph, functions written out.
        model: the model that it is of, for the opsets.
        outer: types of what surrounds a subgraph, by name.
        data: names of what comes from the model's inputs; those of this graph are added.
    """
    types = {**outer, **_inferred(graph, model, outer)}
    for node in graph.node:
        # A shape is known without the numbers.
        measures = node.op_type in ("Shape", "Size")
        from_data = not measures and not data.isdisjoint(node.input)
        for inner in subgraphs(node):
            if from_data:
                data.update(value.name for value in inner.input)
            yield from _of_graph(inner, model, types, data)
            from_data |= any(value.name in data for value in inner.output)
        if from_data:
            data.update(name for name in node.output if name)
        for name in node.output:
            number = _element(types[name]) if name in types else 0
            if number and (from_data or number not in (_INT64, _BOOL)):
                yield f"output {name!r} of node {name_of(node)!r}", number


def _inferred(graph: Any, model: Any, outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of a graph's values by name, as far as they are known."""
    from onnx import ModelProto, shape_inference

    alone = ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.CopyFrom(graph)
    # onnx infers what a subgraph returns, but not what is within: it is inferred as a graph.
    own = {value.name for value in (*graph.input, *graph.initializer)}
    for name, kind in outer.items():
        if name not in own:
            alone.graph.input.add(name=name).type.CopyFrom(kind)
    made = shape_inference.infer_shapes(alone).graph
    return {value.name: value.type for value in (*made.input, *made.value_info, *made.output)}


def _element(kind: Any) -> int:
    """Return the number of a tensor's element type, also within a sequence; 0 when unknown."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        return _element(getattr(kind, which).elem_type)
    return int(getattr(kind, which).elem_type) if which else 0
