"""Removes channels from an ONNX graph, and refits what read them.

Groups of coupled channels come from :mod:`onnx_channels`, their ranking from
:mod:`onnx_channel_scores`. The layers that are left are refitted like those of a masked network,
by :func:`onnx_repair.repair`, before the masked channels are taken out for good.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.channels.operators import HANDLERS
from mlflow_compress.techniques.channels.tracker import Channels, Group, find_channels, own_tensors
from mlflow_compress.techniques.fitting.least_squares import repair
from mlflow_compress.techniques.fold.onnx import share_duplicates
from mlflow_compress.techniques.graph.check import refuse_new_problem
from mlflow_compress.techniques.graph.layers import add_biases, linear_layers
from mlflow_compress.techniques.graph.running import check_calibration, check_unchanged
from mlflow_compress.techniques.graph.walk import (
    clone,
    float_weights,
    initializers,
    set_initializer,
)
from mlflow_compress.techniques.shrink.scores import Ranking, rank
from mlflow_compress.techniques.shrink.settings import ShrinkSettings

__all__ = ["keep_counts", "shrink", "without"]


def shrink(model: ModelProto, settings: ShrinkSettings, context: Context) -> Result:
    """Remove channels, and refit what is left if asked to.

    Raises:
        ConfigError: ``exclude`` names a tensor that makes no channels.
        TechniqueError: no channels can be removed, calibration inputs are missing, or the
            smaller model does not compute what the masked one does.
    """
    looks = settings.repair or settings.score != "magnitude"
    inputs = check_calibration(model, context.calibration) if looks else {}
    dense = clone(model)
    own_tensors(dense)
    channels = find_channels(dense, HANDLERS)
    groups = _chosen_groups(channels, settings)
    origin = add_biases(dense, channels.readers) if settings.repair else {}
    for bias, weight in origin.items():
        made_axis = channels.makers.get(weight)
        if made_axis is not None:
            channels.tensors[bias] = {0: channels.tensors[weight][made_axis]}
    rankings = rank(dense, channels, groups, settings, inputs, context.seed)
    removed = _removed(groups, rankings, settings)
    if not removed.size:
        note = f"no channels go at ratio {settings.share:g}, round_to {settings.round_to}"
        return Result(clone(model), notes=(note,))
    masked, masks = _masked(dense, channels, removed)
    notes: tuple[str, ...] = ()
    if settings.repair:
        options = {"rows": settings.rows, "seed": context.seed}
        masked, notes = repair(dense, masked, masks, inputs, **options)
    made = without(masked, channels, removed)
    _check(masked, made, context)
    made = share_duplicates(made)
    total = sum(len(group.channels) for group in groups)
    told = f"removed {removed.size} of {total} channels, {_weights(model)} weights became "
    notes = (f"{told}{_weights(made)}", *_frozen_notes(channels), *notes)
    held = initializers(made)
    return Result(made, {new: old for new, old in origin.items() if new in held}, notes)


def keep_counts(
    sizes: Mapping[int, int], errors: Mapping[int, np.ndarray], settings: ShrinkSettings
) -> dict[int, int]:
    """Return how many channels of each group stay: at least one, and a multiple of ``round_to``.

    Args:
        sizes: number of channels of each group.
        errors: what removing each channel costs, in the order in which they would go.
        settings: the ratio, the scope and what to round to.
    """
    gone = {key: round(settings.share * size) for key, size in sizes.items()}
    if settings.scope == "global":
        costs = [
            (cost, key)
            for key, values in errors.items()
            for cost in np.maximum.accumulate(values[: sizes[key] - 1]).tolist()
        ]
        wanted = round(settings.share * sum(sizes.values()))
        gone = Counter(key for _, key in sorted(costs)[:wanted])
    step = settings.round_to
    return {
        key: min(size, step * math.ceil(max(1, size - gone.get(key, 0)) / step))
        for key, size in sizes.items()
    }


def without(model: ModelProto, channels: Channels, removed: np.ndarray) -> ModelProto:
    """Return the model with channels taken out of every tensor, shape and attribute."""
    model = clone(model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for axis, numbers in channels.tensors.get(tensor.name, {}).items():
            array = np.compress(~np.isin(numbers, removed), array, axis=axis)
        counts = channels.lengths.get(tensor.name, {})
        if counts:
            flat = array.copy().ravel()
            for place, numbers in counts.items():
                flat[place] = _left(numbers, removed)
            array = flat.reshape(array.shape)
        if counts or array.shape != tuple(tensor.dims):
            set_initializer(tensor, array)
    groups = {name: _left(numbers, removed) for name, numbers in channels.groups}
    for node in model.graph.node:
        if node.output and node.output[0] in groups:
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = groups[node.output[0]]
    for value in model.graph.value_info:
        for axis, numbers in channels.values.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_value = _left(numbers, removed)
    return model


def _left(numbers: np.ndarray, removed: np.ndarray) -> int:
    return int((~np.isin(numbers, removed)).sum())


def _chosen_groups(channels: Channels, settings: ShrinkSettings) -> list[Group]:
    known = sorted(channels.makers)
    for name in settings.exclude:
        if name not in known:
            raise ConfigError(
                f"shrink.exclude: {name!r} is no weight that makes channels{closest(name, known)}"
            )
    groups = [g for g in channels.free if len(g.channels) > 1 and
              not set(g.makers) & set(settings.exclude)]  # fmt: skip
    if not groups:
        because = "; ".join(_frozen_notes(channels)) or (
            "all of them are the model's outputs" if known else "there are no layers that make any"
        )
        raise TechniqueError(f"there are no channels to remove: {because}")
    return groups


def _frozen_notes(channels: Channels) -> list[str]:
    """Say which layers keep their channels, one note per reason."""
    named: dict[str, list[str]] = {}
    for weight, reason in channels.frozen.items():
        if reason:
            named.setdefault(reason, []).append(weight)
    return [f"{', '.join(names)} left alone: {reason}" for reason, names in named.items()]


def _removed(
    groups: list[Group], rankings: Mapping[int, Ranking], settings: ShrinkSettings
) -> np.ndarray:
    sizes = {index: len(group.channels) for index, group in enumerate(groups)}
    kept = keep_counts(sizes, {i: ranking.errors for i, ranking in rankings.items()}, settings)
    parts = [rankings[i].order[: sizes[i] - kept[i]] for i in sizes]
    return np.concatenate(parts).astype(np.int64)


def _masked(
    model: ModelProto, channels: Channels, removed: np.ndarray
) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """Return the model with nothing read from removed channels, and masks of what to refit."""
    made = clone(model)
    gone = {
        (name, axis): np.isin(numbers, removed)
        for name, axes in channels.tensors.items()
        for axis, numbers in axes.items()
    }
    for tensor in made.graph.initializer:
        axis = channels.readers.get(tensor.name)
        if axis is not None and gone[tensor.name, axis].any():
            array = numpy_helper.to_array(tensor)
            set_initializer(
                tensor, np.where(_along(gone[tensor.name, axis], axis, array), 0, array)
            )
    masks = {}
    held = initializers(made)
    cut = {name for name, axis in channels.readers.items() if gone[name, axis].any()}
    refitted = _after(made, cut)
    for name in (*cut, *(x.weight for x in linear_layers(made) if x.node.output[0] in refitted)):
        array = numpy_helper.to_array(held[name])
        mask = np.ones(array.shape, bool)
        for axis in channels.tensors.get(name, {}):
            mask &= ~_along(gone[name, axis], axis, array)
        masks[name] = mask
    return made, masks


def _along(flags: np.ndarray, axis: int, array: np.ndarray) -> np.ndarray:
    return flags.reshape([-1 if k == axis else 1 for k in range(array.ndim)])


def _after(model: ModelProto, weights: Iterable[str]) -> set[str]:
    """Return the values that depend on any of these weights."""
    changed = set(weights)
    for node in model.graph.node:
        if changed.intersection(node.input):
            changed |= set(node.output)
    return changed


def _check(masked: ModelProto, made: ModelProto, context: Context) -> None:
    """Make sure that the smaller model computes what the masked one does.

    Raises:
        TechniqueError: it is not valid, does not run, or gives other outputs.
    """
    refuse_new_problem(masked, made, "the model without the channels is not valid", strict=True)
    why = ": this graph ties channels in a way that is not understood"
    doing = "taking the channels out"
    check_unchanged(masked, made, context.calibration, context.seed, doing, why)


def _weights(model: ModelProto) -> int:
    return sum(weight.size for weight in float_weights(model))
