"""Rewrites convolutions of an ONNX graph as depthwise and pointwise ones.

Howard et al., "MobileNets", 2017, section 3.1, for the two parts. The depthwise part keeps the
strides, pads and dilations, and has no bias, so that the borders stay exact; the pointwise part
keeps the bias. Grouped convolutions become a pointwise part of as many groups.

Several filters per channel are as many depthwise nodes side by side, and a Concat: onnxruntime has
fast kernels only for depthwise convolutions with one filter per channel. On a small network (x86
with AVX2, 1 thread) rank 2 took 64 µs so, 128 µs as one node, and the regular convolutions 89 µs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques.base import Context, Result, closest
from mlflow_compress.techniques.fitting.least_squares import (
    MAX_INPUTS,
    Moments,
    Pair,
    layer_moments,
    refit_layer,
    row_share,
)
from mlflow_compress.techniques.graph.layers import LinearLayer, add_biases, linear_layers
from mlflow_compress.techniques.graph.running import check_calibration
from mlflow_compress.techniques.graph.walk import clone, initializers, unique_name, value_names
from mlflow_compress.techniques.numeric.factors import Factors, factorise, lost
from mlflow_compress.techniques.separable.settings import MOST_FILTERS, SeparableSettings

__all__ = ["separable"]

_HELD_BACK = 5


@dataclass(frozen=True)
class _Rewritten:
    """A convolution and what takes its place.

    Attributes:
        layer: the convolution.
        factors: one for each of its groups.
        places: the kernel's shape, without channels.
        filters: names of the depthwise weights.
        points: name of the pointwise weight.
    """

    layer: LinearLayer
    factors: list[Factors]
    places: tuple[int, ...]
    filters: tuple[str, ...] = ()
    points: str = ""

    @property
    def rank(self) -> int:
        """Filters per input channel."""
        return self.factors[0].filters.shape[1]

    @property
    def is_split(self) -> bool:
        """Whether each filter is a node of its own; a group's channels must lie together."""
        return self.layer.groups == 1 and self.rank > 1


def separable(model: ModelProto, settings: SeparableSettings, context: Context) -> Result:
    """Rewrite the convolutions that get smaller by it and lose no more than is allowed.

    Raises:
        ConfigError: ``layers`` or ``exclude`` fits no convolution.
        TechniqueError: the model has no convolution to rewrite, or calibration inputs are
            missing.
    """
    inputs = check_calibration(model, context.calibration) if settings.repair else {}
    layers = _chosen(model, settings)
    pair = Pair.of(model, model, inputs, settings.rows) if settings.repair else None
    done, notes = [], []
    for layer in layers:
        rewritten, note = _rewrite(model, layer, settings, pair, context.seed)
        notes.append(note)
        if rewritten is not None:
            done.append(rewritten)
    if not done:
        return Result(clone(model), notes=tuple(notes))
    made, done = _replaced(model, done)
    origin = {name: one.layer.weight for one in done for name in (*one.filters, one.points)}
    if settings.repair:
        biases = add_biases(made, {one.points for one in done})
        origin |= {bias: origin[weight] for bias, weight in biases.items()}
        notes += _refit(model, made, done, inputs, settings.rows, context.seed)
    return Result(made, origin, tuple(notes))


def _chosen(model: ModelProto, settings: SeparableSettings) -> list[LinearLayer]:
    """Return the convolutions that settings name and that are not separable already."""
    held = initializers(model)
    convolutions = [layer for layer in linear_layers(model) if layer.node.op_type == "Conv"]
    known = [layer.weight for layer in convolutions]
    for key in ("layers", "exclude"):
        for pattern in getattr(settings, key):
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ConfigError(
                    f"separable.{key}: {pattern!r} fits no convolution{closest(pattern, known)}"
                )
    found = [
        layer
        for layer in convolutions
        if _is_regular(held[layer.weight].dims, layer.groups)
        and (not settings.layers or _fits(layer.weight, settings.layers))
        and not _fits(layer.weight, settings.exclude)
    ]
    if not found:
        raise TechniqueError(
            "there is nothing to rewrite: no convolution with weights of its own, kernels of "
            "more than one place and several channels per group"
        )
    return found


