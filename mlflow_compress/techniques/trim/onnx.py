"""Takes dead units, needless attributes and long names out of a graph; see :mod:`~.trim`."""

import math

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    numpy_helper,
)

from mlflow_compress.techniques.base import Context, Result
from mlflow_compress.techniques.graph.names import shorten_names, shorten_weights
from mlflow_compress.techniques.graph.normal import normalize
from mlflow_compress.techniques.graph.running import check_unchanged
from mlflow_compress.techniques.graph.walk import (
    attributes_of,
    clone,
    inferred,
    initializers,
    opset,
    walk_graphs,
    walk_nodes,
)
from mlflow_compress.techniques.trim.dead import without_dead_units
from mlflow_compress.techniques.trim.settings import TrimSettings

__all__ = ["trim", "without_defaults"]


_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_WINDOW_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0}
"""What the lists hold that these operators take for granted; their length is the rank's."""


def trim(model: ModelProto, settings: TrimSettings, context: Context) -> Result:
    """Take away what the outputs do not depend on.

    Raises:
        TechniqueError: outputs change, which means that the graph is not understood.
    """
    made, notes = clone(model), []
    if settings.units:
        made, note = without_dead_units(made, context)
        notes.append(note)
    if settings.attributes:
        made = without_defaults(made)
    origin: dict[str, str] = {}
    if settings.names:
        made, origin = shorten_weights(shorten_names(made))
    check_unchanged(model, made, context.calibration, context.seed, "trimming")
    return Result(made, origin, tuple(notes))


def without_defaults(model: ModelProto) -> ModelProto:
    """Return the model without attributes at their defaults and without biases of zeros.

    A Reshape that keeps the first axis and joins all others becomes a Flatten, whose shape needs
    no constant. The producer's name and the graph's go too.
    """
    model = clone(model)
    held, version = initializers(model), opset(model)
    ranks = _ranks(model)
    for node in walk_nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        _flatten(node, held, ranks)
        _drop_zero_bias(node, held)
        kept = [a for a in node.attribute if not _is_default(node, a, held, version)]
        copies = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
    model.producer_name = model.producer_version = ""
    for graph in walk_graphs(model.graph):
        graph.name = "g"
    return normalize(model)


def _is_default(
    node: NodeProto, attribute: AttributeProto, held: dict[str, TensorProto], version: int
) -> bool:
    name = attribute.name
    if node.op_type in _WINDOWS and name in _WINDOW_DEFAULTS:
        return set(attribute.ints) == {_WINDOW_DEFAULTS[name]}
    if node.op_type in ("Conv", "ConvTranspose") and name == "kernel_shape":
        return node.input[1] in held
    try:
        schema = defs.get_schema(node.op_type, version, "")
    except defs.SchemaError:
        return False
    known = schema.attributes.get(name)
    if known is None or known.required or not known.default_value.name:
        return False
    given = AttributeProto()
    given.CopyFrom(attribute)
    given.ClearField("doc_string")
    return bool(given == known.default_value)


def _drop_zero_bias(node: NodeProto, held: dict[str, TensorProto]) -> None:
    """Take the bias off a Conv, ConvTranspose or Gemm if it adds nothing."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
        return
    bias = held.get(node.input[2])
    # a bias of Gemm with more than one axis may decide the shape of the output
    if bias is not None and len(bias.dims) <= 1 and not numpy_helper.to_array(bias).any():
        del node.input[2:]


def _flatten(node: NodeProto, held: dict[str, TensorProto], ranks: dict[str, list[int]]) -> None:
    """Turn ``Reshape(x, [-1, n])`` and ``Reshape(x, [0, n])`` into a Flatten where they are one."""
    if node.op_type != "Reshape" or node.input[1] not in held:
        return
    shape = numpy_helper.to_array(held[node.input[1]]).ravel().tolist()
    inner = ranks.get(node.input[0], [])[1:]
    if len(shape) != 2 or not inner or min(inner) < 1:
        return
    if 0 in shape and attributes_of(node).get("allowzero", 0):
        return
    if shape[0] in (0, -1) and shape[1] in (-1, math.prod(inner)) and shape != [-1, -1]:
        node.op_type = "Flatten"
        del node.input[1:]
        del node.attribute[:]


def _ranks(model: ModelProto) -> dict[str, list[int]]:
    """Return the known dimensions of the main graph's values; 0 where one is open."""
    graph: GraphProto = inferred(model, data_prop=True).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
