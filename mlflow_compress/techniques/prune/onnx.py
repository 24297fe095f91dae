"""Pruning of ONNX weights, with repair.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, section 3.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.fitting.least_squares import repair
from mlflow_compress.techniques.fitting.scores import importance
from mlflow_compress.techniques.graph.layers import linear_layers
from mlflow_compress.techniques.graph.running import check_calibration
from mlflow_compress.techniques.graph.walk import (
    Weight,
    clone,
    float_weights,
    set_initializer,
    why_no_weights,
)
from mlflow_compress.techniques.prune.settings import PruneSettings

__all__ = ["keep_masks", "pattern_mask", "prunable", "prune", "schedule"]

_TINY = 64
"""Tensors with fewer weights are left alone: they are no bytes, and each weight matters."""


def prune(model: ModelProto, settings: PruneSettings, context: Context) -> Result:
    """Set the least important weights to zero, and repair what is kept if asked to.

    Raises:
        ConfigError: ``exclude`` names a tensor that is no weight of this model.
        TechniqueError: the model has no float weights to prune, or the repair lacks calibration
            inputs.
    """
    method = settings.method
    if method == "auto":
        method = "obs" if settings.repair else "magnitude"
    looks = settings.repair or method != "magnitude"
    inputs = check_calibration(model, context.calibration) if looks else {}
    options: dict[str, int] = {"rows": settings.rows, "seed": context.seed}
    made = model
    notes: tuple[str, ...] = ()
    pattern = settings.kept_of()
    if pattern is not None:
        return _prune_pattern(model, settings, pattern, method, inputs, context.seed)
    for sparsity in schedule(settings.sparsity, settings.steps if settings.repair else 1):
        weights = prunable(made, settings.exclude)
        scores = importance(made, weights, method, inputs, **options)
        kept = keep_masks(scores, sparsity, settings.scope)
        masks = {weight.name: mask for weight, mask in zip(weights, kept, strict=True)}
        made = _masked(made, masks)
        if settings.repair:
            made, notes = repair(model, made, masks, inputs, **options)
    return Result(made, notes=notes)


def _masked(model: ModelProto, masks: Mapping[str, np.ndarray]) -> ModelProto:
    model = clone(model)
    for tensor in model.graph.initializer:
        if tensor.name in masks:
            array = numpy_helper.to_array(tensor)
            set_initializer(tensor, np.where(masks[tensor.name], array, np.zeros_like(array)))
    return model


def _prune_pattern(
    model: ModelProto,
    settings: PruneSettings,
    pattern: tuple[int, int],
    method: str,
    inputs: Mapping[str, np.ndarray],
    seed: int,
) -> Result:
    weights = prunable(model, settings.exclude)
    scores = importance(model, weights, method, inputs, rows=settings.rows, seed=seed)
    layers = {layer.weight: layer for layer in linear_layers(model)}
    masks, notes = {}, []
    for weight, score in zip(weights, scores, strict=True):
        layer = layers.get(weight.name)
        matrix = None if layer is None else layer.matrix(score)
        if layer is None or matrix is None or matrix.shape[2] % pattern[1]:
            notes.append(f"{weight.name} does not divide into groups of {pattern[1]} and is kept")
            continue
        masks[weight.name] = layer.stored(pattern_mask(matrix, *pattern), score.shape)
    if not masks:
        raise TechniqueError(f"no weight tensor divides into groups of {pattern[1]} inputs")
    made = _masked(model, masks)
    if settings.repair:
        made, more = repair(model, made, masks, inputs, rows=settings.rows, seed=seed)
        notes += more
    return Result(made, notes=tuple(notes))


def pattern_mask(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return a mask that keeps the ``n`` highest of every ``m`` scores along the last axis."""
    groups = scores.reshape(-1, m)
    mask = np.zeros(groups.shape, bool)
    best = np.argsort(-groups, axis=1, kind="stable")[:, :n]
    np.put_along_axis(mask, best, True, axis=1)
    return mask.reshape(scores.shape)


def schedule(sparsity: float, steps: int) -> list[float]:
    """Return the sparsities to prune to, one after the other, the last being ``sparsity``.

    Each step drops the same share of the weights that are left. With ``steps`` 0 a step leaves
    about a third of them: one step up to 67 % sparsity, three at 95 %, four at 98 %.
    """
    left = 1 - sparsity
    if steps == 0:
        steps = max(1, round(math.log(max(left, 1e-3)) / math.log(1 / 3)))
    return [1 - left ** ((step + 1) / steps) for step in range(steps - 1)] + [sparsity]


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
            f"at least {_TINY} elements ({why_no_weights(model)})"
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