def _is_regular(dims: Sequence[int], groups: int) -> bool:
    """Whether a kernel has several places, and is not depthwise already."""
    return int(np.prod(dims[2:])) > 1 and not (dims[1] == 1 and groups > 1)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _rewrite(
    model: ModelProto,
    layer: LinearLayer,
    settings: SeparableSettings,
    pair: Pair | None,
    seed: int,
) -> tuple[_Rewritten | None, str]:
    """Return the layer rewritten, or None, and a note that says what became of it."""
    array = numpy_helper.to_array(initializers(model)[layer.weight]).astype(np.float64)
    kernels = array.reshape(layer.groups, len(array) // layer.groups, array.shape[1], -1)
    most = _most_filters(kernels)
    ranks = [settings.rank] if settings.rank else range(1, min(most, MOST_FILTERS) + 1)
    if not ranks or ranks[0] > most:
        return None, f"{layer.weight} is left alone: it would not get smaller"
    fitted = judged = None
    if pair is not None and kernels.shape[2] * kernels.shape[3] <= MAX_INPUTS:
        fitted, judged = _centred(layer_moments(pair, layer, seed))
    for rank in ranks:
        factors, errors = [], []
        for group, kernel in enumerate(kernels):
            one = factorise(kernel, None if fitted is None else fitted[group], rank)
            factors.append(one)
            errors.append(lost(kernel, one.kernel(), None if judged is None else judged[group]))
        error = float(np.mean(errors))
        if error <= settings.max_error:
            left = rank * (kernels[0].size / kernels.shape[3] + kernels[0, 0].size)
            note = (
                f"{layer.weight} at rank {rank}: {100 * left / kernels[0].size:.0f} % of its "
                f"weights and multiplications, {100 * error:.2g} % of its output lost"
            )
            return _Rewritten(layer, factors, array.shape[2:]), note
    return None, (
        f"{layer.weight} is left alone: at rank {rank} it would lose {100 * error:.2g} % of its "
        f"output, and max_error is {settings.max_error:g}"
    )


def _most_filters(kernels: np.ndarray) -> int:
    """Return the largest rank at which both parts have fewer weights than the kernel.

    They then have fewer multiplications too: both are done once for each place of the output.
    """
    _, outputs, channels, places = kernels.shape
    each = channels * (places + outputs)
    return (outputs * channels * places - 1) // each


def _centred(moments: tuple[Moments, Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs' covariances of all rows, and of those that judge; [groups, n, n]."""
    fit, judge = moments
    made = []
    for one in (fit + judge, judge if judge.count else fit):
        gram = one.gram / max(one.count, 1)
        means = gram[:, -1, :-1]
        made.append(gram[:, :-1, :-1] - means[:, :, None] * means[:, None, :])
    return made[0], made[1]


def _replaced(model: ModelProto, done: Sequence[_Rewritten]) -> tuple[ModelProto, list[_Rewritten]]:
    """Return the model with the rewritten layers, and these with the names of their weights."""
    made = clone(model)
    taken = value_names(made)
    by_output = {one.layer.node.output[0]: one for one in done}
    nodes: list[NodeProto] = []
    named: list[_Rewritten] = []
    tensors: list[TensorProto] = []
    for node in made.graph.node:
        one = by_output.get(node.output[0]) if node.output else None
        if one is None:
            nodes.append(node)
            continue
        weight = one.layer.weight
        count = one.rank if one.is_split else 1
        filters = tuple(unique_name(f"{weight}_depthwise", taken) for _ in range(count))
        one = replace(one, filters=filters, points=unique_name(f"{weight}_pointwise", taken))
        named.append(one)
        nodes += _nodes(node, one, taken)
        tensors += _tensors(one, initializers(made)[weight].data_type)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    gone = {one.layer.weight for one in named}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *tensors])
    return made, named


def _nodes(node: NodeProto, one: _Rewritten, taken: set[str]) -> Iterator[NodeProto]:
    channels = one.layer.groups * one.factors[0].filters.shape[0]
    between = []
    for index, weight in enumerate(one.filters):
        between.append(unique_name(f"{node.output[0]}_depthwise", taken))
        first = helper.make_node("Conv", [node.input[0], weight], between[-1:])
        first.name = f"{node.name}_depthwise{index or ''}" if node.name else ""
        first.attribute.extend(a for a in node.attribute if a.name not in ("group", "kernel_shape"))
        first.attribute.append(helper.make_attribute("kernel_shape", one.places))
        first.attribute.append(helper.make_attribute("group", channels))
        yield first
    value = between[0]
    if len(between) > 1:
        value = unique_name(f"{node.output[0]}_filtered", taken)
        yield helper.make_node("Concat", between, [value], axis=1)
    second = helper.make_node("Conv", [value, one.points, *node.input[2:]], list(node.output))
    second.name = node.name
    if one.layer.groups > 1:
        second.attribute.append(helper.make_attribute("group", one.layer.groups))
    yield second


def _tensors(one: _Rewritten, kind: int) -> Iterator[TensorProto]:
    """Yield the weights; the pointwise one has its inputs in the order in which they come."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    filters = np.concatenate([factors.filters for factors in one.factors])
    points = np.concatenate([factors.points for factors in one.factors])
    if one.is_split:
        filters, points = filters.transpose(1, 0, 2), points.transpose(0, 2, 1)
    flat = filters.reshape(len(one.filters), -1, 1, *one.places)
    for name, array in zip(one.filters, flat, strict=True):
        yield numpy_helper.from_array(np.ascontiguousarray(array, dtype), name)
    ones = (1,) * len(one.places)
    array = points.reshape(len(points), -1, *ones)
    yield numpy_helper.from_array(np.ascontiguousarray(array, dtype), one.points)


def _refit(
    model: ModelProto,
    made: ModelProto,
    done: Sequence[_Rewritten],
    inputs: Mapping[str, np.ndarray],
    rows: int,
    seed: int,
) -> list[str]:
    """Refit the pointwise weights and the layers behind them in running order, in place."""
    pair = Pair.of(model, made, inputs, rows)
    pointwise = {one.points: one for one in done}
    held, behind, notes = initializers(made), _behind(made, pointwise), []
    known = initializers(model)
    for layer in list(linear_layers(made)):
        if layer.weight in pointwise:
            fit, judge = _pointwise_moments(pair, pointwise[layer.weight], layer, seed)
        elif layer.node.output[0] in behind and layer.weight in known:
            width = layer.matrix(numpy_helper.to_array(held[layer.weight])).shape[2]
            if width > MAX_INPUTS:
                notes.append(f"{layer.weight} is not refitted: {width} inputs are too many")
                continue
            fit, judge = layer_moments(pair, layer, seed)
        else:
            continue
        matrix = layer.matrix(numpy_helper.to_array(held[layer.weight]))
        refit_layer(made, layer, matrix != 0, fit, judge)
    return notes


def _behind(model: ModelProto, weights: Mapping[str, _Rewritten]) -> set[str]:
    """Return the values that depend on any of these weights."""
    changed = set(weights)
    for node in model.graph.node:
        if changed.intersection(node.input):
            changed |= set(node.output)
    return changed


def _pointwise_moments(
    pair: Pair, one: _Rewritten, layer: LinearLayer, seed: int
) -> tuple[Moments, Moments]:
    """Sum moments of what the filters give with what the convolution gave in the dense model.

    Both have the same places, so that the places drawn for the one serve the other.
    """
    before, now = initializers(pair.dense.model), initializers(pair.changed.model)
    old = one.layer
    kernel = numpy_helper.to_array(before[old.weight]).astype(np.float32)
    matrix, shape = old.matrix(kernel), kernel.shape
    wanted_bias = numpy_helper.to_array(before[old.bias]) if old.bias else np.zeros(len(kernel))
    present_bias = numpy_helper.to_array(now[layer.bias]) if layer.bias else np.zeros(len(kernel))
    shift = (wanted_bias - present_bias).reshape(matrix.shape[:2]).astype(np.float32)
    width = matrix.shape[2] // int(np.prod(shape[2:])) * one.rank
    both = [Moments.empty(matrix.shape[0], width, matrix.shape[1]) for _ in range(2)]
    share = row_share(matrix.shape[2], pair.size, pair.total)
    rng = np.random.default_rng(seed)
    points = tuple(now[layer.weight].dims)
    found = zip(pair.changed.values(layer.source), pair.dense.values(old.source), strict=True)
    for index, (given, dense) in enumerate(found):
        chosen, weights = pair.focus.draw(old, dense, shape, share, rng, index)
        y = old.rows(dense, shape, chosen).astype(np.float32) @ matrix.transpose(0, 2, 1)
        x = layer.rows(given, points, chosen)
        both[index % _HELD_BACK == _HELD_BACK - 1].add(x, y + shift[:, None], weights)
    return both[0], both[1]
