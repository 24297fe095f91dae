"""Cross-layer equalization: brings the channels of neighbouring layers into like ranges.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
section 4.1. What makes a channel is divided by a factor and what reads it multiplied by the same
one. Between them lie only functions with f(s x) = s f(x) for s > 0, so that the model computes
what it did.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from mlflow_compress.techniques.base import Context
from mlflow_compress.techniques.channels.operators import HANDLERS
from mlflow_compress.techniques.channels.tracker import (
    Channels,
    Made,
    Tracker,
    find_channels,
    own_tensors,
)
from mlflow_compress.techniques.graph.running import check_unchanged
from mlflow_compress.techniques.graph.walk import (
    attributes_of,
    clone,
    initializers,
    node_label,
    set_initializer,
)

__all__ = ["equalize"]

_SWEEPS = 40
"""Chains of layers are swept so often at most; a sweep settles each group of channels once."""

_SETTLED = 1e-3

_WIDEST = 1e4
"""No channel is scaled by more than this at a time, or by less than its inverse."""


def equalize(model: ModelProto, context: Context) -> tuple[ModelProto, tuple[str, ...]]:
    """Return the model with equalized channels, and notes.

    Raises:
        TechniqueError: the outputs would change by more than rounding.
    """
    made = clone(model)
    own_tensors(made)
    channels = find_channels(made, _HANDLERS)
    count = _Sweeper.of(made, channels).run()
    if not count:
        reasons = dict.fromkeys(reason for reason in channels.frozen.values() if reason)
        return model, (": ".join(("no channels could be equalized", *list(reasons)[:1])),)
    check_unchanged(model, made, context.calibration, context.seed, "equalizing")
    return made, (f"{count} channels were equalized",)


@dataclass
class _Sweeper:
    """Weights while they are scaled.

    Attributes:
        model: the model to change.
        channels: how its channels hang together.
        arrays: values of the initializers that lie along channels.
        readers: weight → axis and channels of what it reads.
        makers: weight → axis and channels of what it makes.
        others: biases and the like, which lie along channels but set no range.
    """

    model: ModelProto
    channels: Channels
    arrays: dict[str, np.ndarray]
    readers: dict[str, tuple[int, np.ndarray]]
    makers: dict[str, tuple[int, np.ndarray]]
    others: list[tuple[str, int, np.ndarray]]

    @classmethod
    def of(cls, model: ModelProto, channels: Channels) -> "_Sweeper":
        """Sort out which tensor lies along which channels."""
        readers = {name: (k, channels.tensors[name][k]) for name, k in channels.readers.items()}
        makers = {name: (k, channels.tensors[name][k]) for name, k in channels.makers.items()}
        readers |= {name: (0, ins) for name, (ins, _) in channels.links.items()}
        makers |= {name: (0, outs) for name, (_, outs) in channels.links.items()}
        others = [
            (name, axis, numbers)
            for name, axes in channels.tensors.items()
            for axis, numbers in axes.items()
            if name not in readers and name not in makers
        ]
        held = initializers(model)
        names = {*readers, *makers, *(name for name, _, _ in others)}
        arrays = {name: numpy_helper.to_array(held[name]).astype(np.float64) for name in names}
        return cls(model, channels, arrays, readers, makers, others)

    def run(self) -> int:
        """Sweep until nothing changes, write the values back, and count the channels scaled."""
        groups = [group.channels for group in self.channels.free]
        size = 1 + max((int(numbers.max()) for numbers in groups), default=0)
        free = np.zeros(size, bool)
        for numbers in groups:
            free[numbers] = True
        total = np.ones(size)
        for _ in range(_SWEEPS):
            most = 0.0
            for numbers in groups:
                factors = self._factors(numbers, size)
                self._scale(factors)
                total *= factors
                most = max(most, float(np.abs(np.log(factors)).max()))
            if most < _SETTLED:
                break
        changed = int((total[free] != 1).sum())
        held = initializers(self.model)
        for name, array in self.arrays.items() if changed else ():
            set_initializer(held[name], array)
        return changed

    def _factors(self, group: np.ndarray, size: int) -> np.ndarray:
        made, read = np.zeros(size), np.zeros(size)
        for found, ranges in ((self.makers, made), (self.readers, read)):
            for name, (axis, numbers) in found.items():
                inside = np.flatnonzero(np.isin(numbers, group))
                if inside.size:
                    rest = tuple(k for k in range(self.arrays[name].ndim) if k != axis)
                    top = np.abs(self.arrays[name]).max(axis=rest)
                    np.maximum.at(ranges, numbers[inside], top[inside])
        factors = np.ones(size)
        both = group[(made[group] > 0) & (read[group] > 0)]
        factors[both] = np.clip(np.sqrt(made[both] / read[both]), 1 / _WIDEST, _WIDEST)
        return factors

    def _scale(self, factors: np.ndarray) -> None:
        """Divide what makes channels, and their biases, by the factors, and multiply readers."""
        for name, axis, numbers, divide in self._places():
            here = np.where(
                numbers < len(factors), factors[np.minimum(numbers, len(factors) - 1)], 1
            )
            if (here == 1).all():
                continue
            array = self.arrays[name]
            here = here.reshape([-1 if k == axis else 1 for k in range(array.ndim)])
            self.arrays[name] = array / here if divide else array * here

    def _places(self) -> Iterator[tuple[str, int, np.ndarray, bool]]:
        for name, (axis, numbers) in self.readers.items():
            yield name, axis, numbers, False
        for name, (axis, numbers) in self.makers.items():
            yield name, axis, numbers, True
        for name, axis, numbers in self.others:
            yield name, axis, numbers, True


def _conv(t: Tracker, node: NodeProto) -> Made:
    """Let a depthwise layer make channels of its own: they may be scaled unlike its inputs."""
    weight, numbers = node.input[1], t.values.get(node.input[0], {}).get(1)
    group = attributes_of(node).get("group", 1)
    plain = weight in t.held and numbers is not None and weight not in t.links
    if group == 1 or not plain or list(t.held[weight].dims[:2]) != [group, 1]:
        return HANDLERS["Conv"](t, node)
    assert numbers is not None
    t.freeze_value(node.input[0], f"{node_label(node)} slides along it", but=(1,))
    made = t.fresh(group, weight)
    t.links[weight] = (numbers, made)
    if len(node.input) > 2 and node.input[2] and not t.claim(node, 2, 0, made):
        t.freeze(made, f"{node_label(node)} has a bias that is computed")
    return {node.output[0]: {1: made}}


def _gemm(t: Tracker, node: NodeProto) -> Made:
    made = HANDLERS["Gemm"](t, node)
    bias = node.input[2] if len(node.input) > 2 else ""
    if isinstance(made, dict) and bias and bias not in t.tensors and np.any(t.constant(bias)):
        for numbers in made[node.output[0]].values():
            t.freeze(numbers, f"{node_label(node)} adds one value to all outputs")
    return made


def _joined(t: Tracker, node: NodeProto) -> Made:
    """Sums and maxima: a factor passes when all that they join has it."""
    made = HANDLERS[node.op_type](t, node)
    if not isinstance(made, dict) or not any(made.values()):
        return made
    axes = set(made[node.output[0]])
    rank = max(t.rank(name) or 0 for name in node.input)
    for name in node.input:
        shift = rank - (t.rank(name) or 0)
        known = {k + shift for k in (t.tensors if name in t.held else t.values).get(name, {})}
        zero = name in t.held and not np.any(t.constant(name))
        if not (axes <= known or zero):
            return f"{node_label(node)} joins it with {name!r}, which cannot be scaled alike"
    return made


def _product(t: Tracker, node: NodeProto) -> Made:
    """Mul and Div by a constant, which stays as it is."""
    first, second = node.input
    if second not in t.held and node.op_type == "Mul":
        first, second = second, first
    if second not in t.held or first in t.held:
        return f"{node_label(node)} multiplies values"
    rank, other = t.rank(first), t.rank(second)
    if rank is None or other is None or other > rank:
        return f"{node_label(node)} has an input of unknown rank"
    return {node.output[0]: dict(t.values.get(first, {}))}


def _pad(t: Tracker, node: NodeProto) -> Made:
    value = node.input[2] if len(node.input) > 2 else ""
    constant = t.constant(value) if value else None
    if value and (constant is None or np.any(constant)):
        return f"{node_label(node)} pads with what is not zero"
    return HANDLERS["Pad"](t, node)


_PASSING = (
    "AveragePool", "Concat", "ConvTranspose", "Dropout", "Flatten", "Gather",
    "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Neg",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Shape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip

_HANDLERS = {
    **{name: HANDLERS[name] for name in _PASSING},
    "Abs": HANDLERS["Relu"],
    "Conv": _conv,
    "Gemm": _gemm,
    "Div": _product,
    "Mul": _product,
    "PRelu": HANDLERS["Relu"],
    "Pad": _pad,
    **dict.fromkeys(("Add", "Max", "Mean", "Min", "Sub", "Sum"), _joined),
}
"""Operators through which a positive factor passes, given that all they join has it."""
