"""Rounds biases, so that the low bytes of float32 cost next to nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from mlflow_compress.techniques.fitting.least_squares import tapped
from mlflow_compress.techniques.graph.running import batches, run, session
from mlflow_compress.techniques.graph.walk import Use, initializers, set_initializer, uses

__all__ = ["round_biases"]

_BITS, _CAREFUL_BITS = 8, 16
"""Significant bits, and those where nothing is known of what biases are added to."""

_SEEN = 1e-4
"""A rounding error may have this share of the variance of what its bias is added to."""

_ROWS, _AT_ONCE = 8, 8

_ADDING = ("Add", "Conv", "ConvTranspose", "Gemm")


def round_biases(
    model: ModelProto, names: Collection[str], calibration: Mapping[str, np.ndarray]
) -> None:
    """Round biases to 8 significant bits, in place; what nobody would see, not the others.

    A number that is large beside what it is added to, as the mean of a pressure in pascal that a
    model adds last, keeps what it is.

    Args:
        model: the model.
        names: its initializers that are biases of layers, or vectors that are added.
        calibration: rows on which to see what they are added to; without any, and where a nested
            graph adds them, biases are rounded to 16 bits.
    """
    held, where = initializers(model), uses(model)
    inside = {node.output[0]: node for node in model.graph.node if node.output}
    spread = _spreads(model, _adding(names, where, inside), calibration) if calibration else {}
    for name in names:
        array = numpy_helper.to_array(held[name])
        known = calibration and all(use.node.output[0] in inside for use in where[name])
        rounded = _significant(array, _BITS if known else _CAREFUL_BITS)
        error = (rounded - array) ** 2
        seen = np.zeros(array.shape, bool)
        for use in where[name]:
            variance = spread.get(use.node.output[0])
            if variance is not None:
                seen |= error > _SEEN * _per_value(variance, array, use.node)
        set_initializer(held[name], np.where(seen, array, rounded))


def _adding(
    names: Iterable[str], where: Mapping[str, Sequence[Use]], inside: Mapping[str, NodeProto]
) -> dict[str, NodeProto]:
    """Return the main graph's nodes that add one of these biases, by their output."""
    return {
        use.node.output[0]: use.node
        for name in names
        for use in where[name]
        if use.node.op_type in _ADDING and use.node.output[0] in inside
    }


def _spreads(
    model: ModelProto, made: Mapping[str, NodeProto], calibration: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the variance over rows and places of each value that a bias is added to.

    Per place of the last axis, or of the second one behind a convolution.
    """
    fed = list(islice(batches(model, calibration, size=_ROWS, rows=_ROWS), _ROWS))
    found: dict[str, np.ndarray] = {}
    values = list(made)
    for first in range(0, len(values) if fed else 0, _AT_ONCE):
        some = values[first : first + _AT_ONCE]
        opened = session(tapped(model, some))
        calls = [run(opened, some, batch) for batch in fed]
        for name, arrays in zip(some, zip(*calls, strict=True), strict=True):
            found[name] = _variance(np.concatenate([_flat(a, made[name]) for a in arrays]))
    return found


def _flat(array: np.ndarray, node: NodeProto) -> np.ndarray:
    """Return values as [places, channels]."""
    if node.op_type in ("Conv", "ConvTranspose"):
        array = np.moveaxis(array, 1, -1)
    return array.astype(np.float64).reshape(-1, array.shape[-1] if array.ndim else 1)


def _variance(flat: np.ndarray) -> np.ndarray:
    """Return the variance of each column; of one that is constant, that of all."""
    if not flat.size:
        return np.zeros(flat.shape[1])
    variance = flat.var(axis=0)
    return np.where(variance > 0, variance, variance.mean())


def _per_value(variance: np.ndarray, bias: np.ndarray, node: NodeProto) -> np.ndarray:
    """Return the variance of what each value of a bias is added to, or the least of them."""
    if node.op_type == "Add" and bias.shape[-1:] != variance.shape:
        return np.full(bias.shape, variance.min(initial=np.inf))
    if bias.size == variance.size:
        return variance.reshape(bias.shape)
    return np.full(bias.shape, variance.min(initial=np.inf))


def _significant(array: np.ndarray, bits: int) -> np.ndarray:
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
