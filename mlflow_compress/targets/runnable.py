"""Whether a target's runtime can take a model at all, before anything is measured on it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_compress.targets.profile import Target

__all__ = ["DTYPES", "why_not"]

# onnx.TensorProto.DataType; written out so that targets need no onnx.
DTYPES = {
    1: "float",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "double",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
}


def why_not(model: Any, target: "Target") -> str:
    """Say in one line why the target's runtime cannot take a model, or nothing when it can.

    Args:
        model: an ``onnx.ModelProto``, not packed; subgraphs and functions are looked at too.
        target: its ``execution`` names the opset, the types and the missing operators.
    """
    limits = target.execution
    runtime = f"{limits.runtime} of target {target.name!r}"
    for used in model.opset_import:
        if used.domain in ("", "ai.onnx") and limits.opset and used.version > limits.opset:
            return f"{runtime} takes opset {limits.opset}, the model is of opset {used.version}"
    lacking = set(limits.without_operators)
    for node in _nodes(model):
        if node.op_type in lacking and node.domain in ("", "ai.onnx"):
            return f"{runtime} has no operator {node.op_type} (node {_name(node)!r})"
    if limits.dtypes:
        for what, number in _types(model):
            name = DTYPES.get(number, f"type {number}")
            if name not in limits.dtypes:
                taken = ", ".join(limits.dtypes)
                return f"{runtime} takes {taken}, {what} is {name}"
    return ""


def _name(node: Any) -> str:
    return str(node.name or ", ".join(node.output))


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph, its subgraphs, and the bodies of functions."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend(attribute.graphs)
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _types(model: Any) -> Iterator[tuple[str, int]]:
    """Yield what has a type, with its number: weights, inputs, outputs, casts, constants."""
    for graph in _graphs(model):
        for tensor in getattr(graph, "initializer", ()):
            yield f"weight {tensor.name!r}", tensor.data_type
        for kind in ("input", "output"):
            for value in getattr(graph, kind):
                # A function's inputs and outputs are names without a type.
                if not isinstance(value, str) and value.type.HasField("tensor_type"):
                    yield f"{kind} {value.name!r}", value.type.tensor_type.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield f"the constant of node {_name(node)!r}", attribute.t.data_type
                if node.op_type == "Cast" and attribute.name == "to":
                    yield f"the output of node {_name(node)!r}", attribute.i
