"""What is done with a model that onnxruntime's tools have quantized, or are not to."""

from collections.abc import Iterable, Mapping

from onnx import ModelProto, NodeProto, TensorProto

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.base import Result
from mlflow_compress.techniques.fold.onnx import share_duplicates
from mlflow_compress.techniques.graph.walk import (
    float_weights,
    initializers,
    node_label,
    not_single,
    sort_nodes,
    walk_graphs,
    walk_nodes,
    weight_inputs,
)
from mlflow_compress.techniques.quantize.preparing import (
    Prepared,
)

__all__ = ["finished", "nothing", "quantized_origin", "refuse_quantized", "tidy"]

_NAMED = 3
"""Layers that a note names."""

_QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul",
                  "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
                  "MatMulNBits", "DynamicQuantizeLSTM")  # fmt: skip

_PARTS = ("_quantized_scale", "_quantized_zero_point", "_quantized", "_scale", "_zero_point")

_SUFFIXES = (*_PARTS, *(f"_Transposed{part}" for part in _PARTS))


def refuse_quantized(model: ModelProto) -> None:
    """Refuse a model that computes in integers already.

    Raises:
        TechniqueError: names the node.
    """
    for node in walk_nodes(model.graph):
        if node.op_type in _QUANTIZED_OPS:
            raise TechniqueError(
                f"the model is quantized already: node {node.name or node.output[0]!r} is a "
                f"{node.op_type}"
            )


def tidy(model: ModelProto, given: ModelProto) -> None:
    """Drop annotations, which cost bytes in small files, and put the nodes in order again.

    The tools write into the metadata; class names and the like are the model's own. Outputs are as
    they were.
    """
    del model.graph.value_info[:]
    del model.graph.output[:]
    model.graph.output.extend(given.graph.output)
    del model.metadata_props[:]
    model.metadata_props.extend(given.metadata_props)
    sort_nodes(model.graph)


def quantized_origin(
    source: ModelProto, made: ModelProto, renamed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Map each initializer that quantization made from a source's weight to that weight.

    Args:
        source: the model before it.
        made: the quantized model.
        renamed: the source's initializer of others that were quantized in its place.
    """
    known = {name: name for name in initializers(source)} | dict(renamed or {})
    origin = {}
    for tensor in _new(source, made):
        ends = ("", *_SUFFIXES)
        stems = (tensor.name.removesuffix(end) for end in ends if tensor.name.endswith(end))
        stem = next((stem for stem in stems if stem in known), None)
        if stem is not None:
            origin[tensor.name] = known[stem]
    return origin


def finished(model: ModelProto, made: ModelProto, ready: Prepared) -> Result:
    """Return the result, with what stays in float.

    Raises:
        TechniqueError: nothing was quantized.
    """
    made = share_duplicates(made)
    if not any(t.data_type in (TensorProto.INT8, TensorProto.UINT8) for t in _new(model, made)):
        raise nothing(model)
    return Result(made, quantized_origin(model, made, ready.origin), _left_in_float(made))


def nothing(model: ModelProto) -> TechniqueError:
    """Say why nothing of a model is quantized, and what to do."""
    told = "onnxruntime found no weights to quantize in the main graph"
    main = {name for node in model.graph.node for name in node.output}
    nodes = [weight.uses[0].node for weight in float_weights(model)]
    inside = [node_label(node) for node in nodes if not main.intersection(node.output)]
    advice = not_single(model)
    if inside and not advice:
        advice = f"{inside[0]} is inside a node (weight_only takes its weight too)"
    if advice:
        return TechniqueError(f"{told}: {advice}")
    return TechniqueError(f"{told} (leave this step out)")


def _left_in_float(made: ModelProto) -> tuple[str, ...]:
    """Say which layers keep weights in float, and where they are."""
    held = {weight.name for weight in float_weights(made)}

    def layers(nodes: Iterable[NodeProto]) -> list[str]:
        return [
            node_label(node)
            for node in nodes
            if any(node.input[i] in held for i in weight_inputs(node) if i < len(node.input))
        ]

    inside = [node for graph in list(walk_graphs(made.graph))[1:] for node in graph.node]
    told = []
    for where, some in (("", layers(made.graph.node)), (" inside nodes", layers(inside))):
        if some:
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            told.append(f"weights stay in float{where}: {', '.join(some[:_NAMED])}{more}")
    return tuple(told)


def _new(source: ModelProto, made: ModelProto) -> list[TensorProto]:
    known = initializers(source)
    return [tensor for tensor in made.graph.initializer if tensor.name not in known]
