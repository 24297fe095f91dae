"""Entropy-constrained weight sharing on ONNX; the packed file spends about the entropy it aims at.

One price of a bit holds for the whole model: each layer's error counts relative to the energy of
its output, so that bits go where they help most (reverse water-filling).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.entropy_share.settings import EntropyShareSettings
from mlflow_compress.techniques.fitting.least_squares import refit_offsets
from mlflow_compress.techniques.fitting.rounding import round_biases
from mlflow_compress.techniques.fitting.scores import input_grams, sensitivity
from mlflow_compress.techniques.fitting.weights import LayerByLayer, Targets, refit_weights
from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.running import check_calibration
from mlflow_compress.techniques.graph.walk import (
    clone,
    float_weights,
    initializers,
    set_initializer,
    why_no_weights,
)
from mlflow_compress.techniques.numeric.rate import (
    Spread,
    choose_grid,
    entropy_bits,
    round_spread,
)
from mlflow_compress.techniques.share.onnx import (
    bias_tensors,
    embedding_tensors,
    odd_embeddings,
    stays,
)

__all__ = ["entropy_share"]

_PASSES = 2
"""Feedback passes per layer; each learns the code lengths of the one before."""

_WIDE, _BLOCK = 2560, 1024
"""The inputs of wider layers make up for each other's errors only within blocks of so many: the
work then grows with the square of the width, not its cube."""

_SAMPLE = 20_000
"""The price is searched for on so many weights per tensor."""

_TRIES, _CLOSE = 4, 0.05
"""With feedback the entropy is only known afterwards: so often the price is corrected, until the
entropy is within 5 % of what is aimed at."""

_SEARCH = 18
"""Halvings of the price's range, in powers of ten, to reach the bits that are aimed at."""


@dataclass(frozen=True)
class _Tensor:
    """A weight with what an error in it costs, relative to the layer's output.

    Attributes:
        matrix: [groups, outputs, inputs], or the tensor as it is.
        importance: error weights that broadcast to the matrix.
    """

    matrix: np.ndarray
    importance: np.ndarray


def entropy_share(model: ModelProto, settings: EntropyShareSettings, context: Context) -> Result:
    """Round every weight to a grid of its tensor so that error plus price of bits is least.

    Raises:
        ConfigError: ``exclude`` names a tensor that is not shared anyway.
        TechniqueError: the model has no float weights, or calibration inputs are missing.
    """
    inputs: Mapping[str, np.ndarray] = {}
    if settings.feedback:
        inputs = check_calibration(model, context.calibration)
    tensors = _tensors(model, settings, inputs, context.seed)
    price = _price(tensors, settings.bits)
    tries: list[tuple[float, ModelProto, float, float]] = []
    targets = Targets()
    for _ in range(_TRIES if inputs else 1):
        made = _shared(model, tensors, price, inputs, settings, context.seed, targets)
        bits = _spent(made, tensors)
        tries.append((abs(math.log(bits / settings.bits)), made, math.log(price), bits))
        if tries[-1][0] < _CLOSE:
            break
        price = _next_price(tries, settings.bits)
    _, made, _, bits = min(tries, key=lambda one: one[0])
    if settings.biases:
        names = [tensor.name for tensor in bias_tensors(made)]
        round_biases(made, [name for name in names if name not in settings.exclude], inputs)
    left = [name for name in odd_embeddings(model) if name not in settings.exclude]
    bits_said = f"the weights' entropy is {bits:.3f} bits each"
    return Result(made, notes=(bits_said, *map(stays, left)))


