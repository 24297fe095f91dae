"""Which input rows of a layer count most when it is refitted: those that the answer hangs on.

Calibration rows that the model is unsure of. The Hessian of the KL divergence to the model's own
distribution ``p`` over classes is ``diag(p) - p pᵀ`` in its logits, with trace ``1 - Σ p²``: an
error on a row whose class is certain costs next to nothing, one on a row between two classes may
change the answer. So half of a row's weight is its share of that.

Places that win. What a convolution gives at places that the pooling after it passes over does not
reach the output, so a place counts as often as the pooling takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto

from mlflow_compress.techniques.graph.layers import LinearLayer, linear_layers
from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.graph.walk import clone, unique_name, value_names

__all__ = ["Focus"]

_CERTAIN = 1e-6
"""Models that are surer than this of every row are not unsure of any more than of others."""

_WIN_BYTES = 1 << 28
"""What is known of places is kept in so many bytes at most; other layers' places count alike."""

_POOLS = frozenset({"MaxPool", "GlobalMaxPool"})

_PLACEWISE = frozenset(
    {
        "Add", "BatchNormalization", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid",
        "HardSwish", "Identity", "LeakyRelu", "Mul", "PRelu", "Relu", "Selu", "Sigmoid", "Slice",
        "Softplus", "Squeeze", "Sub", "Tanh",
    }
)  # fmt: skip
"""What may stand between a convolution and its pooling; the number of places must stay."""


