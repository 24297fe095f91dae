"""Makes a QDQ graph from PyTorch one whose layers onnxruntime runs on integers.

It does so only where a layer's bias is an integer too, and where its output is quantized. PyTorch
leaves biases in float, and the outputs of layers that are added to something: such layers would
unpack their weights in every call.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.techniques.graph import (
    attributes_of,
    batches,
    clone,
    initializers,
    run,
    session,
    sort_nodes,
    unique_name,
    uses,
    value_names,
)

__all__ = ["close_layers"]

_BATCH = 32


def close_layers(
    model: ModelProto, inputs: Mapping[str, np.ndarray], rows: int
) -> tuple[ModelProto, dict[str, str]]:
    """Quantize what PyTorch left in float around the quantized layers.

    Args:
        model: a QDQ model whose weights are int8 initializers.
        inputs: calibration inputs, from which the ranges of outputs are read.
        rows: at most so many of them are used.

    Returns:
        A new model, and for each new initializer of a bias the bias that it comes from.
    """
    model = clone(model)
    origin = _integer_biases(model)
    open_ones = [node for node, _, _ in _layers(model) if not _is_closed(model, node)]
    if open_ones:
        _quantize_outputs(model, open_ones, inputs, rows)
    sort_nodes(model.graph)
    return model, origin


def _layers(model: ModelProto) -> Iterator[tuple[NodeProto, NodeProto, NodeProto]]:
    """Yield layers with the nodes that unpack their input and their weight."""
    held = initializers(model)
    makers = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or attributes_of(node).get("alpha", 1.0) != 1:
            continue
        x, weight = (makers.get(name) for name in node.input[:2])
        if x is not None and weight is not None and weight.input[0] in held:
            yield node, x, weight


def _integer_biases(model: ModelProto) -> dict[str, str]:
    """Store biases as int32, in the unit of the products that they are added to."""
    held, taken = initializers(model), value_names(model)
    origin: dict[str, str] = {}
    nodes = []
    for node, x, weight in list(_layers(model)):
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in held or held[name].data_type != TensorProto.FLOAT:
            continue
        scales = [numpy_helper.to_array(held[dq.input[1]]).astype(np.float64) for dq in (x, weight)]
        bias = numpy_helper.to_array(held[name]).ravel()
        scale = np.broadcast_to(scales[0] * scales[1], bias.shape)
        whole = np.rint(bias / scale)
        if np.abs(whole).max(initial=0) >= 2**31:
            continue
        arrays = {"quantized": whole.astype(np.int32), "scale": scale.astype(np.float32)}
        made = {part: unique_name(f"{name}_{part}", taken) for part in arrays}
        model.graph.initializer.extend(
            numpy_helper.from_array(array, made[part]) for part, array in arrays.items()
        )
        origin |= dict.fromkeys(made.values(), name)
        node.input[2] = unique_name(f"{name}_unpacked", taken)
        nodes.append(
            helper.make_node("DequantizeLinear", list(made.values()), [node.input[2]], axis=0)
        )
    model.graph.node.extend(nodes)
    return origin


def _is_closed(model: ModelProto, node: NodeProto) -> bool:
    """Whether a layer's output is quantized, perhaps after a Relu, or leaves the model."""
    if node.output[0] in {value.name for value in model.graph.output}:
        return True
    users = uses(model)[node.output[0]]
    if len(users) == 1 and users[0].node.op_type == "Relu":
        users = uses(model)[users[0].node.output[0]]
    return all(use.node.op_type == "QuantizeLinear" for use in users)


def _quantize_outputs(
    model: ModelProto, layers: list[NodeProto], inputs: Mapping[str, np.ndarray], rows: int
) -> None:
    """Put a QuantizeLinear and a DequantizeLinear behind layers, in place."""
    names = [node.output[0] for node in layers]
    taken = value_names(model)
    for (low, high), node in zip(_ranges(model, names, inputs, rows), layers, strict=True):
        scale = (high - low) / 255 or 1.0
        constants = [unique_name(f"{node.output[0]}_{part}", taken) for part in ("scale", "zero")]
        zero = np.clip(np.rint(-low / scale), 0, 255)
        model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), constants[0]))
        model.graph.initializer.append(numpy_helper.from_array(zero.astype(np.uint8), constants[1]))
        name = node.output[0]
        raw, packed = (unique_name(f"{name}_{part}", taken) for part in ("float", "quantized"))
        node.output[0] = raw
        model.graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [raw, *constants], [packed]),
                helper.make_node("DequantizeLinear", [packed, *constants], [name]),
            ]
        )


def _ranges(
    model: ModelProto, names: list[str], inputs: Mapping[str, np.ndarray], rows: int
) -> list[tuple[float, float]]:
    """Return the least and the largest value of each, zero among them."""
    probe = clone(model)
    sort_nodes(probe.graph)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    opened = session(probe)
    found = [(0.0, 0.0)] * len(names)
    for batch in batches(model, inputs, size=_BATCH, rows=rows):
        made = run(opened, names, batch)
        found = [
            (min(low, float(array.min())), max(high, float(array.max())))
            for (low, high), array in zip(found, made, strict=True)
        ]
    return found
