"""Which channels matter least, group by group.

``magnitude`` is the squared L2 norm of the weights that make a channel. ``wanda`` and ``obs`` look
at the layers that read it: by which share of its energy a layer's output changes when the channel
goes. For ``obs`` the channels that stay make up for it as well as they can, and channels go a few
at a time, so that of two that stand in for each other one stays: block-wise Optimal Brain Surgeon
(Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023, section 3).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper
from scipy import linalg

from mlflow_compress.techniques.channels.tracker import Channels, Group
from mlflow_compress.techniques.fitting.scores import input_grams
from mlflow_compress.techniques.graph.layers import linear_layers
from mlflow_compress.techniques.graph.walk import initializers
from mlflow_compress.techniques.numeric.algebra import inverse, ridge, root
from mlflow_compress.techniques.shrink.settings import ShrinkSettings

__all__ = ["Ranking", "rank"]

_DAMPING = 1e-2
"""Added to a Gram matrix before it is inverted, relative to its mean diagonal."""

_AT_ONCE = 16
"""One in so many of the channels left goes before the others are scored again."""


@dataclass(frozen=True)
class Ranking:
    """The order in which a group's channels would go, and what removing each one costs.

    Attributes:
        order: channel numbers, the least important first.
        errors: for each, in the same order, the share of the reading layers' energy that is lost
            (``magnitude``: its squared norm relative to the group's mean).
    """

    order: np.ndarray
    errors: np.ndarray


@dataclass
class _Reader:
    """One matrix that reads channels: [outputs, inputs], with what its inputs look like.

    Attributes:
        matrix: the weights, those that are gone being zero and the others made up for.
        numbers: the channel of each input.
        spread: inverse of the damped Gram matrix, or None when it is taken for diagonal.
        energies: mean square of each input; used without ``spread``.
        energy: sum of squares of the outputs.
    """

    matrix: np.ndarray
    numbers: np.ndarray
    spread: np.ndarray | None
    energies: np.ndarray
    energy: float

    def costs(self, channels: np.ndarray) -> np.ndarray:
        """Return the share of the energy that each channel takes with it."""
        if self.spread is None:
            each = (self.matrix**2).sum(axis=0) * self.energies
            sums = np.bincount(self.numbers, each, minlength=int(channels.max()) + 1)
            return np.asarray(sums[channels] / self.energy)
        places = [np.flatnonzero(self.numbers == channel) for channel in channels]
        costs = np.zeros(len(channels))
        for width in {len(place) for place in places} - {0}:
            which = [i for i, place in enumerate(places) if len(place) == width]
            at = np.stack([places[i] for i in which])
            blocks = self.spread[at[:, :, None], at[:, None, :]]
            parts = self.matrix[:, at].transpose(1, 2, 0)
            solved = np.linalg.solve(blocks, parts)
            costs[which] = (parts * solved).sum(axis=(1, 2)) / self.energy
        return costs

    def drop(self, channels: np.ndarray) -> None:
        """Take channels away; the others make up for them."""
        at = np.flatnonzero(np.isin(self.numbers, channels))
        if not at.size:
            return
        if self.spread is None:
            self.matrix[:, at] = 0
            return
        columns = self.spread[:, at]
        factor = linalg.solve(self.spread[np.ix_(at, at)], columns.T, assume_a="pos")
        self.matrix -= self.matrix[:, at] @ factor
        self.spread -= columns @ factor
        left = np.setdiff1d(np.arange(len(self.numbers)), at)
        self.matrix, self.numbers = self.matrix[:, left], self.numbers[left]
        self.spread = self.spread[np.ix_(left, left)]


def rank(
    model: ModelProto,
    channels: Channels,
    groups: Sequence[Group],
    settings: ShrinkSettings,
    inputs: Mapping[str, np.ndarray],
    seed: int,
) -> dict[int, Ranking]:
    """Rank the channels of each group, by the group's index.

    Args:
        model: the model that is to shrink.
        channels: what is known of its channels.
        groups: the groups to rank.
        settings: method, ratio, rows and so on.
        inputs: calibration inputs by name; unused for ``magnitude``.
        seed: draws the places of convolutions.
    """
    if settings.score == "magnitude":
        return {i: _by_norm(model, channels, group) for i, group in enumerate(groups)}
    waiting = {i: _readers_of(channels, group) for i, group in enumerate(groups)}
    ready: dict[str, list[_Reader]] = {}
    rankings: dict[int, Ranking] = {}
    for name, readers in _reader_matrices(model, channels, settings, inputs, seed):
        ready[name] = readers
        for index, names in waiting.items():
            if index not in rankings and names <= ready.keys():
                group = groups[index]
                found = [reader for n in sorted(names) for reader in ready[n]]
                rankings[index] = _greedy(group, found, settings)
        needed = {n for i, names in waiting.items() if i not in rankings for n in names}
        for name in ready.keys() - needed:
            ready[name] = []
    return rankings


def _readers_of(channels: Channels, group: Group) -> set[str]:
    return {
        name
        for name, axis in channels.readers.items()
        if np.isin(group.channels, channels.tensors[name][axis]).any()
    }


def _by_norm(model: ModelProto, channels: Channels, group: Group) -> Ranking:
    held = initializers(model)
    norms = np.zeros(int(group.channels.max()) + 1)
    for name in group.makers:
        axis = channels.makers[name]
        array = np.moveaxis(numpy_helper.to_array(held[name]).astype(np.float64), axis, 0)
        numbers = channels.tensors[name][axis]
        energy = (array.reshape(len(array), -1) ** 2).sum(axis=1)
        here = np.isin(numbers, group.channels)
        mean = energy[here].mean() if here.any() else 1.0
        np.add.at(norms, numbers[here], energy[here] / max(mean, 1e-30))
    scores = norms[group.channels]
    order = np.argsort(scores, kind="stable")
    return Ranking(group.channels[order], scores[order])


def _reader_matrices(
    model: ModelProto,
    channels: Channels,
    settings: ShrinkSettings,
    inputs: Mapping[str, np.ndarray],
    seed: int,
) -> Iterator[tuple[str, list[_Reader]]]:
    held = initializers(model)
    layers = [layer for layer in linear_layers(model) if layer.weight in channels.readers]
    left = dict.fromkeys(channels.readers)
    grams = input_grams(
        model, layers, inputs, rows=settings.rows, seed=seed, centred=settings.repair
    )
    for layer, gram in grams:
        left.pop(layer.weight)
        array = numpy_helper.to_array(held[layer.weight]).astype(np.float64)
        axis = channels.readers[layer.weight]
        numbers = layer.matrix(_spread_along(channels.tensors[layer.weight][axis], axis, array))
        matrix = layer.matrix(array)
        yield (
            layer.weight,
            [
                _reader(matrix[g], numbers[g, 0], gram[g], settings.score)
                for g in range(len(matrix))
            ],
        )
    for name in left:  # shared or very wide weights: inputs are taken to be alike
        axis = channels.readers[name]
        array = np.moveaxis(numpy_helper.to_array(held[name]).astype(np.float64), axis, 0)
        matrix = array.reshape(len(array), -1).T
        energy = max(float((matrix**2).sum()), 1e-30)
        numbers = channels.tensors[name][axis]
        yield name, [_Reader(matrix, numbers, None, np.ones(len(numbers)), energy)]


def _spread_along(numbers: np.ndarray, axis: int, array: np.ndarray) -> np.ndarray:
    shape = [-1 if k == axis else 1 for k in range(array.ndim)]
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(shape), array.shape))


def _reader(matrix: np.ndarray, numbers: np.ndarray, gram: np.ndarray, method: str) -> _Reader:
    energy = max(float(((matrix @ gram) * matrix).sum()), 1e-30)
    spread, added = None, ridge(gram, _DAMPING)
    if method == "obs":
        lower, added = root(gram, _DAMPING)
        spread = inverse(lower)
    return _Reader(np.array(matrix), numbers, spread, np.diag(gram) + added, energy)


def _greedy(group: Group, readers: Sequence[_Reader], settings: ShrinkSettings) -> Ranking:
    """Let the least important channels go, a few at a time, until one is left."""
    left = group.channels
    stop = 1
    if settings.scope == "layer":
        stop = max(1, len(left) - round(settings.share * len(left)))
    order: list[int] = []
    errors: list[float] = []
    # channels of other groups that the same layer reads stay for now
    own = [_Reader(r.matrix.copy(), r.numbers, None if r.spread is None else r.spread.copy(),
                   r.energies, r.energy) for r in readers]  # fmt: skip
    while len(left) > stop:
        costs = np.sum([reader.costs(left) for reader in own], axis=0)
        count = min(max(1, len(left) // _AT_ONCE), len(left) - stop)
        worst = np.argsort(costs, kind="stable")[:count]
        order += left[worst].tolist()
        errors += costs[worst].tolist()
        for reader in own:
            reader.drop(left[worst])
        left = np.delete(left, worst)
    return Ranking(np.array([*order, *left], np.int64), np.array([*errors, *[np.inf] * len(left)]))
