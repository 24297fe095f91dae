"""Moments of one layer after the other, each node run once; and refits of unpruned layers.

What :mod:`onnx_repair` does for one layer by running both models from their inputs, for
techniques that change every layer in turn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, numpy_helper
from scipy import linalg

from mlflow_compress.techniques.fitting.focus import Focus
from mlflow_compress.techniques.fitting.least_squares import Moments, refit, row_share
from mlflow_compress.techniques.fitting.walk import Walk
from mlflow_compress.techniques.graph.layers import LinearLayer
from mlflow_compress.techniques.graph.running import as_rows, batches
from mlflow_compress.techniques.graph.walk import initializers, set_initializer

__all__ = ["LayerByLayer", "Targets", "refit_weights"]

_HELD_BACK = 5
"""Every fifth batch judges the refit instead of making it."""

_RIDGE = 1e-3
"""Pull towards the weights as they are, relative to the inputs' mean square."""


_SMALL = 64
"""Groups of at most so many inputs are solved all at once."""

_MASKS = 16
"""Up to so many different masks of a layer's outputs are factorised one by one."""

_WIDE_ROWS = 4096
"""So many rows are drawn of layers that are too wide for moments of all their inputs."""

_TARGET_BYTES = 1 << 28
"""What the dense layers are to give is kept for the next walk in so many bytes at most."""


class Targets:
    """What is known of the dense model, for walks after the first.

    How much the rows count, and what its layers give at the drawn places, the latter bounded.
    """

    def __init__(self) -> None:
        self._focus: Focus | None = None
        self._held: dict[str, list[np.ndarray]] = {}
        self._left = float(_TARGET_BYTES)

    def focus(self, dense: ModelProto, fed: Sequence[Mapping[str, np.ndarray]]) -> Focus:
        """Return how much the rows count."""
        if self._focus is None:
            self._focus = Focus.of(dense, fed)
        return self._focus

    def find(self, layer: LinearLayer) -> list[np.ndarray] | None:
        """Return the outputs of a layer, a batch each, of [groups, rows, outputs]."""
        return self._held.get(layer.weight)

    def keep(self, layer: LinearLayer, outputs: list[np.ndarray]) -> None:
        """Keep the outputs of a layer if there is room."""
        size = sum(array.nbytes for array in outputs)
        if size <= self._left:
            self._left -= size
            self._held[layer.weight] = outputs