def _sample(entry: _Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return evenly spaced weights with their importance; enough to estimate the entropy."""
    stride = -(-entry.matrix.size // _SAMPLE)
    stride += stride % 2 == 0 and stride > 1  # odd, so as not to hit the same column every time
    importance = np.broadcast_to(entry.importance, entry.matrix.shape)
    return entry.matrix.ravel()[::stride], importance.ravel()[::stride]


def _shared(
    model: ModelProto,
    tensors: Mapping[str, _Tensor],
    price: float,
    inputs: Mapping[str, np.ndarray],
    settings: EntropyShareSettings,
    seed: int,
    targets: Targets,
) -> ModelProto:
    """Round all tensors at one price of a bit."""
    made = clone(model)
    layers = [x for x in linear_layers(made) if inputs and x.weight in tensors]
    fed = {layer.weight for layer in layers}
    for name, entry in tensors.items():
        if name not in fed:
            tensor = initializers(made)[name]
            grid, symbols = choose_grid(entry.matrix, entry.importance, price)
            set_initializer(tensor, (grid.step * symbols).reshape(tuple(tensor.dims)))
    # in running order, so that each layer sees what the ones before it have become
    if layers:
        steps = LayerByLayer(
            model, made, layers, inputs, rows=settings.rows, seed=seed, targets=targets
        )
    for layer in layers:
        array = numpy_helper.to_array(initializers(made)[layer.weight])
        if layer.matrix(array).shape[-1] > _WIDE:
            _share_wide_layer(made, layer, price, steps)
        else:
            _share_layer(made, layer, price, steps)
    return made


def _spent(model: ModelProto, tensors: Mapping[str, _Tensor]) -> float:
    """Return the entropy of the weights in bits each, never quite zero."""
    bits, total = 0.0, 0
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            counts = np.unique(numpy_helper.to_array(tensor), return_counts=True)[1]
            bits -= float((counts * np.log2(counts / counts.sum())).sum())
            total += int(counts.sum())
    return max(bits / total, 1e-6)


def _next_price(tries: list[tuple[float, ModelProto, float, float]], bits: float) -> float:
    """Extrapolate the price from the entropies reached so far (a secant in logarithms)."""
    _, _, price, reached = tries[-1]
    slope = -0.5  # how the logarithm of the bits changes with that of the price, roughly
    if len(tries) > 1:
        _, _, before, then = tries[-2]
        run, rise = price - before, math.log(reached / then)
        slope = min(rise / run, -0.1) if run else slope
    step = math.log(bits / reached) / slope
    return math.exp(price + min(max(step, -7.0), 7.0))


def _tensors(
    model: ModelProto,
    settings: EntropyShareSettings,
    inputs: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, _Tensor]:
    held = [weight.tensor for weight in float_weights(model)] + embedding_tensors(model)
    if not held:
        raise TechniqueError(
            "there is nothing to share: no float weights of Conv, Gemm, MatMul, LSTM, GRU or "
            f"Gather ({why_no_weights(model)})"
        )
    names = [*(tensor.name for tensor in held), *odd_embeddings(model)]
    for name in settings.exclude:
        if name not in names:
            raise ConfigError(
                f"entropy_share.exclude: {name!r} is no weight tensor{closest(name, names)}"
            )
    found = {}
    for tensor in held:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        energy = max(float((array**2).sum()), 1e-30)
        if tensor.name not in settings.exclude:
            found[tensor.name] = _Tensor(array, np.array(1 / energy))
    layers = [layer for layer in linear_layers(model) if layer.weight in found]
    if inputs:
        for layer, grams in input_grams(model, layers, inputs, rows=settings.rows, seed=seed):
            matrix = layer.matrix(found[layer.weight].matrix)
            energy = max(float(((matrix @ grams) * matrix).sum()), 1e-30)
            scale = np.stack([sensitivity(gram, "obs") for gram in grams])
            found[layer.weight] = _Tensor(matrix, scale[:, None] / energy)
    return found


def _price(tensors: Mapping[str, _Tensor], bits: float) -> float:
    """Find the price of a bit at which the weights spend ``bits`` each on average."""
    total = sum(entry.matrix.size for entry in tensors.values())
    samples = [(entry.matrix.size, *_sample(entry)) for entry in tensors.values()]

    def spent(price: float) -> float:
        bits = 0.0
        for size, matrix, importance in samples:
            bits += entropy_bits(choose_grid(matrix, importance, price)[1]) * size / matrix.size
        return bits / total

    low, high = -14.0, 0.0  # powers of ten; the cheaper a bit, the more are spent
    for _ in range(_SEARCH):
        middle = (low + high) / 2
        if spent(10**middle) > bits:
            low = middle
        else:
            high = middle
    return float(10**high)


def _share_layer(made: ModelProto, layer: LinearLayer, price: float, steps: LayerByLayer) -> None:
    """Refit one layer to the inputs it now gets, then round it with feedback, in place."""
    tensor = initializers(made)[layer.weight]
    start = None
    if layer.bias is not None:
        start = np.array(numpy_helper.to_array(initializers(made)[layer.bias]))
    fit, judge = steps.moments(layer)
    refit_weights(made, layer, fit, judge)
    matrix = layer.matrix(numpy_helper.to_array(tensor)).astype(np.float64)
    grams = (fit + judge).gram[:, :-1, :-1]
    energy = max(float(((matrix @ grams) * matrix).sum()), 1e-30)
    spread = Spread.of(grams)
    importance = spread.sensitivity[:, None] / energy
    grid, symbols = choose_grid(matrix, importance, price)
    for _ in range(_PASSES):
        grid = grid.learnt(symbols)
        symbols = round_spread(matrix, spread, energy, grid, price)
    set_initializer(tensor, layer.stored(grid.step * symbols, tuple(tensor.dims)))
    refit_offsets(made, layer, fit + judge, start)


def _share_wide_layer(
    made: ModelProto, layer: LinearLayer, price: float, steps: LayerByLayer
) -> None:
    """Round a layer whose Gram matrix would be too large with feedback within blocks of inputs."""
    held = initializers(made)
    tensor = held[layer.weight]
    matrix = layer.matrix(numpy_helper.to_array(tensor)).astype(np.float64)
    groups, outputs, width = matrix.shape
    grams, means, wanted = steps.block_grams(layer, _BLOCK)
    blocks = len(grams) // groups
    padded = np.zeros((groups, outputs, blocks * _BLOCK))
    padded[..., :width] = matrix
    parts = padded.reshape(groups, outputs, blocks, _BLOCK).transpose(0, 2, 1, 3)
    parts = np.ascontiguousarray(parts.reshape(groups * blocks, outputs, _BLOCK))
    energy = max(float(((parts @ grams) * parts).sum()), 1e-30)
    spread = Spread.of(grams)
    grid, symbols = choose_grid(parts, spread.sensitivity[:, None] / energy, price)
    for _ in range(_PASSES):
        grid = grid.learnt(symbols)
        symbols = round_spread(parts, spread, energy, grid, price)
    symbols = symbols.reshape(groups, blocks, outputs, _BLOCK).transpose(0, 2, 1, 3)
    rounded = grid.step * symbols.reshape(groups, outputs, -1)[..., :width]
    set_initializer(tensor, layer.stored(rounded, tuple(tensor.dims)))
    if layer.bias is not None:
        bias = np.array(numpy_helper.to_array(held[layer.bias]), np.float64)
        shift = wanted - (rounded @ means[..., None])[..., 0]
        set_initializer(held[layer.bias], bias + shift.reshape(bias.shape))
