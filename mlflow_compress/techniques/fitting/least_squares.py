"""Asymmetric least-squares repair: refit what pruning kept, without labels or gradients.

Layer by layer, in the order in which they run, each output's kept weights and bias are refitted
so that the layer's output on the *changed* network's inputs matches the dense layer's output on
the dense network's inputs. The least-squares step of OBC (Frantar and Alistarh, "Optimal Brain
Compression", 2022, section 3) with the asymmetric inputs of GPTAQ (Li et al., 2025, section 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper
from scipy import linalg

from mlflow_compress.techniques.fitting.focus import Focus
from mlflow_compress.techniques.fitting.stream import Stream
from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.running import as_rows, batches
from mlflow_compress.techniques.graph.walk import (
    clone,
    initializers,
    node_label,
    set_initializer,
    uses,
)
from mlflow_compress.techniques.numeric.algebra import refuse_unfit

__all__ = [
    "MAX_INPUTS",
    "Moments",
    "Pair",
    "layer_moments",
    "refit",
    "refit_layer",
    "refit_offsets",
    "repair",
    "row_share",
    "tapped",
]

MAX_INPUTS = 6144
"""Layers with more inputs per output are refitted in blocks of so many inputs, one after the other:
a Gram matrix of more would pass 300 MB."""

_MIN_ROWS = 16384
"""At least so many rows (places of a Conv) are drawn per layer when the data have them."""

_RIDGE = 1e-3
"""Pull towards the weights as they are, relative to the inputs' mean square."""

_HELD_BACK = 5
"""Every fifth batch judges the refit instead of making it."""

_EXACT_WORK = 2e10
"""Above so many multiplications per layer, conjugate gradients replace the exact solves."""


