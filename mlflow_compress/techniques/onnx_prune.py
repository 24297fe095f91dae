"""Magnitude pruning of ONNX weights.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, section 3.
"""

import math
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.onnx_graph import Weight, clone, float_weights, set_initializer
from mlflow_compress.techniques.onnx_repair import repair
from mlflow_compress.techniques.onnx_run import check_calibration
from mlflow_compress.techniques.prune import PruneSettings

__all__ = ["keep_masks", "prunable", "prune", "schedule"]

_TINY = 64
"""Tensors with fewer weights are left alone: they are no bytes, and each weight matters."""


def prune(model: ModelProto, settings: PruneSettings, context: Context) -> Result:
    """Set the least important weights to zero, and repair what is kept if asked to.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: the model has no float weights to prune, or the repair lacks calibration
            inputs.
    """
    if not settings.repair:
        return Result(_masked(model, settings, settings.sparsity)[0])
    inputs = check_calibration(model, context.calibration)
    made = model
    notes: tuple[str, ...] = ()
    for sparsity in schedule(settings.sparsity, settings.steps):
        made, masks = _masked(made, settings, sparsity)
        made, notes = repair(model, made, masks, inputs, rows=settings.rows, seed=context.seed)
    return Result(made, notes=notes)


def schedule(sparsity: float, steps: int) -> list[float]:
    """Return the sparsities to prune to, one after the other, the last being ``sparsity``.

    Each step drops the same share of the weights that are left. With ``steps`` 0 a step leaves
    about a third of them: one step up to 67 % sparsity, three at 95 %, four at 98 %.
    """
    left = 1 - sparsity
    if steps == 0:
        steps = max(1, round(math.log(max(left, 1e-3)) / math.log(1 / 3)))
    return [1 - left ** ((step + 1) / steps) for step in range(steps - 1)] + [sparsity]


def _masked(
    model: ModelProto, settings: PruneSettings, sparsity: float
) -> tuple[ModelProto, dict[str, np.ndarray]]:
    model = clone(model)
    weights = prunable(model, settings.exclude)
    arrays = [weight.array() for weight in weights]
    scores = [np.abs(array.astype(np.float32)) for array in arrays]
    masks = keep_masks(scores, sparsity, settings.scope)
    for weight, array, mask in zip(weights, arrays, masks, strict=True):
        set_initializer(weight.tensor, np.where(mask, array, np.zeros_like(array)))
    return model, {w.name: mask for w, mask in zip(weights, masks, strict=True)}


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
