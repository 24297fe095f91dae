"""Any ONNX model's weights through Neural Compressor's GPTQ or RTN, and back into the same graph.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2023. GPTQ runs the model as a PyTorch module on calibration rows; rounding to the
nearest needs the matrices alone.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context, Result, closest
from mlflow_compress.techniques.graph import (
    Integers,
    LinearLayer,
    batches,
    channel_axis,
    check_calibration,
    float_weights,
    initializers,
    linear_layers,
    needed_version,
    probe,
    raise_version,
    without_two_bits,
    write_integers,
)
from mlflow_compress.techniques.training import Interpreter, check_interpreter
from mlflow_compress_neural_compressor.library import (
    FAILURES,
    failed,
    library,
    little_garbage,
    quiet,
)
from mlflow_compress_neural_compressor.settings import WeightSettings
from mlflow_compress_neural_compressor.torch_rows import OneBlock, row_scales, weight_layers

__all__ = ["quantize_weights"]

_TINY = 64
"""Weights of fewer elements stay in float: their scales would cost more than they save."""

_MOST_INPUTS = 8192
"""GPTQ keeps a square matrix of the inputs of each layer: of more, they would pass 256 MB."""

_BATCH = 64


def quantize_weights(model: ModelProto, settings: WeightSettings, context: Context) -> Result:
    """Store weights as unsigned integers behind a DequantizeLinear.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: nothing can be quantized; calibration inputs are missing; for GPTQ, an
            operator cannot be run in PyTorch; or the library fails.
    """
    layers = _layers(model)
    _check_names(model, settings)
    kept = _left_out(model, layers)
    chosen = {n: layer for n, layer in layers.items() if n not in settings.exclude}
    if settings.algorithm == "gptq":
        inputs = check_calibration(model, context.calibration)
        module = Interpreter(model)
        check_interpreter(module, model, probe(model, inputs, context.seed))
        kept |= _not_for_gptq(chosen, model)
        chosen = {n: layer for n, layer in chosen.items() if n not in kept}
        known = weight_layers(module)
        kept |= {n: "is not a layer of its own in PyTorch" for n in chosen if n not in known}
        chosen = {n: layer for n, layer in chosen.items() if n in known}
    if not chosen:
        reasons = "; ".join(f"{name} {why}" for name, why in sorted(kept.items()))
        raise TechniqueError(
            f"neural_compressor has nothing to quantize with {settings.algorithm}: "
            f"{reasons or 'the model has no float32 weights of Conv, Gemm or MatMul'}"
        )
    blocks = {n: _block(layer, model, settings) for n, layer in chosen.items()}
    with quiet(), torch.no_grad():
        if settings.algorithm == "gptq":
            made = _gptq(module, known, model, inputs, blocks, settings)
        else:
            made = _rtn(chosen, model, blocks, settings)
    weights, products = {w.name: w for w in float_weights(model)}, without_two_bits(model)
    kinds = {name: _kind(settings, name in products) for name in chosen}
    integers = {
        name: _integers(made[name], layer, weights[name], blocks[name], kinds[name])
        for name, layer in chosen.items()
    }
    version = needed_version(set(kinds.values()), blocks=any(blocks.values()))
    result = write_integers(raise_version(model, version), integers)
    return Result(*result, notes=_notes(kept, blocks, settings))


Read = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Integers of [outputs, inputs], and scales and zero points of [outputs, groups]."""


def _layers(model: ModelProto) -> dict[str, LinearLayer]:
    """Return the layers that have one scale per output channel, by their weights."""
    held = initializers(model)
    return {
        layer.weight: layer
        for layer in linear_layers(model)
        if layer.node.op_type in ("Conv", "Gemm", "MatMul")
        and held[layer.weight].data_type == TensorProto.FLOAT
        and np.prod(held[layer.weight].dims) >= _TINY
    }


def _left_out(model: ModelProto, layers: Mapping[str, LinearLayer]) -> dict[str, str]:
    """Return why weights that are no such layers stay in float."""
    reasons = {}
    for weight in float_weights(model, min_size=_TINY):
        if weight.name in layers:
            continue
        kind = weight.uses[0].node.op_type
        if weight.tensor.data_type != TensorProto.FLOAT:
            reasons[weight.name] = "is not float32"
        elif kind not in ("Conv", "Gemm", "MatMul"):
            reasons[weight.name] = f"is the weight of {kind}, whose outputs have no one axis"
        else:
            reasons[weight.name] = f"is used by its {kind} in a way that has no rows"
    return reasons


def _not_for_gptq(layers: Mapping[str, LinearLayer], model: ModelProto) -> dict[str, str]:
    held, reasons = initializers(model), {}
    for name, layer in layers.items():
        if layer.groups > 1:
            reasons[name] = "is a grouped convolution, which gptq does not take (rtn does)"
        elif layer.matrix(numpy_helper.to_array(held[name])).shape[2] > _MOST_INPUTS:
            reasons[name] = f"has more than {_MOST_INPUTS} inputs, too many for gptq"
    return reasons