@dataclass
class Moments:
    """Second moments of a layer's inputs and of inputs with outputs, intercept included.

    Attributes:
        gram: sums of x xᵀ, [groups, inputs + 1, inputs + 1]; the last input is always 1.
        cross: sums of x yᵀ, [groups, inputs + 1, outputs].
        count: number of rows summed, or the sum of their weights.
    """

    gram: np.ndarray
    cross: np.ndarray
    count: float = 0.0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> "Moments":
        """Return moments of no rows."""
        return cls(
            np.zeros((groups, inputs + 1, inputs + 1)), np.zeros((groups, inputs + 1, outputs))
        )

    def add(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add rows of [groups, rows, inputs] and [groups, rows, outputs], weighted if asked to.

        Raises:
            TechniqueError: they are not finite, or too large to be squared.
        """
        ones = np.ones((*x.shape[:2], 1), np.float32)
        x = np.concatenate([x.astype(np.float32), ones], axis=2)
        weighted = x if weights is None else x * weights[None, :, None].astype(np.float32)
        self.gram += weighted.transpose(0, 2, 1) @ x
        self.cross += weighted.transpose(0, 2, 1) @ y.astype(np.float32)
        self.count += x.shape[1] if weights is None else float(weights.sum())
        refuse_unfit(self.cross)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows."""
        return Moments(self.gram + other.gram, self.cross + other.cross, self.count + other.count)


def repair(
    dense: ModelProto,
    changed: ModelProto,
    masks: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    *,
    rows: int = 2048,
    seed: int = 0,
) -> tuple[ModelProto, tuple[str, ...]]:
    """Refit the kept weights and biases of every linear layer that has a mask.

    An output whose refit is worse on batches held back keeps its weights.

    Args:
        dense: the model to match.
        changed: the same graph with weights set to zero.
        masks: for each pruned tensor, True where a weight is kept.
        inputs: calibration inputs by name.
        rows: at most so many calibration rows are run.
        seed: draws the places of convolutions.

    Returns:
        The repaired model, and notes on layers that could not be refitted.
    """
    changed = clone(changed)
    pair = Pair.of(dense, changed, inputs, rows)
    for layer in linear_layers(changed):
        if layer.weight not in masks:
            continue
        keep = layer.matrix(masks[layer.weight])
        for block in _blocks(keep.shape[2]):
            fit, judge = layer_moments(pair, layer, seed, block)
            refit_layer(changed, layer, keep, fit, judge, block)
    done = {layer.weight for layer in linear_layers(changed)}
    notes = [
        f"{name} is pruned, but not refitted: {_why_not(changed, name)}"
        for name in masks
        if name not in done
    ]
    return changed, tuple(notes)


def _blocks(width: int) -> list[slice]:
    """Cut a layer's inputs into blocks of equal size."""
    parts = -(-width // MAX_INPUTS)
    size = -(-width // parts)
    return [slice(first, min(first + size, width)) for first in range(0, width, size)]


def _why_not(model: ModelProto, name: str) -> str:
    """Say why a weight is none of :func:`linear_layers`."""
    found = uses(model).get(name, [])
    outside = {output for node in model.graph.node for output in node.output}
    for use in found:
        if not outside.intersection(use.node.output):
            return f"{node_label(use.node)} is in a subgraph"
    if len(found) > 1:
        return f"{len(found)} nodes share it"
    return f"{node_label(found[0].node)} is no plain layer" if found else "nothing uses it"


@dataclass(frozen=True)
class Pair:
    """The model to match and the one that changes, layer by layer, on the same calibration rows.

    Attributes:
        dense: activations of the model to match.
        changed: activations of the other; its layers must be finished in running order.
        size: rows per batch.
        total: number of rows.
        focus: how much the rows count.
    """

    dense: Stream
    changed: Stream
    size: int
    total: int
    focus: Focus

    @classmethod
    def of(
        cls, dense: ModelProto, changed: ModelProto, inputs: Mapping[str, np.ndarray], rows: int
    ) -> "Pair":
        """Feed both models at most so many rows."""
        inputs = as_rows(changed, inputs)
        total = min(rows, inputs.count)
        size = max(1, min(64, total // _HELD_BACK, inputs.layout.most or 64))
        fed = list(batches(changed, inputs, size=size, rows=rows))
        return cls(Stream(dense, fed), Stream(changed, fed), size, total, Focus.of(dense, fed))


def layer_moments(
    pair: Pair, layer: LinearLayer, seed: int, block: slice = slice(None)
) -> tuple[Moments, Moments]:
    """Sum moments of a layer, for fitting and for judging the fit.

    The inputs are the changed model's; the outputs what the dense layer makes of the dense
    model's inputs at the same places, less the changed model's bias and what it makes of the
    inputs outside the block.
    """
    before, now = initializers(pair.dense.model), initializers(pair.changed.model)
    shape = tuple(now[layer.weight].dims)
    matrix = layer.matrix(numpy_helper.to_array(before[layer.weight])).astype(np.float32)
    shift = np.zeros(matrix.shape[:2], np.float32)
    if layer.bias is not None:
        old, new = (numpy_helper.to_array(held[layer.bias]) for held in (before, now))
        shift = (old - new).reshape(shift.shape).astype(np.float32)
    rest = layer.matrix(numpy_helper.to_array(now[layer.weight])).astype(np.float32)
    width = rest[..., block].shape[2]
    rest[..., block] = 0
    both = [Moments.empty(matrix.shape[0], width, matrix.shape[1]) for _ in range(2)]
    share = row_share(matrix.shape[2], pair.size, pair.total)
    rng = np.random.default_rng(seed)
    found = zip(pair.changed.values(layer.source), pair.dense.values(layer.source), strict=True)
    for index, (given, wanted) in enumerate(found):
        chosen, weights = pair.focus.draw(layer, given, shape, share, rng, index)
        x, dense_x = (layer.rows(a, shape, chosen) for a in (given, wanted))
        y = dense_x.astype(np.float32) @ matrix.transpose(0, 2, 1) + shift[:, None]
        if width < matrix.shape[2]:
            y = y - x.astype(np.float32) @ rest.transpose(0, 2, 1)
        both[index % _HELD_BACK == _HELD_BACK - 1].add(x[..., block], y, weights)
    if layer.recurrent:  # its rows are its own outputs, which its refit changes
        pair.changed.drop(layer.source)
    return both[0], both[1]


def row_share(width: int, batch: int, total: int) -> int:
    """Return how many rows of a layer to draw from each batch."""
    return max(1, max(_MIN_ROWS, 4 * width) * batch // max(total, 1))


def refit(weights: np.ndarray, keep: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Return the kept weights that minimise the squared error plus the ridge towards ``weights``.

    Args:
        weights: [outputs, inputs + 1], the last being the offset.
        keep: True where a weight may be other than zero, same shape.
        gram: [inputs + 1, inputs + 1].
        cross: [inputs + 1, outputs].
    """
    ridge = _RIDGE * float(np.trace(gram)) / len(gram) + 1e-12
    gram = gram + ridge * np.eye(len(gram))
    cross = cross + ridge * weights.T
    alike: dict[bytes, list[int]] = {}
    for row, mask in enumerate(np.packbits(keep, axis=1)):
        alike.setdefault(mask.tobytes(), []).append(row)
    counts = [float(keep[rows[0]].sum()) for rows in alike.values()]
    if sum(count**3 for count in counts) / 3 > _EXACT_WORK:
        return _conjugate_gradients(weights, keep, gram, cross)
    made = np.zeros_like(weights)
    for places in alike.values():  # outputs with the same mask, as after removing channels
        rows = np.array(places)
        held = np.flatnonzero(keep[rows[0]])
        if held.size:
            part = gram[np.ix_(held, held)]
            solved = linalg.solve(part, cross[np.ix_(held, rows)], assume_a="pos")
            made[np.ix_(rows, held)] = solved.T
    return made


def tapped(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return the model with these values as its only outputs."""
    model = clone(model)
    del model.graph.output[:]
    for name in dict.fromkeys(names):
        model.graph.output.add().name = name
    return model


def refit_layer(
    model: ModelProto,
    layer: LinearLayer,
    keep: np.ndarray,
    fit: Moments,
    judge: Moments,
    block: slice = slice(None),
) -> None:
    """Refit one layer in place, output by output where it helps on the judging rows.

    Args:
        model: the model to change.
        layer: the layer.
        keep: True where a weight may be other than zero, [groups, outputs, inputs].
        fit: moments of the block's inputs that make the fit.
        judge: those that judge it.
        block: which inputs.
    """
    held = initializers(model)
    tensor = held[layer.weight]
    matrix = layer.matrix(numpy_helper.to_array(tensor)).astype(np.float64)
    groups, outputs, _ = matrix.shape
    free = np.full((groups, outputs, 1), layer.bias is not None)
    before = np.concatenate([matrix[..., block], np.zeros((groups, outputs, 1))], axis=2)
    keep = np.concatenate([keep[..., block], free], axis=2)
    whole = fit + judge
    after = before.copy()
    for group in range(groups):
        after[group] = _judged(before[group], keep[group], group, fit, judge, whole)
    matrix[..., block] = after[..., :-1]
    set_initializer(tensor, layer.stored(matrix, tuple(tensor.dims)))
    if layer.bias is not None:
        bias = held[layer.bias]
        value = numpy_helper.to_array(bias).astype(np.float64)
        set_initializer(bias, value + after[..., -1].reshape(value.shape))


def refit_offsets(
    model: ModelProto, layer: LinearLayer, moments: Moments, start: np.ndarray | None
) -> None:
    """Set a layer's bias so that the mean of its outputs is the dense one's, in place.

    Args:
        model: the model to change.
        layer: the layer, whose weights are final.
        moments: those of :func:`layer_moments`.
        start: the bias that the layer had when the moments were summed; None when it has none.
    """
    if layer.bias is None or start is None or not moments.count:
        return
    held = initializers(model)
    matrix = layer.matrix(numpy_helper.to_array(held[layer.weight])).astype(np.float64)
    means = moments.gram[:, -1, :-1] / moments.count
    wanted = moments.cross[:, -1] / moments.count
    shift = wanted - (matrix @ means[..., None])[..., 0]
    set_initializer(held[layer.bias], start.astype(np.float64) + shift.reshape(start.shape))


def _judged(
    before: np.ndarray, keep: np.ndarray, group: int, fit: Moments, judge: Moments, whole: Moments
) -> np.ndarray:
    """Return the refit weights of the outputs that get better, the others as they were."""

    def solved(moments: Moments) -> np.ndarray:
        return refit(before, keep, moments.gram[group], moments.cross[group])

    def error(weights: np.ndarray) -> np.ndarray:
        gram, cross = judge.gram[group], judge.cross[group]
        return ((weights @ gram) * weights).sum(axis=1) - 2 * (weights * cross.T).sum(axis=1)

    if not judge.count:
        return solved(whole)
    better = error(solved(fit)) < error(before)
    return np.where(better[:, None], solved(whole), before)


def _conjugate_gradients(
    weights: np.ndarray, keep: np.ndarray, gram: np.ndarray, cross: np.ndarray, rounds: int = 60
) -> np.ndarray:
    """Solve all outputs at once; each keeps to its own mask. Jacobi preconditioned."""
    scale = 1 / np.diag(gram)
    x = np.where(keep, weights, 0.0)
    residual = np.where(keep, cross.T - x @ gram, 0.0)
    z = residual * scale
    direction, rho = z, (residual * z).sum(axis=1)
    for _ in range(rounds):
        image = np.where(keep, direction @ gram, 0.0)
        curve = (direction * image).sum(axis=1)
        step = np.where(curve > 0, rho / np.where(curve > 0, curve, 1), 0.0)[:, None]
        x, residual = x + step * direction, residual - step * image
        z = residual * scale
        fresh = (residual * z).sum(axis=1)
        direction = (
            z + np.where(rho > 0, fresh / np.where(rho > 0, rho, 1), 0.0)[:, None] * direction
        )
        rho = fresh
    return x
