"""Removes channels and hidden units that training or pruning left without a use.

A unit that no weight reads goes as it is. One that gives the same for every input, because all its
incoming weights are zero, first hands what it gives to the biases of the layers that read it.
"""

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress.techniques.base import Context
from mlflow_compress.techniques.channels.operators import HANDLERS
from mlflow_compress.techniques.channels.tracker import Channels, find_channels, own_tensors
from mlflow_compress.techniques.fitting.stream import Stream
from mlflow_compress.techniques.fold.onnx import share_duplicates
from mlflow_compress.techniques.graph.layers import LinearLayer, add_biases, linear_layers
from mlflow_compress.techniques.graph.running import probe
from mlflow_compress.techniques.graph.walk import clone, initializers, set_initializer
from mlflow_compress.techniques.shrink.onnx import without

__all__ = ["without_dead_units"]

_ROUNDS = 100
"""A unit that goes may leave others without a use; as many layers as that are followed."""


def without_dead_units(model: ModelProto, context: Context) -> tuple[ModelProto, str]:
    """Return the model without units that do nothing, and a sentence on how many went."""
    made = clone(model)
    own_tensors(made)
    gone = 0
    for _ in range(_ROUNDS):
        channels = find_channels(made, HANDLERS)
        _fold_constant_units(made, channels, context)
        removed = _unread(made, channels)
        if not removed.size:
            break
        made = without(made, channels, removed)
        gone += removed.size
    if not gone:
        return clone(model), "no unit is without a use"
    return share_duplicates(made), f"removed {gone} units without a use"


def _unread(model: ModelProto, channels: Channels) -> np.ndarray:
    """Return the free channels that only zeros read; one of each group stays."""
    held = initializers(model)
    read = [np.zeros(0, np.int64)]
    for name, axis in channels.readers.items():
        read.append(channels.tensors[name][axis][_any_along(held[name], axis)])
    alive = np.unique(np.concatenate(read))
    removed = []
    for group in channels.free:
        dead = group.channels[~np.isin(group.channels, alive)]
        removed.append(dead[:-1] if len(dead) == len(group.channels) else dead)
    return np.concatenate(removed) if removed else np.zeros(0, np.int64)


def _fold_constant_units(model: ModelProto, channels: Channels, context: Context) -> None:
    """Let biases take over what units with no incoming weights give, in place."""
    constant = _without_inputs(model, channels)
    held = initializers(model)
    readers = {
        name
        for name, axis in channels.readers.items()
        if (np.isin(channels.tensors[name][axis], constant) & _any_along(held[name], axis)).any()
    }
    if not readers:
        return
    add_biases(model, readers)
    held = initializers(model)
    stream = Stream(model, [probe(model, context.calibration, context.seed)])
    for layer in linear_layers(model):
        if layer.weight in readers and layer.bias is not None:
            axis = channels.readers[layer.weight]
            numbers = channels.tensors[layer.weight][axis]
            _move_into_bias(model, layer, np.isin(numbers, constant), axis, stream)


def _without_inputs(model: ModelProto, channels: Channels) -> np.ndarray:
    """Return the free channels that only zeros make."""
    held = initializers(model)
    made = [np.zeros(0, np.int64)]
    for name, axis in channels.makers.items():
        made.append(channels.tensors[name][axis][_any_along(held[name], axis)])
    fed = np.unique(np.concatenate(made))
    free = np.concatenate([np.zeros(0, np.int64), *(group.channels for group in channels.free)])
    return np.asarray(free[~np.isin(free, fed)])


def _move_into_bias(
    model: ModelProto, layer: LinearLayer, chosen: np.ndarray, axis: int, stream: Stream
) -> None:
    """Move a layer's inputs that are the same everywhere into its bias, and read zeros instead."""
    held = initializers(model)
    array = numpy_helper.to_array(held[layer.weight])
    spread = np.broadcast_to(chosen.reshape([-1 if k == axis else 1 for k in range(array.ndim)]),
                             array.shape)  # fmt: skip
    matrix = layer.matrix(array).astype(np.float64)
    (activation,) = stream.values(layer.source)
    every = layer.choose(activation, array.shape, activation.size, np.random.default_rng(0))
    rows = layer.rows(activation, array.shape, every)
    # at a padded border a constant is none
    steady = layer.matrix(spread)[:, 0] & (rows.min(1) == rows.max(1))
    bias = numpy_helper.to_array(held[str(layer.bias)])
    moved = np.einsum("goi,gi->go", matrix, np.where(steady, rows[:, 0], 0))
    set_initializer(held[str(layer.bias)], (bias + moved.reshape(bias.shape)).astype(bias.dtype))
    left = np.where(steady[:, None, :], 0, matrix).astype(array.dtype)
    set_initializer(held[layer.weight], layer.stored(left, array.shape))


def _any_along(tensor: TensorProto, axis: int) -> np.ndarray:
    """Return for each position along an axis whether anything there is not zero."""
    array = numpy_helper.to_array(tensor)
    return np.asarray((array != 0).any(axis=tuple(k for k in range(array.ndim) if k != axis)))
