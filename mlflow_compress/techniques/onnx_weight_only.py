"""Weight-only quantization on ONNX, by rounding to the nearest or by GPTQ.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2023, section 3. Before a layer is rounded it is refitted to the inputs that the
layers before it now give it.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.onnx_graph import (
    Weight,
    at_opset,
    clone,
    float_weights,
    initializers,
    prepend_nodes,
    set_initializer,
    unique_name,
)
from mlflow_compress.techniques.onnx_layers import LinearLayer, linear_layers
from mlflow_compress.techniques.onnx_repair import (
    MAX_INPUTS,
    layer_moments,
    refit_layer,
    refit_offsets,
)
from mlflow_compress.techniques.onnx_run import check_calibration
from mlflow_compress.techniques.rate import Grid, round_feedback
from mlflow_compress.techniques.weight_only import WeightOnlySettings

__all__ = ["channel_axis", "channel_scales", "weight_only"]

_MIN_OPSET = 13
"""The first version whose DequantizeLinear has an axis."""

_TINY = 64

_SHRINKS = np.linspace(1.0, 0.4, 25)
"""Shares of the largest weight that the range may end at; clipping it can cost less error."""


def weight_only(model: ModelProto, settings: WeightOnlySettings, context: Context) -> Result:
    """Store weights as integers behind a DequantizeLinear.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: the model has no float32 weights, its operators are too old and cannot be
            converted, or calibration inputs are missing.
    """
    inputs: Mapping[str, np.ndarray] = {}
    if settings.method == "gptq":
        inputs = check_calibration(model, context.calibration)
    model = at_opset(model, _MIN_OPSET)
    weights = _chosen(model, settings)
    made = clone(model)
    layers = {layer.weight: layer for layer in linear_layers(made)} if inputs else {}
    quantized: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    wide = []
    for name in sorted(weights, key=lambda n: list(layers).index(n) if n in layers else -1):
        layer = layers.get(name)
        axis = channel_axis(weights[name])
        if layer is not None and layer.matrix(weights[name].array()).shape[2] > MAX_INPUTS:
            wide.append(f"{name} has too many inputs for GPTQ and was rounded to the nearest")
            layer = None
        if layer is None:
            array = weights[name].array().astype(np.float64)
            scales = channel_scales(array, axis, settings.bits)
            symbols = _nearest(array, scales, settings.bits)
        else:
            symbols, scales = _gptq(model, made, layer, axis, inputs, settings, context.seed)
        # the layers after it see the rounded weights
        set_initializer(initializers(made)[name], symbols * scales)
        quantized[name] = symbols, scales.ravel()
    axes = {name: channel_axis(weight) for name, weight in weights.items()}
    return Result(*_with_integers(made, quantized, axes), tuple(wide))


def channel_axis(weight: Weight) -> int:
    """Return the axis of a weight tensor along which its outputs lie."""
    node, index = weight.uses[0].node, weight.uses[0].index
    if node.op_type in ("LSTM", "GRU", "RNN", "ConvTranspose"):
        return 1
    if node.op_type == "MatMul":
        return len(weight.tensor.dims) - 1 if index == 1 else len(weight.tensor.dims) - 2
    if node.op_type == "Gemm":
        flag = "transB" if index == 1 else "transA"
        transposed = any(a.name == flag and a.i for a in node.attribute)
        return int(transposed != (index == 1))
    return 0


def channel_scales(
    array: np.ndarray, axis: int, bits: int, importance: np.ndarray | None = None
) -> np.ndarray:
    """Return the scale of each channel that makes the rounding error least.

    Args:
        array: the weights.
        axis: the channels' axis.
        bits: width of the integers.
        importance: error weights that broadcast to the array; None counts all alike.

    Returns:
        Scales that broadcast to the array, all above zero.
    """
    others = tuple(i for i in range(array.ndim) if i != axis)
    limit = 2 ** (bits - 1) - 1
    top = np.abs(array).max(axis=others, keepdims=True) / limit
    top = np.where(top > 0, top, 1.0)
    best, least = top, np.full(top.shape, np.inf)
    for shrink in _SHRINKS:
        scale = top * shrink
        error = (array - scale * np.clip(np.rint(array / scale), -limit, limit)) ** 2
        if importance is not None:
            error = error * importance
        total = error.sum(axis=others, keepdims=True)
        best, least = np.where(total < least, scale, best), np.minimum(total, least)
    return np.asarray(best.astype(np.float32).astype(np.float64))


def _nearest(array: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    limit = 2 ** (bits - 1) - 1
    return np.clip(np.rint(array / scales), -limit, limit)


def _gptq(
    dense: ModelProto,
    made: ModelProto,
    layer: LinearLayer,
    axis: int,
    inputs: Mapping[str, np.ndarray],
    settings: WeightOnlySettings,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Refit and round one layer; returns integers in the tensor's shape, and scales."""
    tensor = initializers(made)[layer.weight]
    shape = tuple(tensor.dims)
    keep = layer.matrix(numpy_helper.to_array(tensor)) != 0
    fit, judge = layer_moments(dense, made, layer, inputs, rows=settings.rows, seed=seed)
    bias = layer.bias
    start = None if bias is None else np.array(numpy_helper.to_array(initializers(made)[bias]))
    refit_layer(made, layer, keep, fit, judge)
    array = numpy_helper.to_array(tensor).astype(np.float64)
    matrix = layer.matrix(array)
    grams = (fit + judge).gram[:, :-1, :-1]
    energies = np.stack([np.diag(gram) for gram in grams])[:, None]
    importance = layer.stored(np.broadcast_to(energies, matrix.shape), shape)
    scales = channel_scales(array, axis, settings.bits, importance)
    scaled = layer.matrix(array / scales)
    limit = 2 ** (settings.bits - 1) - 1
    grid = Grid(1.0, np.zeros(255), limit)
    symbols = np.stack(
        [round_feedback(m, gram, 1.0, grid, 0.0) for m, gram in zip(scaled, grams, strict=True)]
    )
    integers = layer.stored(symbols, shape)
    set_initializer(tensor, integers * scales)
    refit_offsets(made, layer, fit + judge, start)
    return integers, scales


