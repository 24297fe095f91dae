"""How much each weight matters: scores that pruning ranks weights by.

``magnitude`` is the absolute value. The other two estimate, from calibration inputs, by which
share of its energy a layer's output changes when the weight goes, so that layers compare with
each other: ``wanda`` from the input's mean square (Sun et al., "A Simple and Effective Pruning
Approach for Large Language Models", 2024, section 3), ``obs`` from the inverse Gram matrix, which
knows that correlated inputs stand in for each other (Hassibi and Stork, "Optimal Brain Surgeon",
1993, equation 5).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress.rows import ROOM, bytes_of_values
from mlflow_compress.techniques.fitting.least_squares import MAX_INPUTS, row_share, tapped
from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.running import as_rows, batches, run, session
from mlflow_compress.techniques.graph.walk import Weight, initializers
from mlflow_compress.techniques.numeric.algebra import inverse, ridge, root

__all__ = ["importance", "input_grams", "sensitivity"]

_GROUP_BYTES = 1 << 29

_DAMPING = 1e-2
"""Added to the Gram matrix before it is inverted, relative to its mean diagonal."""


def importance(
    current: ModelProto,
    weights: Sequence[Weight],
    method: str,
    inputs: Mapping[str, np.ndarray],
    *,
    rows: int,
    seed: int,
) -> list[np.ndarray]:
    """Return one array of scores per weight tensor, in its shape; higher matters more.

    Tensors that are no linear layer of the main graph, or too wide a one, are scored as if their
    inputs were independent and alike.

    Args:
        current: the model as far as it is pruned, whose weights are scored.
        weights: the current model's weight tensors.
        method: ``magnitude``, ``wanda`` or ``obs``.
        inputs: calibration inputs by name; unused for ``magnitude``.
        rows: at most so many rows are run.
        seed: draws the places of convolutions.
    """
    arrays = {weight.name: weight.array().astype(np.float64) for weight in weights}
    if method == "magnitude":
        return [np.abs(array) for array in arrays.values()]
    scores = {name: array**2 / max(float((array**2).sum()), 1e-30) for name, array in
              arrays.items()}  # fmt: skip
    layers = [layer for layer in linear_layers(current) if layer.weight in arrays]
    for layer, grams in input_grams(current, layers, inputs, rows=rows, seed=seed):
        array = arrays[layer.weight]
        matrix = layer.matrix(array)
        energy = max(float(((matrix @ grams) * matrix).sum()), 1e-30)
        scale = np.stack([sensitivity(gram, method) for gram in grams])
        scores[layer.weight] = layer.stored(matrix**2 * scale[:, None] / energy, array.shape)
    return list(scores.values())


def input_grams(
    model: ModelProto,
    layers: Sequence[LinearLayer],
    inputs: Mapping[str, np.ndarray],
    *,
    rows: int,
    seed: int,
    centred: bool = False,
) -> Iterator[tuple[LinearLayer, np.ndarray]]:
    """Yield each layer with the sums of x xᵀ over its input rows, [groups, inputs, inputs].

    The model runs once for as many layers as fit into half a gigabyte; layers with too many
    inputs are left out. With ``centred``, the mean is taken from the inputs of layers that have
    a bias, which can stand in for it.
    """
    held = initializers(model)
    shapes = {x.weight: x.matrix(numpy_helper.to_array(held[x.weight])).shape for x in layers}
    group: list[LinearLayer] = []
    left = _GROUP_BYTES
    for layer in layers:
        groups, _, width = shapes[layer.weight]
        if width > MAX_INPUTS:
            continue
        size = 8 * groups * width**2
        if group and size > left:
            yield from _grams_of(model, group, shapes, inputs, rows, seed, centred)
            group, left = [], _GROUP_BYTES
        group.append(layer)
        left -= size
    if group:
        yield from _grams_of(model, group, shapes, inputs, rows, seed, centred)


def _grams_of(
    model: ModelProto,
    layers: Sequence[LinearLayer],
    shapes: Mapping[str, tuple[int, ...]],
    inputs: Mapping[str, np.ndarray],
    rows: int,
    seed: int,
    centred: bool,
) -> Iterator[tuple[LinearLayer, np.ndarray]]:
    given = {value.name for value in model.graph.input}
    names = list(dict.fromkeys(x.source for x in layers if x.source not in given))
    opened = session(tapped(model, names)) if names else None
    kernels = {name: tuple(tensor.dims) for name, tensor in initializers(model).items()}
    sums = [np.zeros((shapes[x.weight][0], *[shapes[x.weight][2]] * 2)) for x in layers]
    totals = [np.zeros(gram.shape[:2]) for gram in sums]
    counts = [0] * len(sums)
    inputs = as_rows(model, inputs)
    total = min(rows, inputs.count)
    room = sum(bytes_of_values(model, inputs).get(name, 0) for name in names)
    size = max(1, min(64, total, 2 * ROOM // max(1, room)))
    rng = np.random.default_rng(seed)
    for batch in batches(model, inputs, size=size, rows=rows):
        values = dict(batch)
        if opened is not None:
            values |= dict(zip(names, run(opened, names, batch), strict=True))
        for index, (layer, gram) in enumerate(zip(layers, sums, strict=True)):
            value, kernel = values[layer.source], kernels[layer.weight]
            limit = row_share(gram.shape[1], size, total)
            x = layer.rows(value, kernel, layer.choose(value, kernel, limit, rng))
            x = x.astype(np.float32)
            gram += x.transpose(0, 2, 1) @ x
            totals[index] += x.sum(axis=1, dtype=np.float64)
            counts[index] += x.shape[1]
    for layer, gram, total_x, count in zip(layers, sums, totals, counts, strict=True):
        if centred and layer.bias is not None:
            gram -= total_x[:, :, None] * total_x[:, None] / max(count, 1)
    yield from zip(layers, sums, strict=True)


def sensitivity(gram: np.ndarray, method: str) -> np.ndarray:
    """Return by how much the squared error grows per squared weight removed, [inputs]."""
    if method == "wanda":
        return np.asarray(np.diag(gram) + ridge(gram, _DAMPING))
    lower, _ = root(gram, _DAMPING)
    return np.asarray(1 / np.diag(inverse(lower)))
