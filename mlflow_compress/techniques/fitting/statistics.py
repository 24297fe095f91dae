"""Means and spreads of activations, matched to the source's channel by channel.

Biases: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019, section 4.2, with means taken from calibration rows. BatchNormalization: the statistics of
the changed network's activations take the place of the trained ones (Sun et al., "Hybrid 8-bit
Floating Point Training and Inference", 2019, section 3), so that the outputs have the source's
mean and standard deviation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from mlflow_compress.techniques.fitting.least_squares import Pair
from mlflow_compress.techniques.graph.walk import (
    FLOATS,
    Use,
    attributes_of,
    initializers,
    set_initializer,
    uses,
)

__all__ = ["Offset", "match_biases", "match_norms", "offsets"]

_NARROWEST, _WIDEST = 0.25, 4.0
"""A channel's spread is scaled by no less and no more: beyond that it is noise or dead."""


@dataclass(frozen=True)
class Offset:
    """Values that are added to a layer's output, one per channel.

    Attributes:
        value: the output with them added; where it is quantized, what the DequantizeLinear makes
            of it, because onnxruntime leaves a Relu to the quantization.
        wanted: the value of the source that it stands for.
        axis: the output's axis that they lie along, counted from the front (1) or the end (-1).
        tensor: the initializer that holds them: floats, or the int32 that a DequantizeLinear reads.
        scale: the initializer with that DequantizeLinear's scales, or None.
    """

    value: str
    wanted: str
    axis: int
    tensor: str
    scale: str | None = None


def match_biases(pair: Pair, seed: int) -> tuple[int, list[str]]:
    """Move each bias so that its channel's mean output is the dense model's, in place.

    Returns:
        How many biases were moved, and no notes.
    """
    del seed
    model, count = pair.changed.model, 0
    held = initializers(model)
    for offset in offsets(model):
        moments = _both(pair, offset.wanted, offset.value, offset.axis)
        if moments is None:
            continue
        (wanted, _), (now, _) = moments
        tensor = held[offset.tensor]
        array = numpy_helper.to_array(tensor)
        if array.size != wanted.size:  # one number for all channels
            continue
        shift = (wanted - now).reshape(array.shape)
        if offset.scale is None:
            set_initializer(tensor, array + shift)
        else:
            step = numpy_helper.to_array(held[offset.scale]).astype(np.float64)
            moved = array + np.rint(shift / step.reshape(-1 if step.size > 1 else ()))
            limits = np.iinfo(array.dtype)
            set_initializer(tensor, np.clip(moved, limits.min, limits.max))
        for value in (offset.value, offset.wanted):
            pair.changed.drop(value)
        count += 1
    return count, []


def match_norms(pair: Pair, seed: int) -> tuple[int, list[str]]:
    """Set each BatchNormalization's statistics so that its outputs match in mean and spread.

    Returns:
        How many were set, and no notes.
    """
    del seed
    model, count = pair.changed.model, 0
    held, where = initializers(model), uses(model)
    for node in model.graph.node:
        alone = all(name in held and len(where[name]) == 1 for name in node.input[3:5])
        if node.op_type != "BatchNormalization" or not alone or node.input[1] not in held:
            continue
        moments = _both(pair, node.output[0], node.output[0], 1)
        if moments is None:
            continue
        _set_norm(node, held, *moments)
        pair.changed.drop(node.output[0])
        count += 1
    return count, []


def offsets(model: ModelProto) -> Iterator[Offset]:
    """Yield the biases of the main graph's layers in the order in which they run."""
    graph = _Graph.of(model)
    for node in model.graph.node:
        offset = None
        if node.op_type in ("Conv", "ConvTranspose"):
            offset = graph.offset(node, 2, 1)
        elif node.op_type == "Gemm" and attributes_of(node).get("beta", 1) == 1:
            offset = graph.offset(node, 2, -1)
        elif node.op_type == "Add":
            makers = [graph.made_by.get(name) for name in node.input]
            at = next((i for i, m in enumerate(makers) if m and m.op_type == "MatMul"), None)
            offset = None if at is None else graph.offset(node, 1 - at, -1)
        if offset is not None:
            yield offset