def _chosen(model: ModelProto, settings: WeightOnlySettings) -> dict[str, Weight]:
    weights = {
        weight.name: weight
        for weight in float_weights(model, min_size=_TINY)
        if weight.tensor.data_type == TensorProto.FLOAT
    }
    for name in settings.exclude:
        if name not in weights:
            raise ConfigError(
                f"weight_only.exclude: {name!r} is no weight tensor{closest(name, weights)}"
            )
    chosen = {name: weight for name, weight in weights.items() if name not in settings.exclude}
    if not chosen:
        raise TechniqueError(
            f"there is nothing to quantize: no float32 weights of Conv, Gemm, MatMul, LSTM or GRU "
            f"with at least {_TINY} elements (is the model quantized already?)"
        )
    return chosen


def _with_integers(
    model: ModelProto,
    quantized: Mapping[str, tuple[np.ndarray, np.ndarray]],
    axes: Mapping[str, int],
) -> tuple[ModelProto, dict[str, str]]:
    """Put the integers, and the nodes that scale them, in the weights' place."""
    taken = set(initializers(model)) | {n for node in model.graph.node for n in node.output}
    origin: dict[str, str] = {}
    nodes, tensors = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in quantized:
            tensors.append(tensor)
            continue
        symbols, scales = quantized[tensor.name]
        names = [unique_name(f"{tensor.name}_{part}", taken) for part in ("quantized", "scale")]
        tensors.append(numpy_helper.from_array(symbols.astype(np.int8), names[0]))
        tensors.append(numpy_helper.from_array(scales.astype(np.float32), names[1]))
        origin |= dict.fromkeys(names, tensor.name)
        nodes.append(
            helper.make_node("DequantizeLinear", names, [tensor.name], axis=axes[tensor.name])
        )
    made = clone(model)
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensors)
    prepend_nodes(made.graph, nodes)
    return made, origin
