"""Weight-only quantization on ONNX, by rounding to the nearest or by GPTQ.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2023, section 3. Before a layer is rounded it is refitted to the inputs that the
layers before it now give it.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.fitting.least_squares import (
    MAX_INPUTS,
    Pair,
    layer_moments,
    refit_layer,
    refit_offsets,
)
from mlflow_compress.techniques.graph.integers import (
    Integers,
    needed_version,
    raise_version,
    without_two_bits,
    write_integers,
)
from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.running import check_calibration
from mlflow_compress.techniques.graph.walk import (
    Weight,
    channel_axis,
    clone,
    float_weights,
    initializers,
    not_single,
    set_initializer,
    why_no_weights,
)
from mlflow_compress.techniques.numeric.rate import Grid, round_feedback
from mlflow_compress.techniques.weight_only.settings import WeightOnlySettings

__all__ = ["channel_scales", "weight_only"]

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
    kinds = {_kind(settings, product) for product in (False, True)}
    model = raise_version(model, needed_version(kinds, blocks=settings.group_size > 0))
    weights = _chosen(model, settings)
    made = clone(model)
    layers = {layer.weight: layer for layer in linear_layers(made)} if inputs else {}
    pair = Pair.of(model, made, inputs, settings.rows) if inputs else None
    quantized: dict[str, Integers] = {}
    products = without_two_bits(model)
    notes: list[str] = []
    whole: list[str] = []
    for name in sorted(weights, key=lambda n: list(layers).index(n) if n in layers else -1):
        layer = layers.get(name)
        axis = channel_axis(weights[name])
        if layer is not None and layer.matrix(weights[name].array()).shape[2] > MAX_INPUTS:
            notes.append(f"{name} has too many inputs for GPTQ and was rounded to the nearest")
            layer = None
        block = _block(weights[name], axis, settings)
        if settings.group_size and not block:
            whole.append(name)
        if layer is None or pair is None:
            array = weights[name].array().astype(np.float64)
            scales = _scales(array, axis, block, settings.bits)
            symbols = _nearest(array, scales, settings.bits)
        else:
            symbols, scales = _gptq(pair, made, layer, axis, block, settings, context.seed)
        kind = _kind(settings, name in products)
        quantized[name] = Integers(symbols, scales, axis, kind, block)
        # the layers after it see the rounded weights
        set_initializer(initializers(made)[name], quantized[name].values())
    if whole:
        notes.append(
            f"one scale per output, for want of groups of {settings.group_size} inputs: "
            f"{', '.join(whole)}"
        )
    return Result(*write_integers(made, quantized), tuple(notes))


def _kind(settings: WeightOnlySettings, product: bool) -> int:
    """Return the type of the integers."""
    if settings.store == "int8" or settings.bits > 4:
        return int(TensorProto.INT8)
    return int(TensorProto.INT2 if settings.bits == 2 and not product else TensorProto.INT4)


def _block(weight: Weight, axis: int, settings: WeightOnlySettings) -> int:
    """Return the group size where a tensor divides into such groups, else 0."""
    dims = weight.tensor.dims
    plain = all(use.node.op_type in ("Gemm", "MatMul") for use in weight.uses)
    size = settings.group_size
    fits = len(dims) == 2 and plain and size and dims[1 - axis] % size == 0
    return size if fits and dims[1 - axis] > size else 0


def _scales(
    array: np.ndarray, axis: int, block: int, bits: int, importance: np.ndarray | None = None
) -> np.ndarray:
    """Return scales that broadcast to the array, one per channel or per block of one."""
    if not block:
        return channel_scales(array, axis, bits, importance)

    def blocks(whole: np.ndarray) -> np.ndarray:
        return np.moveaxis(whole, axis, 0).reshape(-1, block)

    weight = None if importance is None else blocks(importance)
    found = channel_scales(blocks(array), 0, bits, weight)
    turned = np.moveaxis(array, axis, 0).shape
    return np.moveaxis(np.repeat(found, block, axis=1).reshape(turned), 0, axis)


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
    pair: Pair,
    made: ModelProto,
    layer: LinearLayer,
    axis: int,
    block: int,
    settings: WeightOnlySettings,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Refit and round one layer; returns integers in the tensor's shape, and scales."""
    tensor = initializers(made)[layer.weight]
    shape = tuple(tensor.dims)
    keep = layer.matrix(numpy_helper.to_array(tensor)) != 0
    fit, judge = layer_moments(pair, layer, seed)
    bias = layer.bias
    start = None if bias is None else np.array(numpy_helper.to_array(initializers(made)[bias]))
    refit_layer(made, layer, keep, fit, judge)
    array = numpy_helper.to_array(tensor).astype(np.float64)
    matrix = layer.matrix(array)
    grams = (fit + judge).gram[:, :-1, :-1]
    energies = np.stack([np.diag(gram) for gram in grams])[:, None]
    importance = layer.stored(np.broadcast_to(energies, matrix.shape), shape)
    scales = _scales(array, axis, block, settings.bits, importance)
    units = layer.matrix(np.broadcast_to(scales, shape))
    limit = 2 ** (settings.bits - 1) - 1
    grid = Grid(1.0, np.zeros(255), limit)
    symbols = np.stack(
        [
            round_feedback(part, gram, 1.0, grid, 0.0, unit)
            for part, gram, unit in zip(layer.matrix(array), grams, units, strict=True)
        ]
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
            "there is nothing to quantize: "
            + (not_single(model) or f"no float32 weights of Conv, Gemm, MatMul, LSTM or GRU with "
               f"at least {_TINY} elements ({why_no_weights(model)})")
        )  # fmt: skip
    return chosen
