"""What 8-bit quantization does to each layer, told in float before it is done.

:func:`layer_losses` quantizes one layer at a time; :func:`correct_biases` moves each bias so that
the layer's mean output stays what it was (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.2, with means taken from calibration inputs).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.fitting.least_squares import tapped
from mlflow_compress.techniques.graph.layers import LinearLayer, add_biases, linear_layers
from mlflow_compress.techniques.graph.running import (
    all_outputs,
    batches,
    output_change,
    run,
    session,
)
from mlflow_compress.techniques.graph.walk import (
    channel_axis,
    clone,
    float_weights,
    initializers,
    set_initializer,
    sort_nodes,
    unique_name,
    uses,
    value_names,
)
from mlflow_compress.techniques.quantize.settings import QuantizeSettings

__all__ = ["correct_biases", "layer_losses", "rounded_weights", "saturation"]

_ROWS, _AT_ONCE = 32, 4
"""Rows on which two ways to compute are compared, and how many run in one call."""

_WORTH_SAYING = 5e-3

_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layer_losses(
    model: ModelProto, settings: QuantizeSettings, inputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return what quantizing each layer alone does to the outputs.

    Args:
        model: a model whose nodes have names.
        settings: how weights would be quantized, and how many rows to look at.
        inputs: calibration inputs by name.

    Returns:
        Node name → mean squared change of the outputs, relative to their variance; of several
        outputs the one that changes most counts.
    """
    layers = _layers(model, settings)
    fed = list(batches(model, inputs, rows=settings.rows))
    expected = all_outputs(model, fed)
    given = {value.name for value in model.graph.input}
    sources = list(dict.fromkeys(layer.source for layer in layers if layer.source not in given))
    ranges: dict[str, tuple[float, float]] = {}
    opened = session(tapped(model, sources)) if sources else None
    for batch in fed:
        values = dict(batch)
        if opened is not None:
            values |= dict(zip(sources, run(opened, sources, batch), strict=True))
        for name in {layer.source for layer in layers}:
            low, high = ranges.get(name, (0.0, 0.0))
            array = values[name]
            ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    rounded = rounded_weights(model, settings)
    losses = {}
    for layer in layers:
        changed = _quantized_alone(model, layer, rounded[layer.weight], *ranges[layer.source])
        losses[layer.node.name] = output_change(expected, all_outputs(changed, fed))
    return losses


def correct_biases(
    model: ModelProto, settings: QuantizeSettings, inputs: Mapping[str, np.ndarray]
) -> ModelProto:
    """Return the model with biases that make up for the rounding of weights.

    Args:
        model: a model whose nodes have names; layers in ``settings.exclude`` are not rounded.
        settings: how weights will be quantized, and how many rows to look at.
        inputs: calibration inputs by name.
    """
    made = clone(model)
    layers = _layers(made, settings)
    add_biases(made, {layer.weight for layer in layers})
    layers = [layer for layer in _layers(made, settings) if layer.bias is not None]
    if not layers:
        return made
    changed = clone(made)
    rounded = rounded_weights(made, settings)
    held, final = initializers(changed), initializers(made)
    for layer in _layers(made, settings):
        set_initializer(held[layer.weight], rounded[layer.weight])
    where = uses(made)
    values = [where[layer.bias or ""][0].node.output[0] for layer in layers]
    fed = list(batches(made, inputs, rows=settings.rows))
    wanted = _means(made, values, layers, fed)
    for layer, value, mean in zip(layers, values, wanted, strict=True):
        (now,) = _means(changed, [value], [layer], fed)
        bias = held[layer.bias or ""]
        array = numpy_helper.to_array(bias).astype(np.float64)
        array = array + (mean - now).reshape(array.shape)
        set_initializer(bias, array)
        set_initializer(final[bias.name], array)
    return made


def saturation(made: ModelProto, inputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Say how much of a quantized model's error is sums that leave 16 bits on this processor.

    Args:
        made: the quantized model; without fusions onnxruntime computes it in float.
        inputs: calibration inputs by name.

    Returns:
        A note, where it is worth one.
    """
    fed = list(batches(made, inputs, size=_AT_ONCE, rows=_ROWS))
    names = [value.name for value in made.graph.output]
    opened = session(made)
    try:
        lost = output_change([run(opened, names, batch) for batch in fed], all_outputs(made, fed))
    except TechniqueError:  # as many boxes as there are found
        return ()
    if lost < _WORTH_SAYING:
        return ()
    return (
        f"sums of 8-bit products saturate on this processor, which changes the outputs by "
        f"{lost:.3g} of their variance: reduce_range avoids it",
    )


def rounded_weights(model: ModelProto, settings: QuantizeSettings) -> dict[str, np.ndarray]:
    """Return each weight's values as int8 will hold them, as ``onnxruntime.quantization`` does."""
    limit = 64 if settings.reduce_range else 127
    made = {}
    for weight in float_weights(model):
        array = weight.array().astype(np.float64)
        axis = channel_axis(weight) if settings.per_channel else None
        others = tuple(k for k in range(array.ndim) if k != axis)
        scale = np.abs(array).max(axis=others, keepdims=True) / limit
        scale = np.where(scale > 0, scale, 1.0)
        made[weight.name] = np.clip(np.rint(array / scale), -limit, limit) * scale
    return made


def _layers(model: ModelProto, settings: QuantizeSettings) -> list[LinearLayer]:
    return [
        layer
        for layer in linear_layers(model)
        if layer.node.op_type in _KINDS and layer.node.name not in settings.exclude
    ]


def _quantized_alone(
    model: ModelProto, layer: LinearLayer, weight: np.ndarray, low: float, high: float
) -> ModelProto:
    """Return the model with one layer's weight and input rounded to 8 bits."""
    made = clone(model)
    held = initializers(made)
    set_initializer(held[layer.weight], weight)
    taken = value_names(made)
    scale = max(high - low, 1e-12) / 255
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    names = [unique_name(f"{layer.source}_{part}", taken) for part in ("s", "z", "q", "dq")]
    dtype = helper.tensor_dtype_to_np_dtype(held[layer.weight].data_type)
    made.graph.initializer.append(numpy_helper.from_array(np.array(scale, dtype), names[0]))
    made.graph.initializer.append(helper.make_tensor(names[1], TensorProto.UINT8, [], [zero]))
    grid = names[:2]
    made.graph.node.append(helper.make_node("QuantizeLinear", [layer.source, *grid], [names[2]]))
    made.graph.node.append(helper.make_node("DequantizeLinear", [names[2], *grid], [names[3]]))
    for node in made.graph.node:
        if node.name == layer.node.name and layer.weight in node.input:
            node.input[0] = names[3]
    sort_nodes(made.graph)
    return made


def _means(
    model: ModelProto,
    values: Sequence[str],
    layers: Sequence[LinearLayer],
    fed: Sequence[Mapping[str, np.ndarray]],
) -> list[np.ndarray]:
    """Return the mean of each value per output of its layer."""
    opened = session(tapped(model, values))
    sums: list[np.ndarray] = []
    counts = [0] * len(values)
    for batch in fed:
        for index, array in enumerate(run(opened, values, batch)):
            axis = 1 if layers[index].node.op_type == "Conv" else array.ndim - 1
            flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            total = flat.sum(axis=1, dtype=np.float64)
            if len(sums) <= index:
                sums.append(np.zeros_like(total))
            sums[index] += total
            counts[index] += flat.shape[1]
    return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]
