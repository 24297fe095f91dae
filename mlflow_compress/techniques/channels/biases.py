"""Passes biases on: what a layer adds and pooling lets through, the next layer can add itself.

``pool(W x + b)`` is ``pool(W x) + b`` for a maximum over places, and ``V (y + b) + c`` is
``V y + (V b + c)``. Networks without an activation between two layers (LeNet-5) need one bias less
for each such pair, and a model of a few kilobytes notices.
"""

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress.techniques.channels.operators import HANDLERS
from mlflow_compress.techniques.channels.tracker import find_channels, own_tensors
from mlflow_compress.techniques.graph.layers import LinearLayer, add_biases, linear_layers
from mlflow_compress.techniques.graph.walk import (
    Use,
    clone,
    initializers,
    set_initializer,
    uses,
)

__all__ = ["pass_biases_on"]

_PASSES = (
    "MaxPool", "GlobalMaxPool", "GlobalAveragePool", "Dropout", "Flatten", "Identity", "Reshape",
    "Squeeze", "Transpose",
)  # fmt: skip
"""Operators for which ``f(x + b)`` is ``f(x) + b``, for a bias of one value per channel."""


def pass_biases_on(model: ModelProto) -> ModelProto:
    """Return an equal model in which as few layers as possible have biases."""
    made = clone(model)
    own_tensors(made)
    weights = [layer.weight for layer in linear_layers(made)]
    for weight in weights:
        pair = _pair(made, weight)
        if pair is not None:
            _pass_on(made, *pair)
    return made


def _pair(model: ModelProto, weight: str) -> tuple[LinearLayer, LinearLayer] | None:
    """Return the layer of a weight and the one that can take its bias over."""
    layers = {layer.weight: layer for layer in linear_layers(model)}
    layer = layers.get(weight)
    if layer is None or layer.bias is None or layer.node.op_type not in ("Conv", "Gemm"):
        return None
    use = _reader(model, layer.node.output[0])
    if use is None or use.index or use.node.op_type not in ("Conv", "Gemm"):
        return None
    reader = layers.get(use.node.input[1])
    if reader is None:
        return None
    pads = reader.attributes.get("pads", [])
    if any(pads) or reader.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None  # at the border the bias does not arrive
    return layer, reader


def _reader(model: ModelProto, value: str) -> Use | None:
    """Return the only use of a value after operators that let a bias through."""
    where, outputs = uses(model), {output.name for output in model.graph.output}
    while value not in outputs and len(where[value]) == 1:
        (use,) = where[value]
        if use.node.op_type not in _PASSES or use.node.domain or use.index:
            return use
        value = use.node.output[0]
    return None


def _pass_on(model: ModelProto, layer: LinearLayer, reader: LinearLayer) -> None:
    channels = find_channels(model, HANDLERS)
    axis = channels.readers.get(reader.weight)
    made = channels.tensors.get(str(layer.bias), {}).get(0)
    if axis is None or made is None:
        return
    add_biases(model, {reader.weight})
    (reader,) = (one for one in linear_layers(model) if one.weight == reader.weight)
    held = initializers(model)
    if reader.bias is None:
        return
    added = dict(zip(made.tolist(), numpy_helper.to_array(held[str(layer.bias)]), strict=True))
    numbers = channels.tensors[reader.weight][axis]
    array = numpy_helper.to_array(held[reader.weight]).astype(np.float64)
    shape = [-1 if k == axis else 1 for k in range(array.ndim)]
    moved = array * np.array([added.get(number, 0) for number in numbers.tolist()]).reshape(shape)
    bias = numpy_helper.to_array(held[reader.bias])
    total = bias + reader.matrix(moved).sum(axis=2).reshape(bias.shape)
    set_initializer(held[reader.bias], total.astype(bias.dtype))
    del layer.node.input[2:]
