"""How much each weight matters: scores that pruning ranks weights by.

``magnitude`` is the absolute value. The other two estimate, from calibration inputs, by which
share of its energy a layer's output changes when the weight goes, so that layers compare with
each other: ``wanda`` from the input's mean square (Sun et al., "A Simple and Effective Pruning
Approach for Large Language Models", 2024, section 3), ``obs`` from the inverse Gram matrix, which
knows that correlated inputs stand in for each other (Hassibi and Stork, "Optimal Brain Surgeon",
1993, equation 5).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto
from scipy import linalg

from mlflow_compress.techniques.onnx_graph import Weight
from mlflow_compress.techniques.onnx_layers import linear_layers
from mlflow_compress.techniques.onnx_repair import MAX_INPUTS, layer_moments

__all__ = ["importance"]

_DAMPING = 1e-2
"""Added to the Gram matrix before it is inverted, relative to its mean diagonal."""


def importance(
    dense: ModelProto,
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
        dense: the model before pruning.
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
    for layer in linear_layers(current):
        if layer.weight not in arrays:
            continue
        array = arrays[layer.weight]
        matrix = layer.matrix(array)
        if matrix.shape[2] > MAX_INPUTS:
            continue
        fit, judge = layer_moments(dense, current, layer, inputs, rows=rows, seed=seed)
        grams = (fit + judge).gram[:, :-1, :-1]
        energy = max(float(((matrix @ grams) * matrix).sum()), 1e-30)
        scale = np.stack([_sensitivity(gram, method) for gram in grams])
        scores[layer.weight] = layer.stored(matrix**2 * scale[:, None] / energy, array.shape)
    return list(scores.values())


def _sensitivity(gram: np.ndarray, method: str) -> np.ndarray:
    """Return by how much the squared error grows per squared weight removed, [inputs]."""
    damped = gram + (_DAMPING * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
    if method == "wanda":
        return np.diag(damped)
    inverse = linalg.lapack.dpotri(linalg.cholesky(damped, lower=True), lower=1)[0]
    return 1 / np.diag(inverse)
