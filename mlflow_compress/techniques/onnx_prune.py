"""Magnitude pruning of ONNX weights.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, section 3.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.onnx_graph import Weight, clone, float_weights, set_initializer
from mlflow_compress.techniques.prune import PruneSettings

__all__ = ["keep_masks", "prunable", "prune"]

_TINY = 64
"""Tensors with fewer weights are left alone: they are no bytes, and each weight matters."""


def prune(model: ModelProto, settings: PruneSettings, context: Context) -> Result:
    """Set the least important weights to zero.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: the model has no float weights to prune.
    """
    model = clone(model)
    weights = prunable(model, settings.exclude)
    arrays = [weight.array() for weight in weights]
    scores = [np.abs(array.astype(np.float32)) for array in arrays]
    masks = keep_masks(scores, settings.sparsity, settings.scope)
    for weight, array, mask in zip(weights, arrays, masks, strict=True):
        set_initializer(weight.tensor, np.where(mask, array, np.zeros_like(array)))
    return Result(model)


def prunable(model: ModelProto, exclude: Sequence[str] = ()) -> list[Weight]:
    """Return the weights that pruning works on.

    Raises:
        ConfigError: ``exclude`` names a tensor that is not among them.
        TechniqueError: there are none.
    """
    weights = float_weights(model, min_size=_TINY)
    known = [weight.name for weight in weights]
    for name in exclude:
        if name not in known:
            raise ConfigError(f"prune.exclude: {name!r} is no weight tensor{closest(name, known)}")
    weights = [weight for weight in weights if weight.name not in exclude]
    if not weights:
        raise TechniqueError(
            f"there is nothing to prune: no float weights of Conv, Gemm, MatMul, LSTM or GRU with "
            f"at least {_TINY} elements (is the model quantized already?)"
        )
    return weights


def keep_masks(scores: Sequence[np.ndarray], sparsity: float, scope: str) -> list[np.ndarray]:
    """Return masks (True is kept) that drop the lowest scores.

    Args:
        scores: importance of each weight, one array per tensor, higher is kept.
        sparsity: share to drop; the number dropped is rounded to the nearest whole number.
        scope: ``global`` ranks all tensors together, ``layer`` each by itself.

    Returns:
        One boolean array per tensor. Ties are broken by position, so that equal scores give the
        exact count and the same mask every time.
    """
    if scope == "layer":
        return [_keep(score.ravel(), sparsity).reshape(score.shape) for score in scores]
    flat = _keep(np.concatenate([score.ravel() for score in scores]), sparsity)
    ends = np.cumsum([score.size for score in scores])[:-1]
    parts = np.split(flat, ends)
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def _keep(score: np.ndarray, sparsity: float) -> np.ndarray:
    drop = round(sparsity * score.size)
    keep = np.ones(score.size, bool)
    keep[np.argsort(score, kind="stable")[:drop]] = False
    return keep