@dataclass(frozen=True)
class _Graph:
    """Who makes and who reads the values of a graph."""

    held: dict[str, TensorProto]
    uses: dict[str, list[Use]]
    made_by: dict[str, NodeProto]
    outputs: set[str]

    @classmethod
    def of(cls, model: ModelProto) -> "_Graph":
        made_by = {name: node for node in model.graph.node for name in node.output if name}
        outputs = {value.name for value in model.graph.output}
        return cls(initializers(model), uses(model), made_by, outputs)

    def offset(self, node: NodeProto, index: int, axis: int) -> Offset | None:
        """Return a node's input as an offset, if it is one that nothing else reads."""
        name, scale = node.input[index] if len(node.input) > index else "", None
        maker = self.made_by.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            if len(self.uses[name]) != 1 or maker.input[1] not in self.held:
                return None
            name, scale = maker.input[0], maker.input[1]
        tensor = self.held.get(name)
        if tensor is None or len(self.uses[name]) != 1 or not tensor.dims:
            return None
        kinds = FLOATS if scale is None else (TensorProto.INT32,)
        if tensor.data_type not in kinds or math.prod(tensor.dims) != tensor.dims[-1]:
            return None
        return Offset(*self.seen(node.output[0]), axis, name, scale)

    def seen(self, value: str) -> tuple[str, str]:
        """Return what a value is after it was quantized, and its name in the source."""
        made = self._through(self._through(value, "QuantizeLinear"), "DequantizeLinear")
        if not made:
            return value, value
        return made, made if made in self.outputs else value

    def _through(self, value: str, op_type: str) -> str:
        """Return what the only reader of a value makes of it, if it is of this kind."""
        readers = self.uses.get(value, [])
        if len(readers) != 1 or readers[0].node.op_type != op_type:
            return ""
        return readers[0].node.output[0]


Stats = tuple[np.ndarray, np.ndarray]


def _both(pair: Pair, wanted: str, value: str, axis: int) -> tuple[Stats, Stats] | None:
    """Return the mean and standard deviation per channel of values of both models, dense first.

    None when one of them has no such value, or another number of channels.
    """
    if not (pair.dense.has(wanted) and pair.changed.has(value)):
        return None
    dense = _stats(pair.dense.values(wanted), axis)
    changed = _stats(pair.changed.values(value), axis)
    return (dense, changed) if dense[0].shape == changed[0].shape else None


def _stats(arrays: Iterator[np.ndarray], axis: int) -> Stats:
    total = square = 0.0
    count = 0
    for array in arrays:
        flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
        total = total + flat.sum(axis=1)
        square = square + (flat**2).sum(axis=1)
        count += flat.shape[1]
    mean = np.asarray(total) / max(count, 1)
    return mean, np.sqrt(np.maximum(np.asarray(square) / max(count, 1) - mean**2, 0))


def _set_norm(node: NodeProto, held: dict[str, TensorProto], dense: Stats, changed: Stats) -> None:
    """Rescale and shift a BatchNormalization through its mean and variance.

    With y = a (x - m) / s + b, an output with mean μ and deviation σ gets σ' from s' = s σ / σ'
    and μ' from m' = x̄ - (μ' - b) s' / a, where x̄ = m + (μ - b) s / a.
    """
    scale = numpy_helper.to_array(held[node.input[1]]).astype(np.float64)
    shift = numpy_helper.to_array(held[node.input[2]]).astype(np.float64)
    mean = numpy_helper.to_array(held[node.input[3]]).astype(np.float64)
    variance = numpy_helper.to_array(held[node.input[4]]).astype(np.float64)
    epsilon = attributes_of(node).get("epsilon", 1e-5)
    spread = np.sqrt(variance + epsilon)
    (wanted, wide), (now, narrow) = dense, changed
    safe = np.where(scale == 0, 1, scale)
    ratio = np.where(narrow > 0, narrow, 1) / np.where(wide > 0, wide, 1)
    usable = (scale != 0) & (wide > 0) & (narrow > 0)
    ratio = np.where(usable, np.clip(ratio, _NARROWEST, _WIDEST), 1)
    new = np.sqrt(np.maximum((spread * ratio) ** 2, epsilon))
    centre = mean + (now - shift) * spread / safe
    set_initializer(
        held[node.input[3]], np.where(usable, centre - (wanted - shift) * new / safe, mean)
    )
    set_initializer(held[node.input[4]], np.where(usable, new**2 - epsilon, variance))