class LayerByLayer:
    """Gives the moments of a model's layers in running order, while the layers change.

    Args:
        dense: the model to match.
        changed: the same graph; its layers may be changed once their moments have been given.
        layers: the layers that will be asked for, in running order.
        inputs: calibration inputs by name.
        rows: at most so many calibration rows are run.
        seed: draws the places of convolutions.
        targets: what the dense layers gave in a walk before, over the same rows and places.
    """

    def __init__(
        self,
        dense: ModelProto,
        changed: ModelProto,
        layers: Sequence[LinearLayer],
        inputs: Mapping[str, np.ndarray],
        *,
        rows: int,
        seed: int,
        targets: Targets | None = None,
    ) -> None:
        self._targets = targets or Targets()
        self._before, self._now = initializers(dense), initializers(changed)
        inputs = as_rows(changed, inputs)
        self._total = min(rows, inputs.count)
        most = inputs.layout.most or 64
        self._size = max(1, min(64, self._total // _HELD_BACK, most))
        self._seed = seed
        given = list(batches(changed, inputs, size=self._size, rows=rows))
        self._focus = self._targets.focus(dense, given)
        stops = [layer.source for layer in layers]
        self._dense, self._changed = Walk(dense, given, stops), Walk(changed, given, stops)

    def moments(self, layer: LinearLayer) -> tuple[Moments, Moments]:
        """Return the moments of the next layer, for fitting and for judging the fit.

        The inputs are the changed model's; the outputs what the dense layer makes of the dense
        model's inputs at the same places, less the changed model's bias.
        """
        shape = tuple(self._now[layer.weight].dims)
        matrix = layer.matrix(numpy_helper.to_array(self._before[layer.weight])).astype(np.float32)
        shift = np.zeros(matrix.shape[:2], np.float32)
        if layer.bias is not None:
            old, new = (numpy_helper.to_array(m[layer.bias]) for m in (self._before, self._now))
            shift = (old - new).reshape(shift.shape).astype(np.float32)
        both = [Moments.empty(matrix.shape[0], matrix.shape[2], matrix.shape[1]) for _ in range(2)]
        share = row_share(matrix.shape[2], self._size, self._total)
        rng = np.random.default_rng(self._seed)
        known, made = self._targets.find(layer), []
        # what a recurrent node gives depends on its own weight, which is still to change
        given = self._changed.values(layer.source, keep=not layer.recurrent)
        wanted = iter(known or self._dense.values(layer.source))
        for index, (value, dense_value) in enumerate(zip(given, wanted, strict=True)):
            chosen, weights = self._focus.draw(layer, value, shape, share, rng, index)
            y = dense_value
            if known is None:
                y = layer.rows(dense_value, shape, chosen).astype(np.float32)
                y = y @ matrix.transpose(0, 2, 1)
                made.append(y)
            x = layer.rows(value, shape, chosen)
            both[index % _HELD_BACK == _HELD_BACK - 1].add(x, y + shift[:, None], weights)
        if known is None:
            self._targets.keep(layer, made)
        for walk in (self._dense, self._changed):
            walk.leave(layer.source)
        return both[0], both[1]

    def block_grams(
        self, layer: LinearLayer, block: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is known of the next layer when it is too wide for moments of all inputs.

        Returns:
            Sums of x xᵀ within each block of inputs, [groups * blocks, block, block], the last
            block of a group filled up with zeros; the inputs' means, [groups, inputs]; and the
            means of the dense layer's outputs without bias, [groups, outputs].
        """
        shape = tuple(self._now[layer.weight].dims)
        matrix = layer.matrix(numpy_helper.to_array(self._before[layer.weight])).astype(np.float64)
        groups, _, width = matrix.shape
        blocks = -(-width // block)
        sums = np.zeros((groups * blocks, block, block))
        means, dense_means, count = np.zeros((groups, width)), np.zeros((groups, width)), 0
        share = max(1, _WIDE_ROWS * self._size // max(self._total, 1))
        rng = np.random.default_rng(self._seed)
        given, wanted = self._changed.values(layer.source), self._dense.values(layer.source)
        for value, dense_value in zip(given, wanted, strict=True):
            chosen = layer.choose(value, shape, share, rng)
            x = layer.rows(value, shape, chosen).astype(np.float32)
            dense_x = layer.rows(dense_value, shape, chosen)
            means += x.sum(axis=1, dtype=np.float64)
            dense_means += dense_x.sum(axis=1, dtype=np.float64)
            count += x.shape[1]
            for index in range(blocks):
                part = x[..., index * block : (index + 1) * block]
                size = part.shape[2]
                sums[index::blocks, :size, :size] += part.transpose(0, 2, 1) @ part
        for walk in (self._dense, self._changed):
            walk.leave(layer.source)
        means, dense_means = means / max(count, 1), dense_means / max(count, 1)
        return sums, means, (matrix @ dense_means[..., None])[..., 0]


def refit_weights(model: ModelProto, layer: LinearLayer, fit: Moments, judge: Moments) -> None:
    """Refit a layer's weights other than zero, and its bias, in place.

    As :func:`onnx_repair.refit_layer`, output by output where it helps on the judging rows, but
    outputs that keep the same weights share one factorisation.
    """
    held = initializers(model)
    tensor = held[layer.weight]
    matrix = layer.matrix(numpy_helper.to_array(tensor)).astype(np.float64)
    groups, outputs, _ = matrix.shape
    keep = np.concatenate(
        [matrix != 0, np.full((groups, outputs, 1), layer.bias is not None)], axis=2
    )
    before = np.concatenate([matrix, np.zeros((groups, outputs, 1))], axis=2)
    whole = fit + judge
    after = _solved(before, keep, whole)
    if judge.count:
        trial = _solved(before, keep, fit)
        better = _error(trial, judge) < _error(before, judge)
        after = np.where(better[..., None], after, before)
    set_initializer(tensor, layer.stored(after[..., :-1], tuple(tensor.dims)))
    if layer.bias is not None:
        bias = held[layer.bias]
        value = numpy_helper.to_array(bias).astype(np.float64)
        set_initializer(bias, value + after[..., -1].reshape(value.shape))


def _solved(weights: np.ndarray, keep: np.ndarray, moments: Moments) -> np.ndarray:
    """Return the kept weights with the least squared error plus ridge, [groups, outputs, n]."""
    if weights.shape[2] <= _SMALL and keep[..., :-1].all():
        return _solved_together(weights, bool(keep[0, 0, -1]), moments)
    parts = zip(weights, keep, moments.gram, moments.cross, strict=True)
    return np.stack([_solved_by_mask(*part) for part in parts])


def _solved_together(weights: np.ndarray, offset: bool, moments: Moments) -> np.ndarray:
    """Solve for all weights of many small groups at once, and the offset if there is one."""
    size = weights.shape[2] if offset else weights.shape[2] - 1
    ridge = _RIDGE * np.trace(moments.gram, axis1=1, axis2=2) / weights.shape[2] + 1e-12
    gram = moments.gram[:, :size, :size] + ridge[:, None, None] * np.eye(size)
    cross = moments.cross[:, :size] + ridge[:, None, None] * weights.transpose(0, 2, 1)[:, :size]
    made = np.zeros_like(weights)
    made[..., :size] = np.linalg.solve(gram, cross).transpose(0, 2, 1)
    return made


def _solved_by_mask(
    weights: np.ndarray, keep: np.ndarray, gram: np.ndarray, cross: np.ndarray
) -> np.ndarray:
    """Solve for one group; outputs with the same mask share a factorisation."""
    masks, which = np.unique(np.packbits(keep, axis=1), axis=0, return_inverse=True)
    if len(masks) > _MASKS:
        return refit(weights, keep, gram, cross)
    ridge = _RIDGE * float(np.trace(gram)) / len(gram) + 1e-12
    made = np.zeros_like(weights)
    for index in range(len(masks)):
        rows = np.flatnonzero(which.ravel() == index)
        kept = np.flatnonzero(keep[rows[0]])
        if kept.size:
            part = gram[np.ix_(kept, kept)] + ridge * np.eye(kept.size)
            wanted = cross[np.ix_(kept, rows)] + ridge * weights[np.ix_(rows, kept)].T
            made[np.ix_(rows, kept)] = linalg.solve(part, wanted, assume_a="pos").T
    return made


def _error(weights: np.ndarray, moments: Moments) -> np.ndarray:
    """Return the squared error of each output but for a constant, [groups, outputs]."""
    cross = moments.cross.transpose(0, 2, 1)
    return np.asarray(((weights @ moments.gram - 2 * cross) * weights).sum(axis=2))
