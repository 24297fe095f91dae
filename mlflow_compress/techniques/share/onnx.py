"""Weight sharing on ONNX: each tensor's values are replaced by those of a small codebook.

Han et al., "Deep Compression", 2016, section 3. The packed file finds the codebook by itself.
"""

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Result, closest
from mlflow_compress.techniques.graph.walk import (
    FLOATS,
    clone,
    float_weights,
    set_initializer,
    uses,
    why_no_weights,
)
from mlflow_compress.techniques.numeric.kmeans import cluster
from mlflow_compress.techniques.share.settings import ShareSettings

__all__ = ["bias_tensors", "embedding_tensors", "odd_embeddings", "share", "share_array", "stays"]

_ZERO_APART = 0.01
"""From this share of exact zeros on, a tensor counts as pruned and zero gets its own cluster."""

_BIAS_CLUSTERS = 32
"""Biases are few bytes and each one shifts a whole channel: they keep at least so many values."""

_BIAS_INPUTS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}


def share(model: ModelProto, settings: ShareSettings) -> Result:
    """Cluster every weight tensor (and bias) into ``clusters`` values.

    Raises:
        ConfigError: ``exclude`` names a tensor that is not shared anyway.
        TechniqueError: the model has no float weights.
    """
    model = clone(model)
    todo = dict(_tensors(model, settings))
    odd = odd_embeddings(model)
    for name in settings.exclude:
        if name not in todo and name not in odd:
            raise ConfigError(f"share.exclude: {name!r} is no weight tensor{closest(name, todo)}")
    for name, (tensor, clusters) in todo.items():
        if name not in settings.exclude:
            array = numpy_helper.to_array(tensor)
            set_initializer(tensor, share_array(array, clusters, settings.start))
    left = [name for name in odd if name not in settings.exclude]
    return Result(model, notes=tuple(map(stays, left)))


def share_array(array: np.ndarray, clusters: int, start: str = "auto") -> np.ndarray:
    """Return ``array`` with at most ``clusters`` different values; pruned zeros stay zeros."""
    values = array.astype(np.float64).ravel()
    if np.unique(values).size <= clusters:
        return array
    out = np.zeros_like(values)
    zeros = values == 0
    if zeros.mean() >= _ZERO_APART:
        rest = ~zeros
        out[rest] = cluster(values[rest], clusters - 1, start)
    else:
        out = cluster(values, clusters, start)
    return out.reshape(array.shape).astype(array.dtype)


def embedding_tensors(model: ModelProto) -> list[TensorProto]:
    """Return the float tables of two dimensions that Gather nodes look rows up in.

    Not those of :func:`odd_embeddings`.
    """
    odd = odd_embeddings(model)
    return [tensor for tensor in _embeddings(model) if tensor.name not in odd]


def odd_embeddings(model: ModelProto) -> list[str]:
    """Return the embeddings with values that are not finite, in rows that may never be read.

    Clustered or on one grid with them, no other value would stay what it is.
    """
    return [
        tensor.name
        for tensor in _embeddings(model)
        if not np.isfinite(numpy_helper.to_array(tensor).astype(np.float64)).all()
    ]


def stays(name: str) -> str:
    """Return the note of such an embedding."""
    return f"{name} has values that are not finite, and stays"


def _embeddings(model: ModelProto) -> list[TensorProto]:
    where = uses(model)
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type in FLOATS
        and len(tensor.dims) == 2
        and 0 not in tensor.dims
        and any(u.node.op_type == "Gather" and u.index == 0 for u in where.get(tensor.name, ()))
    ]


def bias_tensors(model: ModelProto) -> list[TensorProto]:
    """Return the float initializers that are a bias input, or a vector added by an Add node."""
    where = uses(model)
    found = []
    for tensor in model.graph.initializer:
        if tensor.data_type not in FLOATS:
            continue
        for use in where.get(tensor.name, ()):
            added = use.node.op_type == "Add" and max(tensor.dims, default=0) == _size(tensor)
            if added or _BIAS_INPUTS.get(use.node.op_type) == use.index:
                found.append(tensor)
                break
    return found


def _tensors(
    model: ModelProto, settings: ShareSettings
) -> Iterator[tuple[str, tuple[TensorProto, int]]]:
    weights = [weight.tensor for weight in float_weights(model)] + embedding_tensors(model)
    if not weights:
        raise TechniqueError(
            "there is nothing to share: no float weights of Conv, Gemm, MatMul, LSTM, GRU or "
            f"Gather ({why_no_weights(model)})"
        )
    for tensor in weights:
        yield tensor.name, (tensor, settings.clusters)
    if settings.biases:
        for tensor in bias_tensors(model):
            yield tensor.name, (tensor, max(settings.clusters, _BIAS_CLUSTERS))


def _size(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