def _check_names(model: ModelProto, settings: WeightSettings) -> None:
    known = [weight.name for weight in float_weights(model)]
    for name in settings.exclude:
        if name not in known:
            raise ConfigError(
                f"neural_compressor.exclude: {name!r} is no weight tensor{closest(name, known)}"
            )


def _block(layer: LinearLayer, model: ModelProto, settings: WeightSettings) -> int:
    """Return the group size where a layer can have groups, the last perhaps shorter, else 0."""
    inputs = layer.matrix(numpy_helper.to_array(initializers(model)[layer.weight])).shape[2]
    size = settings.group_size
    return size if layer.node.op_type != "Conv" and inputs > size else 0


def _kind(settings: WeightSettings, product: bool) -> int:
    if settings.store == "uint8" or settings.bits > 4:
        return int(TensorProto.UINT8)
    return int(TensorProto.UINT2 if settings.bits == 2 and not product else TensorProto.UINT4)


def _config(maker: Any, blocks: Mapping[str, int], settings: WeightSettings, **more: Any) -> Any:
    """Make a configuration with a group size for each layer, by the layer's name."""

    def one(block: int) -> Any:
        return maker(
            bits=settings.bits,
            # its 8-bit integers with zero points overflow when a layer is run
            use_sym=settings.symmetric or settings.bits == 8,
            group_size=block or -1,
            use_mse_search=settings.search_range,
            use_layer_wise=False,
            **more,
        )

    config = one(0)
    for name, block in blocks.items():
        config.set_local(name, one(block))
    return config


def _gptq(
    module: Interpreter,
    known: Mapping[str, tuple[str, nn.Module]],
    model: ModelProto,
    inputs: Mapping[str, np.ndarray],
    blocks: Mapping[str, int],
    settings: WeightSettings,
) -> dict[str, Read]:
    nc = library()
    keys = {name: key for name, (key, _) in known.items() if name in blocks}
    net = OneBlock(module, keys)
    local = {f"{net.prefix}.{key}.qk": blocks[name] for name, key in keys.items()}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(
            nc.GPTQConfig,
            local,
            settings,
            percdamp=settings.damping,
            true_sequential=True,
            model_path=folder,  # it asks a hub for what is not a folder
        )
        try:
            net = nc.prepare(net, config)
            for batch in batches(model, inputs, size=_BATCH, rows=settings.rows):
                net(*(torch.from_numpy(np.ascontiguousarray(batch[n])) for n in module.inputs))
            with little_garbage():
                net = nc.convert(net)
        except FAILURES as error:
            raise failed(error) from error
    layers = module.layers
    return {name: _read(layers[key].qk, layers[key].scales) for name, key in keys.items()}


def _rtn(
    layers: Mapping[str, LinearLayer],
    model: ModelProto,
    blocks: Mapping[str, int],
    settings: WeightSettings,
) -> dict[str, Read]:
    nc, held = library(), initializers(model)
    net, scales = nn.ModuleDict(), {}
    for index, (name, layer) in enumerate(layers.items()):
        matrix = layer.matrix(numpy_helper.to_array(held[name]))
        weight = torch.from_numpy(np.array(matrix.reshape(-1, matrix.shape[2])))
        scales[name] = row_scales(weight)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.copy_(weight / scales[name][:, None])
        net[str(index)] = linear
    keys = dict(zip(layers, net, strict=True))
    config = _config(nc.RTNConfig, {keys[name]: blocks[name] for name in layers}, settings)
    try:
        net = nc.convert(nc.prepare(net, config))
    except FAILURES as error:
        raise failed(error) from error
    return {name: _read(net[key], scales[name]) for name, key in keys.items()}


def _read(layer: Any, rows: torch.Tensor) -> Read:
    """Read the integers out of a quantized layer; ``rows`` are the powers of two it was given."""
    parts = layer.unpack()
    scales = parts["scales"].float() * rows[:, None]
    return tuple(
        part.numpy().astype(np.float64) for part in (parts["int_weight"], scales, parts["zp"])
    )


def _integers(read: Read, layer: LinearLayer, weight: Any, block: int, kind: int) -> Integers:
    """Bring what was read into the tensor's own shape."""
    shape = tuple(weight.tensor.dims)
    symbols, scales, zeros = read
    inputs = symbols.shape[1]

    def stored(values: np.ndarray) -> np.ndarray:
        wide = np.repeat(values, block or inputs, axis=1) if values is not symbols else values
        wide = wide[:, :inputs]  # the last block may be shorter
        return layer.stored(wide.reshape(layer.groups, -1, inputs), shape)

    return Integers(
        stored(symbols), stored(scales), channel_axis(weight), kind, block, stored(zeros)
    )


def _notes(
    kept: Mapping[str, str], blocks: Mapping[str, int], settings: WeightSettings
) -> tuple[str, ...]:
    notes = [f"stays in float: {name} {why}" for name, why in sorted(kept.items())]
    whole = [name for name, block in blocks.items() if settings.group_size and not block]
    if whole:
        notes.append(
            f"one scale per output, where groups of {settings.group_size} inputs are not possible: "
            f"{', '.join(whole)}"
        )
    return tuple(notes)