@dataclass
class Focus:
    """How much the input rows of layers count, batch by batch.

    Attributes:
        rows: a weight of at least a half for each calibration row, with a mean of 1; None when
            all count alike, because no output is of [rows, classes].
        wins: for weights of pooled convolutions, how often each place is taken, [places].
    """

    rows: list[np.ndarray] | None = None
    wins: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto, fed: Sequence[Mapping[str, np.ndarray]]) -> "Focus":
        """Run the model to match on calibration inputs, given in batches."""
        names = [value.name for value in model.graph.output]
        pools = _pooled(model)
        model, taken = _with_indices(model, pools)
        opened, focus = session(model), cls()
        wanted = [*names, *(value for values in taken.values() for value in values)]
        unsure: list[np.ndarray] | None = []
        left = _WIN_BYTES
        for batch in fed:
            made = dict(zip(wanted, run(opened, wanted, batch), strict=True))
            part = _unsure(batch, [made[name] for name in names])
            unsure = None if part is None or unsure is None else [*unsure, part]
            for weight, values in taken.items():
                wins = _wins([made[value] for value in values])
                left -= wins.nbytes
                focus.wins.setdefault(weight, []).append(wins)
            if left < 0:
                taken, focus.wins, wanted = {}, {}, names
        mean = float(np.concatenate(unsure).mean()) if unsure else 0.0
        if unsure and mean > _CERTAIN:
            focus.rows = [0.5 + 0.5 * part / mean for part in unsure]
        return focus

    def draw(
        self,
        layer: LinearLayer,
        activation: np.ndarray,
        kernel: Sequence[int],
        limit: int,
        rng: np.random.Generator,
        batch: int,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw about ``limit`` of a layer's input rows, and say how much each counts.

        Args:
            layer: the layer.
            activation: the value named ``source``, for a batch.
            kernel: the stored weight's shape.
            limit: at most so many are drawn.
            rng: draws them.
            batch: which batch it is.

        Returns:
            Sorted indices for :meth:`LinearLayer.rows`, of which some may be there twice, and
            their weights; None when they count alike.
        """
        count = layer.count(activation, kernel)
        wins = self.wins[layer.weight][batch] if layer.weight in self.wins else None
        weights: np.ndarray | None = None
        if wins is None or wins.size != count or not wins.any():
            chosen = layer.choose(activation, kernel, limit, rng)
        elif count > limit:
            share = wins / wins.sum(dtype=np.float64)
            chosen = np.sort(rng.choice(count, limit, p=share))
        else:
            chosen = np.flatnonzero(wins)
            weights = wins[chosen] / wins.mean(dtype=np.float64)
        of_rows = None if self.rows is None else _at(layer, count, chosen, self.rows[batch])
        if weights is None or of_rows is None:
            return chosen, of_rows if weights is None else weights
        return chosen, weights * of_rows


def _at(layer: LinearLayer, count: int, chosen: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Return the weights of the calibration rows that a layer's input rows come from."""
    if not rows.size or count % rows.size:
        return None
    if layer.steps_first:
        return np.asarray(rows[chosen % rows.size])
    return np.asarray(rows[chosen // (count // rows.size)])


def _unsure(batch: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return ``1 - Σ p²`` of the first output of [rows, classes]."""
    sizes = {len(array) if array.ndim else 0 for array in batch.values()}
    for scores in outputs:
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.ndim != 2:
            continue
        if scores.shape[1] < 2 or not np.isfinite(scores).all() or sizes != {len(scores)}:
            continue
        p = scores.astype(np.float64)
        if p.min(initial=0) < 0 or not np.allclose(p.sum(axis=1), 1, atol=1e-2):
            p = np.exp(p - p.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
        return np.asarray(1 - (p**2).sum(axis=1))
    return None


def _pooled(model: ModelProto) -> dict[str, NodeProto]:
    """Return the pooling that takes all that a convolution gives, by the convolution's weight."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    found = {}
    for layer in linear_layers(model):
        if layer.node.op_type == "Conv":
            pools = _reached(layer.node.output[0], readers, outputs)
            if len(pools) == 1:
                found[layer.weight] = pools[0]
    return found


def _reached(
    value: str, readers: Mapping[str, list[NodeProto]], outputs: set[str]
) -> list[NodeProto]:
    """Return the pools that a value reaches place by place; none if it reaches anything else."""
    pools: list[NodeProto] = []
    seen, waiting = {value}, [value]
    while waiting:
        name = waiting.pop()
        if name in outputs or name not in readers:
            return []
        for node in readers[name]:
            if node.op_type in _POOLS:
                if not any(node is pool for pool in pools):
                    pools.append(node)
            elif node.op_type in _PLACEWISE:
                waiting += [made for made in node.output if made and made not in seen]
                seen |= set(node.output)
            else:
                return []
    return pools


def _with_indices(
    model: ModelProto, pools: Mapping[str, NodeProto]
) -> tuple[ModelProto, dict[str, list[str]]]:
    """Give the pools' inputs, outputs and indices as outputs of the model.

    Returns:
        The model, and the names of what :func:`_wins` wants for each weight.
    """
    names = {weight: pool.output[0] for weight, pool in pools.items()}
    model = clone(model)
    taken = value_names(model)
    nodes = {node.output[0]: node for node in model.graph.node if node.op_type in _POOLS}
    wanted = {}
    for weight, name in names.items():
        node = nodes[name]
        values = [node.input[0], name]
        if node.op_type == "MaxPool":
            if len(node.output) < 2 or not node.output[1]:
                del node.output[1:]
                node.output.append(unique_name(f"{name}_indices", taken))
            values.append(node.output[1])
        wanted[weight] = values
    have = {value.name for value in model.graph.output}
    for name in dict.fromkeys(value for values in wanted.values() for value in values):
        if name not in have:
            model.graph.output.add().name = name
    return model, wanted


def _wins(values: Sequence[np.ndarray]) -> np.ndarray:
    """Count how often each place is taken, over all channels, rows first; 0 is not worth taking.

    Args:
        values: input and output of the pooling, and of a MaxPool the flat indices of what it took.
    """
    before, after = values[:2]
    places = int(np.prod(before.shape[2:]))
    if len(values) == 3:
        flat = values[2]
    else:
        best = before.reshape(*before.shape[:2], places).argmax(axis=2)
        flat = best + np.arange(best.size).reshape(best.shape) * places
    flat = flat.ravel()[after.ravel() != 0]
    row = flat // (before.shape[1] * places)
    counts = np.bincount(row * places + flat % places, minlength=len(before) * places)
    return np.minimum(counts, 65535).astype(np.uint16)
