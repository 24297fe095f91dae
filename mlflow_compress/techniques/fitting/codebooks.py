"""Least squares against the source's activations, for weights that are free and for shared ones.

Of a layer whose weights share a few values, only the values are refitted: which weight has which
one stays, so that the layer codes to as many bits as before. The optimum of a codebook for fixed
assignments is the solution of a linear system with one unknown per value (Stock et al., "And the
Bit Goes Down", ICLR 2020, section 3, the update step, with the asymmetric inputs of GPTAQ).
"""

import numpy as np
from onnx import numpy_helper

from mlflow_compress.techniques.fitting.least_squares import (
    MAX_INPUTS,
    Moments,
    Pair,
    layer_moments,
    refit_layer,
    refit_offsets,
)
from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.walk import initializers, set_initializer

__all__ = ["refit_codebook", "refit_weights"]

_SHARES = 4
"""Weights share values when there are at least so many of them to each value."""

_MOST = 1024
"""Codebooks with more values are left alone: the system grows with their square."""

_WORK = 4_000_000_000
"""Above so many products per layer, the system is summed over some of the outputs only."""

_RIDGE = 1e-4


def refit_weights(pair: Pair, seed: int) -> tuple[int, list[str]]:
    """Refit the changed model's layers in the order in which they run, in place.

    Returns:
        How many layers were refitted, and notes.
    """
    before, count = initializers(pair.dense.model), 0
    for layer in linear_layers(pair.changed.model):
        tensor = initializers(pair.changed.model)[layer.weight]
        old = before.get(layer.weight)
        if old is None or list(old.dims) != list(tensor.dims) or not _known(pair, layer.source):
            continue
        matrix = layer.matrix(numpy_helper.to_array(tensor)).astype(np.float64)
        values = np.unique(matrix[matrix != 0])
        shared = matrix.size >= _SHARES * len(values)
        if matrix.shape[2] > MAX_INPUTS or (shared and len(values) > _MOST):
            continue
        fit, judge = layer_moments(pair, layer, seed)
        if shared:
            start = _bias(pair, layer)
            made = refit_codebook(matrix, values, fit, judge, free=start is not None)
            set_initializer(tensor, layer.stored(made, tuple(tensor.dims)))
            refit_offsets(pair.changed.model, layer, fit + judge, start)
        else:
            refit_layer(pair.changed.model, layer, matrix != 0, fit, judge)
        count += 1
    return count, []


def refit_codebook(
    matrix: np.ndarray, values: np.ndarray, fit: Moments, judge: Moments, *, free: bool
) -> np.ndarray:
    """Return the matrix with its values, other than zero, refitted where that helps.

    Args:
        matrix: [groups, outputs, inputs].
        values: its different values without zero, ascending.
        fit: moments of the inputs with the outputs wanted.
        judge: the same of rows that judge; of none, the refit is taken.
        free: whether each output's offset is free, to be set afterwards.
    """
    if not len(values):
        return matrix
    labels = np.where(matrix == 0, -1, np.searchsorted(values, matrix))
    solved = _solve(_system(labels, len(values), fit, free), values)
    if judge.count:
        system = _system(labels, len(values), judge, free)
        if not _error(system, solved) < _error(system, values):
            return matrix
        solved = _solve(_system(labels, len(values), fit + judge, free), values)
    return np.where(labels < 0, 0.0, solved[np.maximum(labels, 0)])


System = tuple[np.ndarray, np.ndarray]


def _system(labels: np.ndarray, count: int, moments: Moments, free: bool) -> System:
    """Return the normal equations of the values: [values, values] and [values]."""
    left, right = np.zeros((count, count)), np.zeros(count)
    groups, outputs, width = labels.shape
    some = max(1, min(outputs, _WORK // max(width * width * groups, 1)))
    chosen = np.unique(np.linspace(0, outputs - 1, some).astype(int))
    for group in range(groups):
        gram, cross = _products(moments, group, free)
        for output in chosen:
            row = labels[group, output]
            held = np.flatnonzero(row >= 0)
            order = held[np.argsort(row[held], kind="stable")]
            if not order.size:
                continue
            present, starts = np.unique(row[order], return_index=True)
            part = np.add.reduceat(gram[np.ix_(order, order)], starts, axis=0)
            left[np.ix_(present, present)] += np.add.reduceat(part, starts, axis=1)
            right[present] += np.add.reduceat(cross[order, output], starts)
    return left, right


def _products(moments: Moments, group: int, free: bool) -> System:
    """Return a group's moments, with every output's best offset taken out when it is free."""
    gram, cross = moments.gram[group], moments.cross[group]
    if not free:
        return gram[:-1, :-1], cross[:-1]
    sums, count = gram[-1, :-1], max(gram[-1, -1], 1.0)
    return (
        gram[:-1, :-1] - np.outer(sums, sums) / count,
        cross[:-1] - np.outer(sums, cross[-1]) / count,
    )


def _solve(system: System, values: np.ndarray) -> np.ndarray:
    left, right = system
    ridge = _RIDGE * np.trace(left) / len(values) + 1e-12
    solved: np.ndarray = np.linalg.solve(left + ridge * np.eye(len(values)), right + ridge * values)
    return solved


def _error(system: System, values: np.ndarray) -> float:
    left, right = system
    return float(values @ left @ values - 2 * values @ right)


def _bias(pair: Pair, layer: LinearLayer) -> np.ndarray | None:
    if layer.bias is None:
        return None
    return np.array(numpy_helper.to_array(initializers(pair.changed.model)[layer.bias]))


def _known(pair: Pair, value: str) -> bool:
    """Whether both models compute a value of this name."""
    return pair.dense.has(value) and pair.changed.has(value)
